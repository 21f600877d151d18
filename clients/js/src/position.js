// Compares positions in a stream, which are event ids.

/**
 * Whether the event with the id `id` comes after the position `position`.
 *
 * Ids of a gateway have the form MILLISECONDS-SEQUENCE and rise; "0" is before all. If the two cannot be compared, the
 * answer is yes: a repetition does less harm than a loss.
 *
 * @param {string} id
 * @param {string | null} position
 * @returns {boolean}
 */
export function isAfter(id, position) {
  if (position === null) return true;
  const [a, b] = [parts(id), parts(position)];
  if (!a || !b) return true;
  return a[0] === b[0] ? a[1] > b[1] : a[0] > b[0];
}

/**
 * @param {string[]} positions At least one.
 * @returns {string}
 */
export function oldest(positions) {
  return positions.reduce((a, b) => (isAfter(a, b) ? b : a));
}

/**
 * @param {string} id
 * @returns {[bigint, bigint] | null}
 */
function parts(id) {
  const match = /^([0-9]+)-([0-9]+)$/.exec(id === "0" ? "0-0" : id);
  return match && [BigInt(match[1]), BigInt(match[2])];
}
