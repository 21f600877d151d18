// Listens once for many pages: one stream of all channels that any of them wants.
//
// It runs in a SharedWorker, in the tab that leads, or in the only page there is; see link.js. Each
// page keeps the positions of its own subscriptions, so a hub that takes over from another one can
// go on where each page stands, and no page hears an event twice.

import { oldest } from "./position.js";
import { Stream } from "./stream.js";

/**
 * What a page wants to hear. `after` is where the page stands; null is "from now".
 *
 * @typedef {object} Wish
 * @property {number} id
 * @property {string[]} channels
 * @property {string | null} after
 * @property {boolean} [served] Whether the stream serves it. Only the hub sets that.
 *
 * What pages say to a hub. `page` names the page.
 *
 * @typedef {{ page: string } & (
 *   | { kind: "knock" }
 *   | { kind: "hello", settings: import("./stream.js").Settings, wishes: Wish[] }
 *   | { kind: "wish", wish: Wish }
 *   | { kind: "unwish", id: number }
 *   | { kind: "wake" }
 *   | { kind: "ping" }
 *   | { kind: "again" }
 *   | { kind: "token", ask: number, token?: string | null, error?: string }
 *   | { kind: "bye" }
 * )} FromPage
 *
 * What a hub says to pages. `to` names the page, or is "*" for all; `hub` names the hub.
 *
 * @typedef {{ to: string, hub: string } & (
 *   | { kind: "welcome" }
 *   | { kind: "awake" }
 *   | { kind: "joined", id: number, after: string }
 *   | { kind: "open", ids: number[] }
 *   | { kind: "start", from: string, position: string | null, ids: number[] }
 *   | { kind: "event", ids: number[], event: import("./stream.js").Event }
 *   | { kind: "gap", ids: number[], gap: import("./stream.js").Gap, position: string | null }
 *   | { kind: "position", ids: number[], position: string }
 *   | { kind: "state", state: import("./stream.js").State, problem?: import("./stream.js").Problem }
 *   | { kind: "refused", ids: number[], problem: import("./stream.js").Problem }
 *   | { kind: "ask", ask: number, refused: boolean }
 * )} FromHub
 */

const SETTLE = 20; // Milliseconds: components that are made together need one new stream.
const LINGER = 5_000; // Milliseconds for which a channel that nobody wants is still listened to.
const PATIENCE = 10_000; // Milliseconds that a page may take to give a token.

export class Hub {
  /** Later hubs have greater names, so that pages know which of two is the new one. */
  name = `${String(Date.now()).padStart(15, "0")}-${Math.random().toString(36).slice(2)}`;
  /** @type {((page: string) => void) | undefined} Called with each page that comes. */
  came;
  #say;
  /** @type {Map<string, Map<number, Wish>>} The wishes of each page; the page last looked at is last. */
  #pages = new Map();
  /** @type {Stream | null} */
  #stream = null;
  /** @type {Set<string>} The channels of the stream. */
  #channels = new Set();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #change;
  #changeAt = Infinity;
  /** @type {Map<number, (answer: { token?: string | null, error?: string }) => void>} */
  #asks = new Map();
  #lastAsk = 0;

  /** @param {(message: FromHub) => void} say Delivers a message to its page. */
  constructor(say) {
    this.#say = say;
  }

  /** @param {FromPage} message */
  hear(message) {
    const { page } = message;
    const wishes = this.#pages.get(page);
    if (message.kind === "hello") return this.#hello(message);
    if (message.kind === "bye") return this.drop(page);
    if (!wishes || message.kind === "knock") return this.#tell(page, { kind: "welcome" });
    if (message.kind === "wish") this.#wish(page, wishes, message.wish);
    else if (message.kind === "unwish") this.#unwish(wishes, message.id);
    else if (message.kind === "token") this.#asks.get(message.ask)?.(message);
    else if (message.kind === "again") this.#open(true);
    else if (message.kind === "wake") this.#wake(page, wishes);
    else this.#tell(page, { kind: "awake" });
  }

