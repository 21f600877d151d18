// Keeps a page's state in step with channels: it loads the state, and applies each event that follows,
// without a hole between the two. After a gap it loads anew.
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
//     show: (orders) => table.replace(orders),            // the state as it was loaded
//     apply: (e) => table.update(e.type, JSON.parse(e.data)), // an event on top of it
//   });
//
// Events that come while the state is being loaded are held back, and applied behind it. They may be in
// it already, so `apply` must bear repetition: "order 17 is paid" does, "one more order" does not.

import { follow } from "./follow.js";

export function followState(address, options) {
  const {
    load, // Called with an AbortSignal; its promise gives the state.
    show, // Called with each state that was loaded.
    apply, // Called with each event that the state on show may not have yet.
    gap, // Called with each gap, for a log.
    failed = console.error, // Called with what went wrong; the state is loaded again.
    held: most = 1_000, // Past so many events held back, they are dropped and the state is loaded again.
    patience = 30_000, // A load that takes longer has failed.
    spread = 10_000, // After a gap that all clients are told, each waits a random part of this.
    ...others // Those of follow(): types, withCredentials, source, silence, retry.
  } = options;
  const { retry = 3_000 } = others;
  let held = []; // Events that wait for the state; null while the one on show is in step.
  let loading = null; // Aborts the load that is under way.
  let timer = null; // Set while a load is due.
  let shown = false; // There was a state.
  let covered = false; // A load was begun, or will be, since the present connection's head.
  let failures = 0;

  function reload(wait) {
    covered = true;
    held ??= [];
    loading?.abort();
    loading = null;
    // A load that is due already serves: several gaps in a row make one load.
    timer ??= setTimeout(attempt, wait);
  }

  async function attempt() {
    timer = null;
    const mine = (loading = new AbortController());
    const limit = setTimeout(() => again(mine, new Error(`not loaded in ${patience} ms`)), patience);
    try {
      const state = await load(mine.signal);
      // It may have been given up meanwhile: for a gap, for too many events, at the end.
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

  // One event that cannot be applied does not keep those behind it from being applied.
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
    // A load that begins from now on has them all.
    held = [];
    if (loading) again(loading, new Error(`more than ${most} events came during a load`));
  }

  const stop = follow(address, {
    ...others,
    event: receive,
    // The first state need not wait until the stream starts, which it does not while Redis is away.
    open() {
      covered = false;
      if (!shown && !loading && !timer) reload(0);
    },
    // A gateway that is full or stopping opens an answer, too, and ends it: what was loaded then is too old.
    start(from) {
      if (from === "now" && !covered) reload(0);
    },
    gap(told) {
      gap?.(told);
      // A channel with the policy `latest` leaves events out for slow readers; its newest says everything.
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
