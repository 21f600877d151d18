// The SharedWorker: one hub for all pages that name it alike.

import { Hub } from "./hub.js";
import { watchPages } from "./link.js";

/** @type {Map<string, MessagePort>} */
const ports = new Map();
const hub = new Hub((message) => ports.get(message.to)?.postMessage(message));
const scope = /** @type {{ name: string, onconnect: (event: MessageEvent) => void }} */ (
  /** @type {unknown} */ (globalThis)
);
watchPages(hub, scope.name, (page) => ports.delete(page));

scope.onconnect = ({ ports: [port] }) => {
  port.onmessage = ({ data }) => {
    ports.set(data.page, port);
    hub.hear(data);
    if (data.kind === "bye") ports.delete(data.page);
  };
};
