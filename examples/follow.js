// Follows channels with an EventSource, and adds what an EventSource lacks:
//
// - It notices a connection that died without a word: a laptop or phone slept, a network changed.
// - It comes back, with back-off, where an EventSource gives up for good: after any status but 200, and
//   in Chromium after a cut behind a service worker.
// - It gets a fresh ticket for each connection, where the gateway asks who listens and there is no cookie.
// - It keeps its own position. Behind a service worker that passes the stream through, Chromium sends
//   no Last-Event-ID, and the stream goes on from now, as if nothing had been missed. This notices,
//   and asks again.
//
//   import { follow } from "./follow.js";
//
//   const stop = follow("https://events.example.org/events?channel=orders", {
//     types: ["created", "paid"],             // event types to pass on, beside untyped events
//     event: (e) => console.log(e.type, e.data, e.lastEventId),
//     gap: (g) => reload(g.channel),          // events may be missing: load the state anew
//   });
//
// It runs in Node as well, with an EventSource of your choice as `source` (see the guide).

const CLOSED = 2; // EventSource.CLOSED, which not every implementation has as a static member.

export function follow(address, options = {}) {
  const {
    types = [],
    event, // Called with each event (a MessageEvent).
    gap, // Called with a gap's data: { channel, reason, after, oldest }.
    open, // Called at each answer's head: from now on the stream misses nothing, or a gap tells.
    start, // Called with where a stream starts: "now", or the id that it goes on after.
    withCredentials = false, // Whether cookies go to another origin.
    ticket, // An async function that answers a fresh ticket (POST /tickets); null ends it all: nobody is logged in.
    source: make = (url) => new EventSource(url, { withCredentials }),
    silence = 45_000, // A connection without a sign of life for so long is dead: three heartbeats.
    retry = 3_000, // The first wait where an EventSource gave up; each further one is twice as long.
  } = options;
  let source;
  let lastId = ""; // The position: what came up to here was passed on.
  let askedAfter = ""; // The position in the URL of the present source.
  let started = false; // The present connection has said where it starts.
  let lastSign = 0; // By the wall clock, which goes on while a laptop sleeps.
  let failures = 0;
  let timer = null;
  let stopped = false;
  let attempts = 0; // An attempt that waits for a ticket may be overtaken by a later one.

  async function connect() {
    clearTimeout(timer);
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
    const on = (type, handler) =>
      mine.addEventListener(type, (e) => {
        // A source that was given up may have had more to say.
        if (mine === source) handler(e);
      });
    on("open", (e) => {
      if ("data" in e) return; // An event that a publisher gave the type `open`.
      lastSign = Date.now();
      started = false;
      open?.();
    });
    // While an EventSource is CONNECTING it comes back by itself, after the gateway's `retry:`.
    // With a ticket it must not: the gateway tells a used one to stop.
    on("error", () => {
      if (ticket || mine.readyState === CLOSED) later();
    });
    // `alive` is the heartbeat of a stream that cannot have a checkpoint, while Redis is away.
    on("alive", () => {
      lastSign = Date.now();
      failures = 0;
    });
    for (const type of ["checkpoint", "gap", "message", ...types]) on(type, receive);
  }

  function receive(e) {
    lastSign = Date.now();
    failures = 0;
    const own = e.type === "checkpoint" || e.type === "gap";
    const told = own && e.data ? JSON.parse(e.data) : {};
    if (!started && !resumed(told)) return connect();
    started = true;
    if (e.lastEventId) lastId = e.lastEventId;
    if (e.type === "gap") gap?.(told);
    else if (!own) event?.(e);
    else if (told.from) start?.(told.from);
  }

  // Whether a connection goes on after the last id that was passed on. Its first block tells: it is a
  // checkpoint whose data says where the stream starts, or a gap that says after which id.
  function resumed({ from, after = from }) {
    if (!lastId || after === undefined || after === lastId) return true;
    if (askedAfter !== lastId) return false;
    // Asked by the URL, it does not resume either: something in between takes the parameter away.
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
  // Somebody looks at the page again: it comes back at once.
  const page = globalThis.document;
  const woken = () => page.visibilityState === "visible" && (timer || silent()) && connect();
  page?.addEventListener("visibilitychange", woken);
  function stop() {
    stopped = true;
    clearInterval(watchdog);
    clearTimeout(timer);
    page?.removeEventListener("visibilitychange", woken);
    source?.close();
    source = null;
  }
  connect();
  return stop;
}
