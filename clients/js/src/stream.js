// One stream that stays open: it connects with `fetch`, resumes from its position after every end,
// and waits between attempts, longer after each failure.
//
// It notices a connection that died without a word, because a gateway sends a block at least every
// `stream.heartbeat`. It notices that something in between took the position away, because a stream's
// first block says where the stream begins.

import { Parser } from "./parser.js";

/**
 * An event of a channel.
 *
 * @typedef {object} Event
 * @property {string} channel
 * @property {string} type "message" if its publisher gave it none.
 * @property {string} data
 * @property {string | undefined} id undefined for a plain PUBLISH, which has no id.
 */

/**
 * A gap: events after `after` may be missing, of `channel` or, with "*", of any channel.
 *
 * @typedef {object} Gap
 * @property {string} channel
 * @property {string} reason One of the gateway's reasons, or "not_resumed": something between the
 *   gateway and this client took the position away.
 * @property {string} after
 * @property {string} [oldest] The oldest event that is kept, if there is one.
 */

/**
 * What stands in the way of a stream: a problem of the gateway (RFC 9457), or of our own with the
 * status 0.
 *
 * @typedef {object} Problem
 * @property {number} status
 * @property {string} type Such as "urn:sse-gateway:subscribe-denied"; "about:blank" if there is none.
 * @property {string} detail
 */

/**
 * - connecting: asks the gateway for the stream
 * - open: is subscribed
 * - waiting: comes back after a pause
 * - failed: does not come back by itself
 * - idle: has nothing to listen to
 *
 * @typedef {"connecting" | "open" | "waiting" | "failed" | "idle"} State
 */

/**
 * @typedef {object} Settings
 * @property {string} url The address of the stream, such as "https://events.example.org/events".
 * @property {RequestCredentials} credentials Whether `fetch` sends cookies.
 * @property {number} silence Milliseconds of silence after which a connection counts as dead.
 * @property {number} longestWait The longest pause between two attempts, in milliseconds.
 */

/**
 * @typedef {object} Handlers
 * @property {(refused: boolean) => Promise<string | null | undefined>} token Gives the bearer token;
 *   undefined if there is none, null if nobody is logged in. `refused` says that the last token was.
 * @property {() => void} open The stream is subscribed.
 * @property {(from: string, position: string | null) => void} start Where it begins: "now", or the
 *   id that it goes on after.
 * @property {(event: Event) => void} event
 * @property {(gap: Gap, position: string | null) => void} gap
 * @property {(position: string) => void} position Nothing is new up to here.
 * @property {(state: State, problem?: Problem) => void} state
 * @property {(problem: Problem) => boolean} [denied] Whether the stream can go on without the channel
 *   that was refused. Whoever says yes opens it again.
 */

const FIRST_WAIT = 3_000;
const RETRYABLE = new Set([408, 425, 429, 500, 502, 503, 504]);

export class Stream {
  /** @type {string | null} Every event up to it was passed on. */
  position = null;
  /** @type {State} */
  state = "idle";
  #settings;
  #handlers;
  /** @type {string[]} */
  #channels = [];
  /** @type {AbortController | null} The current attempt. */
  #attempt = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #watchdog;
  #retry = FIRST_WAIT;
  #failures = 0;
  #refused = 0;
  #lastSign = 0; // Wall-clock time, which goes on while a machine sleeps.
  #started = false;
  /** Whether it is subscribed and has no position: what comes after its end is lost. */
  #unplaced = false;

  /**
   * @param {Settings} settings
   * @param {Handlers} handlers
   */
  constructor(settings, handlers) {
    this.#settings = settings;
    this.#handlers = handlers;
  }

  /**
   * Opens the stream of these channels, in place of the one that is open, from the position.
   *
   * @param {string[]} channels
   */
  open(channels) {
    this.#channels = channels;
    this.#failures = this.#refused = 0;
    this.#watchdog ??= setInterval(() => {
      if (this.#silent()) this.#later(ours("the connection was silent for too long"));
    }, this.#settings.silence / 9);
    this.#connect();
  }

  /** Ends the stream and forgets its position. */
  close() {
    this.#stop("idle");
    this.position = null;
    this.#unplaced = false;
  }

  /** Gives up until it is opened again. @param {string} detail Why. */
  fail(detail) {
    this.#stop("failed", ours(detail));
  }

  /** The page is looked at again, or the network is back: no pause, no dead connection. */
  wake() {
    if (this.state === "waiting" || this.#silent()) this.#connect();
  }

  #silent() {
    const expected = this.state === "connecting" || this.state === "open";
    return expected && Date.now() - this.#lastSign > this.#settings.silence;
  }

