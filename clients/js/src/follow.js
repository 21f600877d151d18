// Follows channels with an EventSource, and adds what an EventSource lacks:
//
// - It detects a dead connection that reported no error: a laptop slept, a network changed.
// - It reconnects, with back-off, where an EventSource gives up for good: after any status but 200,
//   and in Chromium after a cut behind a service worker.
// - It gets a fresh ticket for each connection, if the gateway needs one for lack of a cookie.
// - It keeps its own position. Behind a service worker that passes the stream through, Chromium
//   sends no Last-Event-ID, and the stream starts from now, as if the page had missed nothing. This
//   detects that and reconnects with the position.
//
//   import { follow } from "./follow.js";
//
//   const stop = follow("https://events.example.org/events?channel=orders", {
//     types: ["created", "paid"],             // event types to pass on, beside untyped events
//     event: (e) => console.log(e.type, e.data, e.lastEventId),
//     gap: (g) => reload(g.channel),          // events may be missing: load the state anew
//   });
//
// It also runs in Node, with an EventSource of your choice as `source` (see the guide).

const CLOSED = 2; // EventSource.CLOSED, which not every implementation has as a static member.

/**
 * What a follower is told.
 *
 * @typedef {object} Handlers
 * @property {(event: any) => void} [event] Called with each event (a MessageEvent).
 * @property {(gap: any) => void} [gap] Called with a gap's data: { channel, reason, after, oldest }.
 * @property {() => void} [open] Called at each answer's head. From then on, the stream misses nothing,
 *   or sends a gap.
 * @property {(from: string) => void} [start] Called with where a stream starts: "now", or the id that
 *   it starts after.
 *
 * @typedef {object} FollowOptions
 * @property {string[]} [types] Event types to pass on, beside untyped events.
 * @property {boolean} [withCredentials] Whether the browser sends cookies to another origin.
 * @property {() => Promise<string | null | undefined>} [ticket] Returns a fresh ticket (POST /tickets),
 *   or null to stop: nobody is logged in.
 * @property {(url: string) => any} [source] Makes an EventSource.
 * @property {number} [silence] A connection that is silent for so many milliseconds is dead: 45,000,
 *   three heartbeats.
 * @property {number} [retry] The first wait after an EventSource gave up, in milliseconds; each further
 *   one doubles: 3,000.
 */

/**
 * @param {string} address
 * @param {Handlers & FollowOptions} options
 * @returns {() => void} Ends it.
 */
export function follow(address, options = {}) {
  const { types = [], event, gap, open, start, withCredentials = false, ticket } = options;
  const { source: make = (url) => new EventSource(url, { withCredentials }) } = options;
  const { silence = 45_000, retry = 3_000 } = options;
  /** @type {any} */
  let source;
  let lastId = ""; // The position: every event up to it was passed on.
  let askedAfter = ""; // The position in the URL of the current source.
  let started = false; // Whether the current connection has said where it starts.
  let lastSign = 0; // In wall-clock time, which goes on while a laptop sleeps.
  let failures = 0;
  /** @type {ReturnType<typeof setTimeout> | null} */
  let timer = null;
  let stopped = false;
  let attempts = 0; // While one attempt waits for a ticket, a later one may overtake it.

  async function connect() {
    clearTimeout(timer ?? undefined);
    timer = null;
    source?.close();
    const url = new URL(address, globalThis.location?.href);
    if (lastId) url.searchParams.set("last_event_id", lastId);
    askedAfter = lastId;
    lastSign = Date.now();
    if (ticket) {
      const attempt = ++attempts;
      const fresh = await Promise.resolve(ticket()).catch(() => undefined);
      if (attempt !== attempts || stopped) return;
      if (fresh === null) return stop();
      if (!fresh) return later();
      url.searchParams.set("ticket", fresh);
    }
    const mine = (source = make(url.href));
    /** @type {(type: string, handler: (e: any) => void) => void} */
    const on = (type, handler) =>
      mine.addEventListener(type, (/** @type {any} */ e) => {
        // An abandoned source may still send events.
        if (mine === source) handler(e);
      });
    on("open", (e) => {
      if ("data" in e) return; // A publisher's event with the type `open`.
      lastSign = Date.now();
      started = false;
      open?.();
    });
    // While an EventSource is CONNECTING, it reconnects by itself, after the gateway's `retry:`.
    // With a ticket it must not, because the gateway answers a used ticket with a request to stop.
    on("error", () => {
      if (ticket || mine.readyState === CLOSED) later();
    });
    // While Redis is away, a stream may have no position for checkpoints; it sends `alive`.
    on("alive", () => {
      lastSign = Date.now();
      failures = 0;
    });
    for (const type of ["checkpoint", "gap", "message", ...types]) on(type, receive);
  }

  /** @param {any} e */
  function receive(e) {
    lastSign = Date.now();
    failures = 0;
    const own = e.type === "checkpoint" || e.type === "gap";
    const told = own && e.data ? JSON.parse(e.data) : {};
    if (!started && !resumed(told)) return void connect();
    started = true;
    if (e.lastEventId) lastId = e.lastEventId;
    if (e.type === "gap") gap?.(told);
    else if (!own) event?.(e);
    else if (told.from) start?.(told.from);
  }

  // Whether a connection resumes after the last id that was passed on. Its first block says so: a
  // checkpoint whose data names the start, or a gap that names the id before it.
  /** @param {{ from?: string, after?: string }} told */
  function resumed({ from, after = from }) {
    if (!lastId || after === undefined || after === lastId) return true;
    if (askedAfter !== lastId) return false;
    // The position in the URL had no effect, either: something in between removes the parameter.
    gap?.({ channel: "*", reason: "not_resumed", after: lastId });
    return true;
  }

  function later() {
    if (timer || stopped) return;
    source?.close();
    const wait = Math.min(30_000, retry * 2 ** failures++) * (0.5 + Math.random());
    timer = setTimeout(connect, wait);
  }

  const silent = () => Date.now() - lastSign > silence;
  const watchdog = setInterval(() => silent() && later(), silence / 9);
  // When the user looks at the page again, it reconnects at once.
  const page = globalThis.document;
  const woken = () => page?.visibilityState === "visible" && (timer || silent()) && connect();
  page?.addEventListener("visibilitychange", woken);
  // Safari brings a page back from its cache without the other event.
  globalThis.addEventListener?.("pageshow", woken);
  function stop() {
    stopped = true;
    clearInterval(watchdog);
    clearTimeout(timer ?? undefined);
    page?.removeEventListener("visibilitychange", woken);
    globalThis.removeEventListener?.("pageshow", woken);
    source?.close();
    source = null;
  }
  connect();
  return stop;
}
