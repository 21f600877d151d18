// Connects a page with a hub: in a SharedWorker, in the tab that leads, or in the page itself.

import { Hub } from "./hub.js";

/**
 * @typedef {import("./hub.js").FromPage} FromPage
 * @typedef {import("./hub.js").FromHub} FromHub
 *
 * @typedef {object} Link
 * @property {(message: FromPage) => void} say
 * @property {() => void} renew The hub does not answer: find or become another one.
 * @property {() => void} close
 *
 * @typedef {(message: FromHub) => void} Hear
 */

/** The hub is in this page and serves it alone. @param {Hear} hear @returns {Link} */
export function alone(hear) {
  // Like every other link, it delivers later: nobody is called back from within a call.
  const later = (/** @type {() => void} */ what) => queueMicrotask(what);
  const hub = new Hub((message) => later(() => hear(message)));
  return {
    say: (message) => later(() => hub.hear(message)),
    renew() {},
    close: () => later(() => hub.close()),
  };
}

/**
 * The hub is in a SharedWorker.
 *
 * @param {string} name @param {string} page @param {Hear} hear
 * @param {() => void} failed The worker cannot be loaded, so another link is needed.
 * @returns {Link}
 */
export function worker(name, page, hear, failed) {
  /** @type {MessagePort} */
  let port;
  let closed = false;
  const connect = () => {
    const shared = new SharedWorker(new URL("./worker.js", import.meta.url), { type: "module", name });
    shared.onerror = () => closed || failed();
    port = shared.port;
    port.onmessage = ({ data }) => closed || hear(data);
    port.postMessage({ page, kind: "knock" });
  };
  connect();
  return {
    say: (message) => port.postMessage(message),
    renew: connect,
    close() {
      closed = true;
      port.close();
    },
  };
}

/**
 * One of the tabs has the hub, and all speak over a BroadcastChannel. The tab that holds the lock
 * leads; when it is closed, the browser gives the lock to another one.
 *
 * @param {string} name @param {string} page @param {Hear} hear
 * @returns {Link}
 */
export function tabs(name, page, hear) {
  const channel = new BroadcastChannel(name);
  const end = new AbortController();
  /** @type {Hub | null} */
  let hub = null;

  /** A channel does not hear what it says itself. @param {FromPage | FromHub} message */
  const toHubs = (message) => {
    if (end.signal.aborted) return;
    channel.postMessage(message);
    queueMicrotask(() => hub?.hear(/** @type {FromPage} */ (message)));
  };
  /** @param {FromHub} message */
  const toPages = (message) => {
    if (end.signal.aborted) return;
    if (message.to !== page) channel.postMessage(message);
    if (message.to === page || message.to === "*") queueMicrotask(() => hear(message));
  };
  channel.onmessage = ({ data }) => {
    if (!("to" in data)) hub?.hear(data);
    else if (data.to === page || data.to === "*") hear(data);
  };

  /** @param {LockOptions} how Rejects when this page does not lead any more. */
  const lead = (how) =>
    navigator.locks.request(`${name} leader`, how, () => {
      const mine = (hub = new Hub(toPages));
      watchPages(mine, name);
      mine.announce();
      return new Promise((_, reject) => end.signal.addEventListener("abort", reject, { once: true }));
    });
  const lost = () => {
    hub?.close();
    hub = null;
  };
  const queue = () => {
    lead({ signal: end.signal }).catch(() => {
      lost();
      // This page was frozen and another one took the lock, so it waits for its turn again.
      if (!end.signal.aborted) queue();
    });
  };
  queue();
  toHubs({ page, kind: "knock" });
  return {
    say: toHubs,
    renew() {
      if (!hub) lead({ steal: true }).catch(lost);
    },
    close() {
      end.abort();
      channel.close();
    },
  };
}

/**
 * Lets a hub forget each page that is gone, also one that crashed: a page holds a lock of its name
 * for as long as it lives. Without locks (a page without TLS) only pages that say `bye` are forgotten.
 *
 * @param {Hub} hub @param {string} name
 * @param {(page: string) => void} [gone]
 */
export function watchPages(hub, name, gone) {
  const { locks } = globalThis.navigator ?? {};
  if (!locks) return;
  hub.came = (page) => {
    locks.request(`${name} page ${page}`, { mode: "shared" }, () => {
      hub.drop(page);
      gone?.(page);
    });
  };
}