  /** Forgets a page that is gone. @param {string} page */
  drop(page) {
    if (this.#pages.delete(page)) this.#plan(LINGER);
  }

  /** Says that this hub is there, to every page that can hear it. */
  announce() {
    this.#tell("*", { kind: "welcome" });
  }

  /** Ends for good. */
  close() {
    this.#say = () => {};
    clearTimeout(this.#change);
    this.#pages.clear();
    this.#stream?.close();
  }

  /** @typedef {FromHub extends infer M ? M extends FromHub ? Omit<M, "to" | "hub"> : never : never} Said */

  /** @param {string} to @param {Said} message */
  #tell(to, message) {
    this.#say(/** @type {FromHub} */ ({ ...message, to, hub: this.name }));
  }

  /**
   * Tells each page what concerns some of its wishes.
   *
   * @param {(wish: Wish) => boolean | undefined} concerned
   * @param {Said} message A message with `ids`, which are filled in.
   */
  #tellWishes(concerned, message) {
    for (const [page, wishes] of this.#pages) {
      const ids = [...wishes.values()].filter(concerned).map((wish) => wish.id);
      if (ids.length > 0) this.#tell(page, /** @type {Said} */ ({ ...message, ids }));
    }
  }

  #wishes() {
    return [...this.#pages.values()].flatMap((wishes) => [...wishes.values()]);
  }

  /** @param {Extract<FromPage, { kind: "hello" }>} message */
  #hello({ page, settings, wishes }) {
    this.#stream ??= this.#made(settings);
    /** @type {Map<number, Wish>} */
    const known = new Map();
    if (!this.#pages.has(page)) this.came?.(page);
    this.#pages.set(page, known);
    this.#tell(page, { kind: "state", state: this.#stream.state });
    for (const wish of wishes) this.#wish(page, known, wish);
    this.#plan(LINGER); // The page may want less than before.
  }

  /** @param {string} page @param {Map<number, Wish>} wishes @param {Wish} wish */
  #wish(page, wishes, wish) {
    const { state, position } = /** @type {Stream} */ (this.#stream);
    wishes.set(wish.id, (wish = { ...wish, served: false }));
    const covered = wish.channels.every((channel) => this.#channels.has(channel));
    const late = wish.after !== null && wish.after !== position;
    if (state !== "open" || !covered || position === null || late) return this.#plan(SETTLE);
    this.#join(page, wish, position);
    wish.served = true;
    this.#tell(page, { kind: "open", ids: [wish.id] });
    this.#tell(page, { kind: "start", ids: [wish.id], from: position, position });
  }

  /** @param {Map<number, Wish>} wishes @param {number} id */
  #unwish(wishes, id) {
    if (wishes.delete(id)) this.#plan(LINGER);
  }

