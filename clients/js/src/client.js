// What a page uses: subscriptions that share one stream, with all other tabs where that is possible.
//
//   import { createClient } from "sse-gateway-client";
//
//   const client = createClient({ url: "https://events.example.org/events" });
//   const subscription = client.subscribe({
//     channels: ["orders"],
//     event: (e) => console.log(e.channel, e.type, e.data, e.id),
//     gap: (g) => reload(g.channel),          // events may be missing: load the state anew
//   });
//   subscription.close();

import { deliverEvent, deliverGap, guarded, unheard, wish } from "./entry.js";
import { alone, tabs, worker } from "./link.js";
import { isAfter } from "./position.js";
import { followState } from "./state.js";

/**
 * @typedef {import("./entry.js").Entry} Entry
 * @typedef {import("./stream.js").Event} Event
 * @typedef {import("./stream.js").Gap} Gap
 * @typedef {import("./stream.js").Problem} Problem
 * @typedef {import("./stream.js").State} State
 *
 * @typedef {string | null | undefined} Token null if nobody is logged in.
 *
 * @typedef {object} ClientOptions
 * @property {string} url The gateway's `/events`; relative to the page.
 * @property {(context: { refused: boolean }) => Token | Promise<Token>} [token] Gives a bearer token,
 *   at every connection. `refused` says that the gateway refused the last one. null stops the stream.
 * @property {string} [key] Whose stream it is, such as the user's id. Tabs with another key do not
 *   share it.
 * @property {"auto" | "worker" | "tabs" | "none"} [share] How tabs share the stream; "auto" chooses a
 *   SharedWorker, else a BroadcastChannel, else each tab has its own.
 * @property {boolean} [withCredentials] Whether cookies are sent to another origin.
 * @property {number} [silence] Milliseconds of silence after which a connection counts as dead; 45,000,
 *   three heartbeats.
 * @property {number} [longestWait] The longest pause between two attempts, in milliseconds; 30,000.
 * @property {(state: State, problem?: Problem) => void} [state] Called when the stream's state changes.
 *
 * @typedef {object} Handlers
 * @property {(event: Event) => void} [event] Called with each event, in order.
 * @property {(gap: Gap) => void} [gap] Called where events may be missing.
 * @property {() => void} [open] From here on the subscription misses nothing, or is told of a gap.
 *   Called at each connection.
 * @property {(from: string) => void} [start] Where a connection begins: "now", or the id after which
 *   it goes on.
 * @property {(problem: Problem) => void} [refused] The gateway refuses one of the channels, and the
 *   subscription is over.
 *
 * @typedef {object} Wanted
 * @property {string | string[]} channels
 * @property {string[]} [types] The event types to pass on; all if absent.
 * @property {string | null} [lastEventId] Where to begin: an id, "0" for the oldest event that is
 *   kept; from now if absent.
 *
 * @typedef {Wanted & Handlers} SubscribeOptions
 *
 * @typedef {object} Subscription
 * @property {string | null} lastEventId Where it stands.
 * @property {() => void} close
 *
 * @typedef {object} Client
 * @property {State} state
 * @property {Problem | undefined} problem Why it is waiting or has failed.
 * @property {"worker" | "tabs" | "none"} share How the stream is shared.
 * @property {(options: SubscribeOptions) => Subscription} subscribe
 * @property {<S>(options: Wanted & import("./state.js").StateOptions<S>) => () => void} followState
 *   Keeps a state in step with channels; see state.js. Returns a function that ends it.
 * @property {(listener: (state: State, problem?: Problem) => void) => () => void} onState Adds a listener;
 *   returns a function that takes it away.
 * @property {() => void} retry Tries again, at once, after a failure.
 * @property {() => void} close Ends all subscriptions.
 */

/** Another version of the messages must not meet an old worker. */
const PROTOCOL = 1;
const PING = 10_000; // Milliseconds between two looks whether the hub is there.
const PONG = 3_000; // Milliseconds that it may take to answer.

/** @param {ClientOptions} options @returns {Client} */
export function createClient(options) {
  return new Page(options);
}

/** One page's side: its subscriptions, where each stands, and the link to a hub. */
class Page {
  /** @type {State} */
  state = "idle";
  /** @type {Problem | undefined} */
  problem;
  /** @type {"worker" | "tabs" | "none"} */
  share;
  #id = `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
  #options;
  #settings;
  #name;
  /** @type {Map<number, Entry>} */
  #entries = new Map();
  #lastEntry = 0;
  #used = false; // A client without a subscription connects to nothing.
  #hub = ""; // The name of the hub that this page listens to.
  #lastHeard = 0;
  /** @type {import("./link.js").Link | null} */
  #link = null;
  /** @type {AbortController | null} Ends what holds only while the page is awake. */
  #awake = null;
  #closed = new AbortController();
  /** @type {Set<(state: State, problem?: Problem) => void>} */
  #listeners = new Set();

