// Keeps a page's state in step with channels: it loads the state and applies each event after it,
// without a hole between the two. After a gap it loads the state again.
//
//   import { followState } from "./state.js";
//
//   const stop = followState("https://events.example.org/events?channel=orders", {
//     types: ["created", "paid"],
//     load: async (signal) => {
//       const answer = await fetch("/api/orders", { signal });
//       if (!answer.ok) throw new Error(`/api/orders: ${answer.status}`);
//       return answer.json();
//     },
//     show: (orders) => table.replace(orders),            // the loaded state
//     apply: (e) => table.update(e.type, JSON.parse(e.data)), // an event after it
//   });
//
// Events that arrive during a load wait, and are applied after it. The state may contain them
// already, so `apply` must tolerate repetition: "order 17 is paid" does, "one more order" does not.
//
// It follows an address by follow.js, which it needs beside itself, or whatever it is given in place
// of the address: a function that takes handlers and returns one that ends the following. A client of
// client.js has this as `client.followState({ channels, ... })`.

import { follow } from "./follow.js";

/**
 * @typedef {import("./follow.js").Handlers} Handlers
 * @typedef {(handlers: Handlers) => () => void} Follow
 */

/**
 * @template S The state.
 * @typedef {object} StateOptions
 * @property {(signal: AbortSignal) => Promise<S>} load Loads the state.
 * @property {(state: S) => void} show Called with each loaded state.
 * @property {(event: any) => void} apply Called with each event that the shown state may not contain yet.
 * @property {(gap: any) => void} [gap] Called with each gap, for a log.
 * @property {(error: unknown) => void} [failed] Called with each error; the state is loaded again.
 * @property {number} [held] If more events wait for a load, they are dropped and it starts again: 1,000.
 * @property {number} [patience] A load that takes longer has failed, in milliseconds: 30,000.
 * @property {number} [spread] After a gap that all clients get, each waits a random part of this, in
 *   milliseconds: 10,000.
 * @property {number} [retry] The first wait after a failed load, in milliseconds; each further one
 *   doubles: 3,000.
 */

/**
 * @template S
 * @param {string | Follow} source
 * @param {StateOptions<S> & import("./follow.js").FollowOptions} options With an address, those of
 *   `follow` too.
 * @returns {() => void} Ends it.
 */
export function followState(source, options) {
  const {
    load,
    show,
    apply,
    gap,
    failed = console.error,
    held: most = 1_000,
    patience = 30_000,
    spread = 10_000,
    ...others
  } = options;
  const { retry = 3_000 } = others;
  /** @type {Follow} */
  const listen =
    typeof source === "function" ? source : (handlers) => follow(source, { ...others, ...handlers });
  /** @type {any[] | null} */
  let held = []; // Events that wait for a load; null while the shown state is in step.
  /** @type {AbortController | null} */
  let loading = null; // Aborts the current load.
  /** @type {ReturnType<typeof setTimeout> | null} */
  let timer = null; // Set while a load is due.
  let shown = false; // Whether a state was shown.
  let covered = false; // Whether a load started, or is due, since the current connection's head.
  let failures = 0;

  /** @param {number} wait Milliseconds. */
  function reload(wait) {
    covered = true;
    held ??= [];
    loading?.abort();
    loading = null;
    // Several gaps in a row need only one load.
    timer ??= setTimeout(attempt, wait);
  }

  async function attempt() {
    timer = null;
    const mine = (loading = new AbortController());
    const limit = setTimeout(() => again(mine, new Error(`not loaded in ${patience} ms`)), patience);
    try {
      const state = await load(mine.signal);
      // A gap, too many events or the end may have aborted this load in the meantime.
      if (mine === loading) show(state);
      if (mine === loading) caughtUp();
    } catch (error) {
      again(mine, error);
    } finally {
      clearTimeout(limit);
    }
  }

  function caughtUp() {
    const waited = held ?? [];
    loading = held = null;
    shown = true;
    failures = 0;
    waited.forEach(pass);
  }

  /** @param {AbortController} mine @param {unknown} error */
  function again(mine, error) {
    if (mine !== loading) return;
    mine.abort();
    loading = null;
    failed(error);
    const wait = Math.min(30_000, retry * 2 ** failures++) * (0.5 + Math.random());
    timer = setTimeout(attempt, wait);
  }

  // If one event cannot be applied, the next ones still are.
  /** @param {any} e */
  function pass(e) {
    try {
      apply(e);
    } catch (error) {
      failed(error);
    }
  }

  /** @param {any} e */
  function receive(e) {
    if (!held) return pass(e);
    if (held.length < most) return void held.push(e);
    // A load that starts from now on contains all of them.
    held = [];
    if (loading) again(loading, new Error(`more than ${most} events came during a load`));
  }

  const stop = listen({
    event: receive,
    // The first load need not wait until the stream starts, which takes until Redis is back.
    open() {
      covered = false;
      if (!shown && !loading && !timer) reload(0);
    },
    // A full or stopping gateway also opens an answer, and ends it. A state loaded then is too old.
    start(from) {
      if (from === "now" && !covered) reload(0);
    },
    gap(told) {
      gap?.(told);
      // With the policy `latest`, a slow reader misses events, but the newest one says everything.
      if (told.reason === "conflated") return;
      const all = told.channel === "*" || told.reason === "reset";
      reload(shown && all ? Math.random() * spread : 0);
    },
  });
  return () => {
    stop();
    clearTimeout(timer ?? undefined);
    loading?.abort();
    loading = null;
  };
}