  /** @param {string} page @param {Map<number, Wish>} wishes */
  #wake(page, wishes) {
    this.#pages.delete(page);
    this.#pages.set(page, wishes);
    this.#tell(page, { kind: "awake" });
    this.#stream?.wake();
  }

  /**
   * A wish "from now" begins here: what the stream repeats for others is not for this one.
   *
   * @param {string} page
   * @param {Wish} wish
   * @param {string} position
   */
  #join(page, wish, position) {
    if (wish.after !== null) return;
    wish.after = position;
    this.#tell(page, { kind: "joined", id: wish.id, after: position });
  }

  /** @param {string} position */
  #joinAll(position) {
    for (const [page, wishes] of this.#pages) {
      for (const wish of wishes.values()) this.#join(page, wish, position);
    }
  }

  /** Opens the stream anew after so many milliseconds, or sooner. @param {number} wait */
  #plan(wait) {
    const at = Date.now() + wait;
    if (at >= this.#changeAt) return;
    clearTimeout(this.#change);
    this.#changeAt = at;
    this.#change = setTimeout(() => this.#open(), wait);
  }

  /** Opens the stream that serves all wishes, if it is another one. */
  #open(again = false) {
    clearTimeout(this.#change);
    this.#changeAt = Infinity;
    const stream = /** @type {Stream} */ (this.#stream);
    const wishes = this.#wishes();
    const channels = new Set(wishes.flatMap((wish) => wish.channels));
    const more = wishes.filter((wish) => !wish.served);
    const same = channels.size === this.#channels.size && [...channels].every((c) => this.#channels.has(c));
    if (same && more.length === 0 && !again) return;
    this.#channels = channels;
    if (channels.size === 0) return stream.close();
    if (stream.position !== null) this.#joinAll(stream.position);
    this.#goBack(stream, more);
    for (const wish of more) wish.served = stream.position !== null || wish.after === null;
    stream.open([...channels].sort());
  }

  /**
   * Moves the stream's position back to where the wishes begin. While one of them is "from now" and
   * nobody knows what id that is, the stream has to begin there.
   *
   * @param {Stream} stream @param {Wish[]} more
   */
  #goBack(stream, more) {
    const afters = more.map((wish) => wish.after);
    const known = afters.filter((after) => after !== null);
    if (known.length === 0 || known.length < afters.length) return;
    stream.position = oldest(stream.position === null ? known : [stream.position, ...known]);
  }

  /** @param {import("./stream.js").Settings} settings */
  #made(settings) {
    return new Stream(settings, {
      token: (refused) => this.#token(refused),
      open: () => this.#tellWishes((wish) => wish.served, { kind: "open", ids: [] }),
      start: (from, position) => this.#started(from, position),
      event: (event) => this.#event(event),
      gap: (gap, position) => {
        const concerned = (/** @type {Wish} */ wish) => gap.channel === "*" || wish.channels.includes(gap.channel);
        this.#tellWishes((wish) => wish.served && concerned(wish), { kind: "gap", ids: [], gap, position });
      },
      position: (position) => this.#tellWishes((wish) => wish.served, { kind: "position", ids: [], position }),
      state: (state, problem) => {
        for (const page of this.#pages.keys()) this.#tell(page, { kind: "state", state, problem });
      },
      denied: (problem) => this.#denied(problem),
    });
  }

  /** @param {string} from @param {string | null} position */
  #started(from, position) {
    if (position !== null) this.#joinAll(position);
    this.#tellWishes((wish) => wish.served, { kind: "start", ids: [], from, position });
    if (this.#wishes().some((wish) => !wish.served)) this.#plan(0);
  }

  /** @param {import("./stream.js").Event} event */
  #event(event) {
    const concerned = (/** @type {Wish} */ wish) => wish.served && wish.channels.includes(event.channel);
    this.#tellWishes(concerned, { kind: "event", ids: [], event });
  }

  /**
   * One channel is refused. Its wishes are over, and all others go on without it.
   *
   * @param {import("./stream.js").Problem} problem @returns {boolean}
   */
  #denied(problem) {
    const words = problem.detail.split(/\s+/);
    const refused = [...this.#channels].find((channel) => words.includes(channel));
    if (refused === undefined) return false;
    const concerned = (/** @type {Wish} */ wish) => wish.channels.includes(refused);
    this.#tellWishes(concerned, { kind: "refused", ids: [], problem });
    for (const wishes of this.#pages.values()) {
      for (const wish of wishes.values()) if (concerned(wish)) wishes.delete(wish.id);
    }
    this.#open();
    return true;
  }

  /** Asks pages for a token, the one that was looked at last first. @param {boolean} refused */
  async #token(refused) {
    let why = "no page gave a token";
    for (const page of [...this.#pages.keys()].reverse()) {
      const answer = await this.#ask(page, refused);
      if (answer.error === undefined) return answer.token;
      why = answer.error;
    }
    throw new Error(why);
  }

  /**
   * @param {string} page @param {boolean} refused
   * @returns {Promise<{ token?: string | null, error?: string }>}
   */
  async #ask(page, refused) {
    const ask = ++this.#lastAsk;
    let timer;
    const answer = await new Promise((resolve) => {
      this.#asks.set(ask, resolve);
      timer = setTimeout(() => resolve({ error: "the page gave no token in time" }), PATIENCE);
      this.#tell(page, { kind: "ask", ask, refused });
    });
    clearTimeout(timer);
    this.#asks.delete(ask);
    return answer;
  }
}
