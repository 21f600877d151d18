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

import { follow } from "./follow.js";

export function followState(address, options) {
  const {
    load, // Called with an AbortSignal; returns a promise of the state.
    show, // Called with each loaded state.
    apply, // Called with each event that the shown state may not contain yet.
    gap, // Called with each gap, for a log.
    failed = console.error, // Called with each error; the state is loaded again.
    held: most = 1_000, // If more events wait for a load, they are dropped and it starts again.
    patience = 30_000, // A load that takes longer has failed.
    spread = 10_000, // After a gap that all clients get, each waits a random part of this.
    ...others // Those of follow(): types, withCredentials, source, silence, retry.
  } = options;
  const { retry = 3_000 } = others;
  let held = []; // Events that wait for a load; null while the shown state is in step.
  let loading = null; // Aborts the current load.
  let timer = null; // Set while a load is due.
  let shown = false; // Whether a state was shown.
  let covered = false; // Whether a load started, or is due, since the current connection's head.
  let failures = 0;

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
    const waited = held;
    loading = held = null;
    shown = true;
    failures = 0;
    waited.forEach(pass);
  }

  function again(mine, error) {
    if (mine !== loading) return;
    mine.abort();
    loading = null;
    failed(error);
    const wait = Math.min(30_000, retry * 2 ** failures++) * (0.5 + Math.random());
    timer = setTimeout(attempt, wait);
  }

  // If one event cannot be applied, the next ones still are.
  function pass(e) {
    try {
      apply(e);
    } catch (error) {
      failed(error);
    }
  }

  function receive(e) {
    if (!held) return pass(e);
    if (held.length < most) return held.push(e);
    // A load that starts from now on contains all of them.
    held = [];
    if (loading) again(loading, new Error(`more than ${most} events came during a load`));
  }

  const stop = follow(address, {
    ...others,
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
    clearTimeout(timer);
    loading?.abort();
    loading = null;
  };
}