  /** @param {State} state @param {Problem} [problem] */
  #is(state, problem) {
    if (state === this.state && !problem) return;
    this.state = state;
    this.#handlers.state(state, problem);
  }

  /** @param {State} state @param {Problem} [problem] */
  #stop(state, problem) {
    clearInterval(this.#watchdog);
    this.#watchdog = undefined;
    this.#cancel();
    this.#is(state, problem);
  }

  #cancel() {
    clearTimeout(this.#timer);
    this.#attempt?.abort();
    this.#attempt = null;
  }

  /**
   * @param {Problem} problem Why there is a pause.
   * @param {number} [least] The gateway's own word about its length, in milliseconds.
   */
  #later(problem, least = 0) {
    this.#cancel();
    // The gateway spreads its clients by `retry:`. Only later attempts need a spread of our own.
    const spread = this.#failures === 0 ? 1 : 0.5 + Math.random();
    const doubled = Math.min(this.#settings.longestWait, this.#retry * 2 ** this.#failures++);
    this.#timer = setTimeout(() => this.#connect(), Math.max(least, doubled * spread));
    this.#is("waiting", problem);
  }

  /** @returns {Promise<void>} */
  async #connect() {
    this.#cancel();
    const attempt = (this.#attempt = new AbortController());
    const over = () => attempt !== this.#attempt;
    let why = "the stream ended";
    this.#lastSign = Date.now();
    this.#started = false;
    this.#is("connecting");
    try {
      const token = await this.#handlers.token(this.#refused > 0);
      if (over()) return;
      if (token === null) return this.fail("nobody is logged in");
      const answer = await this.#ask(token, attempt.signal);
      if (over()) return;
      if (!isStream(answer)) return await this.#noStream(answer, over);
      this.#refused = 0;
      this.#lastSign = Date.now();
      this.#is("open");
      this.#handlers.open();
      await this.#read(answer, over);
    } catch (error) {
      // Not reached, cut off, or no token for now: the next attempt may succeed.
      why = String(error);
    }
    if (!over()) this.#later(ours(why));
  }

  /** @param {string | undefined} token @param {AbortSignal} signal */
  #ask(token, signal) {
    const url = new URL(this.#settings.url, globalThis.location?.href);
    for (const channel of this.#channels) url.searchParams.append("channel", channel);
    // A parameter needs no preflight, unlike the header Last-Event-ID of a script.
    if (this.position !== null) url.searchParams.set("last_event_id", this.position);
    if (this.#channels.length > 1) url.searchParams.set("annotate", "channel");
    /** @type {Record<string, string>} */
    const headers = { Accept: "text/event-stream" };
    if (token !== undefined) headers.Authorization = `Bearer ${token}`;
    const { credentials } = this.#settings;
    return fetch(url, { headers, credentials, cache: "no-store", signal });
  }

  /** @param {Response} answer @param {() => boolean} over */
  async #read(answer, over) {
    const asked = this.position;
    const unplaced = this.#unplaced;
    const parser = new Parser(
      (block) => over() || this.#block(block, asked, unplaced),
      (milliseconds) => (this.#retry = milliseconds),
    );
    const reader = /** @type {ReadableStream<Uint8Array>} */ (answer.body).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done || over()) return;
      this.#lastSign = Date.now();
      parser.push(value);
    }
  }

  /**
   * @param {import("./parser.js").Block} block
   * @param {string | null} asked The position that the gateway was asked to go on from.
   * @param {boolean} unplaced
   */
  #block(block, asked, unplaced) {
    this.#failures = 0;
    if (this.position === null) this.#unplaced = true;
    if (block.type === "alive") return;
    const own = block.type === "checkpoint" || block.type === "gap";
    const told = own && block.data ? JSON.parse(block.data) : {};
    const from = told.from ?? told.after;
    const first = !this.#started && from !== undefined;
    if (first && (asked === null ? unplaced : !goesOn(asked, from))) {
      const gap = { channel: "*", reason: "not_resumed", after: asked ?? "" };
      this.#handlers.gap(gap, block.id ?? null);
    }
    const event = own ? null : this.#event(block);
    if (event === undefined) return;
    if (block.id !== undefined) {
      this.position = block.id;
      this.#unplaced = false;
    }
    if (first) {
      this.#started = true;
      this.#handlers.start(from, this.position);
    }
    if (block.type === "gap") this.#handlers.gap(told, this.position);
    else if (event) this.#handlers.event(event);
    else if (block.id !== undefined) this.#handlers.position(block.id);
  }

  /**
   * Finds an event's channel: the first line of its data, if the gateway was asked for it.
   *
   * @param {import("./parser.js").Block} block
   * @returns {Event | undefined} undefined if this is no channel of ours.
   */
  #event(block) {
    if (this.#channels.length === 1) return { ...block, channel: this.#channels[0] };
    const end = block.data.indexOf("\n");
    const channel = block.data.slice(0, Math.max(end, 0));
    if (this.#channels.includes(channel)) return { ...block, channel, data: block.data.slice(end + 1) };
    this.fail("the gateway does not say which channel an event is of: it does not know annotate=channel");
    return undefined;
  }

  /** @param {Response} answer @param {() => boolean} over @returns {Promise<void>} */
  async #noStream(answer, over) {
    const problem = await problemOf(answer);
    if (over()) return;
    if (answer.status === 401 && this.#refused++ === 0) return this.#connect();
    const final = answer.status === 204 || (answer.status >= 400 && !RETRYABLE.has(answer.status));
    if (!final) return this.#later(problem, Number(answer.headers.get("Retry-After")) * 1000 || 0);
    if (answer.status === 403 && this.#handlers.denied?.(problem)) return;
    this.#stop("failed", problem);
  }
}

/** @param {string} detail @returns {Problem} */
const ours = (detail) => ({ status: 0, type: "about:blank", detail });

/**
 * Whether a stream that begins at `from` does so where it was asked to.
 *
 * @param {string} asked An id, or "0" for the oldest event that is kept.
 * @param {string} from
 */
const goesOn = (asked, from) => from === asked || (asked === "0" && from !== "now");

/** @param {Response} answer */
function isStream(answer) {
  const type = answer.headers.get("Content-Type") ?? "";
  return answer.status === 200 && type.startsWith("text/event-stream") && answer.body !== null;
}

/** @param {Response} answer @returns {Promise<Problem>} */
async function problemOf(answer) {
  const nothing = { type: "about:blank", detail: `the gateway answered ${answer.status}` };
  const told = await answer.json().catch(() => ({}));
  return { ...nothing, ...told, status: answer.status };
}
