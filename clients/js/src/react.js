// Hooks for React 18 or newer. Each takes a client of client.js, made once for the page:
//
//   const client = createClient({ url: "https://events.example.org/events" });
//
//   function Orders() {
//     const orders = useChannelState(client, {
//       channels: ["orders"],
//       load: async (signal) => (await fetch("/api/orders", { signal })).json(),
//       reduce: (orders, e) => [...orders.filter((o) => o.id !== idOf(e)), JSON.parse(e.data)],
//     });
//     return orders.state?.map((order) => <Order key={order.id} order={order} />);
//   }

import { useEffect, useRef, useState, useSyncExternalStore } from "react";

/**
 * @typedef {import("./client.js").Client} Client
 * @typedef {import("./client.js").SubscribeOptions} SubscribeOptions
 */

/**
 * Listens to channels while the component is there. Handlers may change at every render. The
 * subscription is made anew only if the client, a channel or `lastEventId` changes.
 *
 * @param {Client} client
 * @param {SubscribeOptions} options
 */
export function useEvents(client, options) {
  const latest = useLatest(options);
  const channels = key(options.channels);
  const { lastEventId } = options;
  useEffect(() => {
    const subscription = client.subscribe({
      channels: JSON.parse(channels),
      lastEventId,
      event(e) {
        const { types, event } = latest.current;
        if (!types || types.includes(e.type)) event?.(e);
      },
      gap: (gap) => latest.current.gap?.(gap),
      open: () => latest.current.open?.(),
      start: (from) => latest.current.start?.(from),
      refused: (problem) => latest.current.refused?.(problem),
    });
    return () => subscription.close();
  }, [client, channels, lastEventId, latest]);
}

/**
 * @template S
 * @typedef {object} ChannelStateOptions
 * @property {string | string[]} channels
 * @property {string[]} [types] The event types to apply; all if absent.
 * @property {(signal: AbortSignal) => Promise<S>} load Loads the state.
 * @property {(state: S, event: import("./client.js").Event) => S} reduce Gives the state after an
 *   event. The state may contain the event already, so it must tolerate repetition.
 * @property {number} [spread] See state.js.
 */

/**
 * Keeps a state in step with channels: it is loaded once the stream is open, each event after it is
 * applied, and after a gap it is loaded again.
 *
 * @template S
 * @param {Client} client
 * @param {ChannelStateOptions<S>} options
 * @returns {{ state: S | undefined, error: unknown }} `state` is undefined until it is loaded;
 *   `error` is why the last load failed, and undefined once one succeeds.
 */
export function useChannelState(client, options) {
  const latest = useLatest(options);
  const channels = key(options.channels);
  const types = options.types && key(options.types);
  const { spread } = options;
  /** @typedef {{ state: S | undefined, error: unknown }} Shown */
  const [shown, setShown] = useState(/** @type {Shown} */ ({ state: undefined, error: undefined }));
  useEffect(() => {
    setShown({ state: undefined, error: undefined });
    return client.followState({
      channels: JSON.parse(channels),
      types: types && JSON.parse(types),
      ...(spread !== undefined && { spread }),
      load: (signal) => latest.current.load(signal),
      show: (state) => setShown({ state, error: undefined }),
      apply: (e) =>
        setShown((last) => ({ ...last, state: latest.current.reduce(/** @type {S} */ (last.state), e) })),
      failed: (error) => setShown((last) => ({ ...last, error })),
    });
  }, [client, channels, types, spread, latest]);
  return shown;
}

/**
 * What the stream does: "connecting", "open", "waiting", "failed" or "idle".
 *
 * @param {Client} client
 * @returns {import("./client.js").State}
 */
export function useConnection(client) {
  return useSyncExternalStore(client.onState, () => client.state, () => "idle");
}

/** @template T @param {T} value @returns {{ current: T }} */
function useLatest(value) {
  const latest = useRef(value);
  useEffect(() => {
    latest.current = value;
  });
  return latest;
}

/** A list that is equal has an equal key. @param {string | string[]} list */
const key = (list) => JSON.stringify([list].flat());