  /** @param {ClientOptions} options */
  constructor(options) {
    const { withCredentials = false, silence = 45_000, longestWait = 30_000, key = "" } = options;
    if (options.state) this.#listeners.add(options.state);
    this.#options = options;
    const credentials = withCredentials ? "include" : "same-origin";
    const url = absolute(options.url);
    this.#settings = /** @type {const} */ ({ url, credentials, silence, longestWait });
    this.#name = `sse-gateway-client ${PROTOCOL} ${credentials} ${url} ${key}`;
    this.share = chosen(options.share ?? "auto");
    this.#listenToThePage();
  }

  /** @param {SubscribeOptions} options @returns {Subscription} */
  subscribe(options) {
    const channels = [options.channels].flat();
    if (channels.length === 0) throw new TypeError("a subscription needs a channel");
    if (!/^https?:/.test(this.#settings.url)) throw new TypeError(`${this.#settings.url} is no absolute URL`);
    const id = ++this.#lastEntry;
    const entry = { wanted: { ...options, channels }, position: options.lastEventId ?? null, opened: false };
    this.#entries.set(id, entry);
    if (this.#hub) this.#say({ kind: "wish", wish: wish([id, entry]) });
    else if (!this.#used) this.#begin();
    return {
      get lastEventId() {
        return entry.position;
      },
      close: () => {
        if (this.#entries.delete(id) && this.#hub) this.#say({ kind: "unwish", id });
      },
    };
  }

  /** @type {Client["followState"]} */
  followState(options) {
    const { channels, types, lastEventId, ...others } = options;
    return followState((handlers) => {
      const subscription = this.subscribe({ channels, types, lastEventId, ...handlers });
      return () => subscription.close();
    }, others);
  }

  /** A function of its own, because React calls it without the client. @type {Client["onState"]} */
  onState = (listener) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  retry() {
    if (this.#hub) this.#say({ kind: "again" });
  }

  close() {
    this.#closed.abort();
    this.#entries.clear();
    this.#suspend();
    this.#is("idle");
  }

  /** @typedef {import("./hub.js").FromPage} FromPage */
  /** @typedef {FromPage extends infer M ? M extends FromPage ? Omit<M, "page"> : never : never} Said */

  /** @param {Said} message */
  #say(message) {
    this.#link?.say(/** @type {FromPage} */ ({ ...message, page: this.#id }));
  }

  /** A page that sleeps may be thrown away without a word, so it takes leave and comes back. */
  #listenToThePage() {
    const page = globalThis.document;
    if (!page) return;
    const { signal } = this.#closed;
    const wake = () => page.visibilityState === "visible" && this.#wake();
    page.addEventListener("visibilitychange", wake, { signal });
    addEventListener("online", wake, { signal });
    addEventListener("pagehide", () => this.#suspend(), { signal });
    page.addEventListener("freeze", () => this.#suspend(), { signal });
    const back = () => {
      if (this.#awake) wake();
      else if (this.#used) this.#begin();
    };
    addEventListener("pageshow", back, { signal });
    page.addEventListener("resume", back, { signal });
  }

  #wake() {
    if (!this.#hub) return;
    this.#say({ kind: "wake" });
    this.#expectAnswer();
  }

  #suspend() {
    if (!this.#awake) return;
    this.#say({ kind: "bye" });
    this.#awake.abort();
    this.#awake = null;
    this.#link?.close();
    this.#link = null;
    this.#hub = "";
  }

  /** Begins to listen. The page's lock comes first: whoever has none counts as gone. */
  #begin() {
    this.#used = true;
    const awake = (this.#awake = new AbortController());
    const { signal } = awake;
    const { locks } = globalThis.navigator ?? {};
    if (this.share === "none" || !locks) return this.#connect(signal);
    const held = locks.request(`${this.#name} page ${this.#id}`, { signal }, () => {
      this.#connect(signal);
      return new Promise((done) => signal.addEventListener("abort", done, { once: true }));
    });
    held.catch(() => {}); // It slept again before it had the lock.
  }

  /** @param {AbortSignal} signal */
  #connect(signal) {
    const hear = (/** @type {import("./hub.js").FromHub} */ message) => signal.aborted || this.#hear(message);
    this.#hub = "";
    this.#lastHeard = Date.now();
    if (this.share === "worker") {
      this.#link = worker(this.#name, this.#id, hear, () => signal.aborted || this.#noWorker(signal));
      const slow = setTimeout(() => this.#hub || this.#noWorker(signal), 2 * PONG);
      signal.addEventListener("abort", () => clearTimeout(slow));
    } else if (this.share === "tabs") {
      this.#link = tabs(this.#name, this.#id, hear);
    } else {
      this.#link = alone(hear);
      return this.#say({ kind: "knock" });
    }
    const ping = setInterval(() => {
      if (globalThis.document?.visibilityState === "hidden") return;
      this.#say({ kind: "ping" });
      this.#expectAnswer();
    }, PING);
    signal.addEventListener("abort", () => clearInterval(ping));
  }

  /**
   * The browser has SharedWorker and does not load ours: a policy forbids it, or modules.
   *
   * @param {AbortSignal} signal
   */
  #noWorker(signal) {
    if (signal.aborted || this.share !== "worker") return;
    this.#suspend();
    this.share = chosen("tabs");
    this.#begin();
  }

  /** Looks for another hub if this one says nothing for some seconds. */
  #expectAnswer() {
    const asked = Date.now();
    const awake = this.#awake;
    const silent = () => awake === this.#awake && this.#lastHeard < asked;
    setTimeout(() => {
      // What came while this thread was busy is heard before the second look.
      if (silent()) setTimeout(() => silent() && this.#link?.renew(), PONG / 10);
    }, PONG);
  }

  /** @param {import("./hub.js").FromHub} message */
  #hear(message) {
    // A hub that lost its lock while it was frozen may still speak.
    if (message.hub < this.#hub) return;
    this.#lastHeard = Date.now();
    if (message.kind === "welcome") return this.#hello(message.hub);
    if (message.hub !== this.#hub) return;
    if (message.kind === "state") this.#is(message.state, message.problem);
    else if (message.kind === "ask") this.#answer(message);
    else if (message.kind === "joined") this.#joined(message);
    else if ("ids" in message) {
      for (const id of message.ids) {
        const entry = this.#entries.get(id);
        if (entry) this.#deliver(id, entry, message);
      }
    }
  }

  /** @param {string} hub */
  #hello(hub) {
    this.#hub = hub;
    for (const entry of this.#entries.values()) {
      // The last hub had no position to give, so nobody knows what this subscription missed.
      const lost = entry.opened && entry.position === null;
      if (lost) guarded(entry.wanted.gap, { channel: "*", reason: "not_resumed", after: "" });
    }
    this.#say({ kind: "hello", settings: this.#settings, wishes: [...this.#entries].map(wish) });
  }

  /** @param {Extract<import("./hub.js").FromHub, { kind: "joined" }>} message */
  #joined({ id, after }) {
    const entry = this.#entries.get(id);
    if (entry) entry.position = after;
  }

  /**
   * @param {number} id @param {Entry} entry
   * @param {Extract<import("./hub.js").FromHub, { ids: number[] }>} message
   */
  #deliver(id, entry, message) {
    const { wanted } = entry;
    if (message.kind === "event") return deliverEvent(entry, message.event);
    if (message.kind === "gap") return deliverGap(entry, message.gap);
    if (message.kind === "open") {
      entry.opened = true;
      guarded(wanted.open, undefined);
    } else if (message.kind === "refused") {
      this.#entries.delete(id);
      guarded(wanted.refused ?? unheard, message.problem);
    } else {
      if (message.position !== null && isAfter(message.position, entry.position)) entry.position = message.position;
      if (message.kind === "start") guarded(wanted.start, message.from);
    }
  }

  /** @param {Extract<import("./hub.js").FromHub, { kind: "ask" }>} message */
  async #answer({ ask, refused }) {
    try {
      const token = await this.#options.token?.({ refused });
      this.#say({ kind: "token", ask, token });
    } catch (error) {
      this.#say({ kind: "token", ask, error: String(error) });
    }
  }

  /** @param {State} state @param {Problem} [problem] */
  #is(state, problem) {
    this.state = state;
    this.problem = problem;
    for (const listener of this.#listeners) listener(state, problem);
  }
}

/**
 * The address that a page means. A server that renders pages has none for a relative one, and needs
 * none, because it never subscribes.
 *
 * @param {string} url
 */
function absolute(url) {
  const { location } = globalThis;
  return location ? new URL(url, location.href).href : url;
}

/** @param {"auto" | "worker" | "tabs" | "none"} wanted @returns {"worker" | "tabs" | "none"} */
function chosen(wanted) {
  if (wanted === "none" || !globalThis.document) return "none";
  if (wanted !== "tabs" && typeof SharedWorker === "function") return "worker";
  const canLead = typeof BroadcastChannel === "function" && Boolean(globalThis.navigator?.locks);
  return canLead ? "tabs" : "none";
}
