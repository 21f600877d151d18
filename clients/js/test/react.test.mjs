// The hooks, in a real Chromium with the real React, in strict mode.

import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

import { browser, site } from "../../../lab/node/browser.mjs";
import { Gateway, Wire, eventually } from "../../../lab/node/processes.mjs";

const APP = `
  import { StrictMode, useState } from "react";
  import { createRoot } from "react-dom/client";
  import { createClient } from "./src/client.js";
  import { useChannelState, useConnection, useEvents } from "./src/react.js";

  const client = createClient({ url: new URLSearchParams(location.search).get("events"), longestWait: 200 });

  function Log({ channel }) {
    const [lines, setLines] = useState([]);
    const [gaps, setGaps] = useState(0);
    useEvents(client, {
      channels: [channel],
      event: (e) => setLines((lines) => [...lines, channel + "/" + e.channel + ":" + e.data]),
      gap: () => setGaps((n) => n + 1),
    });
    return <p id="log" data-gaps={gaps}>{lines.join(" ")}</p>;
  }

  function Orders() {
    const { state, error } = useChannelState(client, {
      channels: "orders",
      types: ["paid"],
      load: async (signal) => (await fetch("/orders", { signal })).json(),
      reduce: (paid, e) => [...new Set([...paid, Number(e.data)])],
    });
    return <p id="orders">{error ? "error" : state ? state.join(" ") : "loading"}</p>;
  }

  function App() {
    const [channel, setChannel] = useState("a");
    const [shown, setShown] = useState(true);
    Object.assign(window, { setChannel, setShown, client });
    return <>
      <p id="connection">{useConnection(client)}</p>
      {shown && <Log channel={channel} />}
      <Orders />
    </>;
  }
  createRoot(document.getElementById("app")).render(<StrictMode><App /></StrictMode>);`;

test("components hear their channels, keep a state in step, and let go of both", async () => {
  const chromium = await browser();
  const bundle = await build({
    stdin: { contents: APP, loader: "jsx", resolveDir: fileURLToPath(new URL("../", import.meta.url)) },
    bundle: true,
    format: "esm",
    jsx: "automatic",
    define: { "process.env.NODE_ENV": '"development"' },
    write: false,
  });
  const pages = await site({
    // Where the bundle looks for the worker.
    folders: { "/": fileURLToPath(new URL("../src/", import.meta.url)) },
    pages: {
      "/": '<!doctype html><link rel="icon" href="data:,"><div id="app"></div><script type="module" src="/app.js"></script>',
      "/app.js": { text: bundle.outputFiles[0].text, type: "text/javascript" },
      "/orders": { text: "[17]", type: "application/json" },
    },
  });
  const settings = { "cors.origins": pages.url, "history.max_len": "0" };
  const gateway = await Gateway.start({ settings });
  const wire = await Wire.to(gateway);
  const page = await chromium.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("console", (message) => message.type() === "error" && faults.push(message.text()));
  await page.goto(`${pages.url}/?events=${encodeURIComponent(wire.events)}`);
  const shows = (id, text) =>
    eventually(`${id} shows ${text}`, async () => (await page.textContent(`#${id}`)) === text);

  await shows("connection", "open");
  await shows("orders", "17");
  assert.equal(await page.evaluate("client.share"), "worker");
  await gateway.publish("a", "1");
  await gateway.publish("orders", "18", { event: "paid" });
  await gateway.publish("orders", "19", { event: "created" });
  await shows("log", "a/a:1");
  await shows("orders", "17 18");

  await page.evaluate("setChannel('b')");
  await eventually("the page listens to b", async () => {
    const answer = await (await fetch(`${gateway.url}/channels/b`)).json();
    return answer.subscribers === 1;
  });
  await gateway.publish("a", "2");
  await gateway.publish("b", "3");
  await shows("log", "a/a:1 b/b:3");
  assert.equal(await gateway.live(), 1);

  // Without a history, what was missed is loaded again.
  pages.pages["/orders"] = { text: "[17,18,20]", type: "application/json" };
  wire.cut();
  await shows("connection", "waiting");
  await gateway.publish("orders", "20", { event: "paid" });
  wire.moveTo(gateway);
  await shows("orders", "17 18 20");
  await eventually("the gap was told", async () => (await page.getAttribute("#log", "data-gaps")) !== "0");

  await page.evaluate("setShown(false)");
  await eventually("nobody listens to b", async () => {
    const answer = await (await fetch(`${gateway.url}/channels/b`)).json();
    return answer.subscribers === 0;
  });
  // The browser reports the cut by itself.
  assert.deepEqual(faults.filter((fault) => !/net::ERR_/.test(fault)), []);
});
