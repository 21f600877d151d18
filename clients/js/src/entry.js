// One subscription of a page: where it stands, and what it is told.

import { isAfter } from "./position.js";

/**
 * @typedef {import("./stream.js").Event} Event
 * @typedef {import("./stream.js").Gap} Gap
 * @typedef {import("./stream.js").Problem} Problem
 */

/**
 * @typedef {object} Entry A subscription and where it stands.
 * @property {import("./client.js").SubscribeOptions & { channels: string[] }} wanted
 * @property {string | null} position
 * @property {boolean} opened
 */

/** @param {[number, Entry]} entry @returns {import("./hub.js").Wish} */
export function wish([id, { wanted, position }]) {
  return { id, channels: wanted.channels, after: position };
}

/** @param {Entry} entry @param {Event} event */
export function deliverEvent(entry, event) {
  if (event.id !== undefined) {
    // The stream went back for another subscription.
    if (!isAfter(event.id, entry.position)) return;
    entry.position = event.id;
  }
  const { types } = entry.wanted;
  if (!types || types.includes(event.type)) guarded(entry.wanted.event, event);
}

/** @param {Entry} entry @param {Gap} gap */
export function deliverGap(entry, gap) {
  // It concerns only those who stand before what is left.
  const past = gap.oldest !== undefined && entry.position !== null && !isAfter(gap.oldest, entry.position);
  if (past && gap.channel !== "*") return;
  // After a reset, ids may begin again anywhere.
  if (gap.channel === "*") entry.position = null;
  guarded(entry.wanted.gap, gap);
}

/**
 * One handler that throws must not stop the others.
 *
 * @template T
 * @param {((value: T) => void) | undefined} handler
 * @param {T} value
 */
export function guarded(handler, value) {
  try {
    handler?.(value);
  } catch (error) {
    if (typeof reportError === "function") reportError(error);
    else console.error(error);
  }
}

/** @param {Problem} problem */
export function unheard(problem) {
  console.error(`sse-gateway-client: ${problem.status} ${problem.detail}`);
}
