// The pages in examples/browser, in a real Chromium, against a real gateway that comes and goes.

import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { browser, site } from "../../lab/node/browser.mjs";
import { Gateway, Wire, eventually, tokens } from "../../lab/node/processes.mjs";

const chromium = await browser();
const pages = await site({ folders: { "/": fileURLToPath(new URL("../../", import.meta.url)) } });

async function open(context, name, query) {
  const page = await context.newPage();
  await page.goto(`${pages.url}/examples/browser/${name}?${new URLSearchParams(query)}`);
  const shows = (selector, text) =>
    eventually(`${selector} shows ${text}`, async () => (await page.textContent(selector)).includes(text));
  await shows("#state", "open");
  return { page, shows };
}

/** Publishes before a cut, during it and after it; the page must show all three, once. */
async function survives(gateway, wire, tabs, token) {
  const publish = (data) => gateway.publish("demo", data, { token });
  const show = (text) => Promise.all(tabs.map((tab) => tab.shows("#events", text)));
  await publish("first");
  await show("first");
  wire.cut();
  await publish("second");
  wire.moveTo(gateway);
  await show("second");
  await publish("third");
  await show("third");
  for (const { page } of tabs) assert.equal(await page.locator("#events li").count(), 3);
}

test("a native EventSource comes back and resumes", async () => {
  const gateway = await Gateway.start({ settings: { "cors.origins": pages.url } });
  const wire = await Wire.to(gateway);
  const context = await chromium.newContext();
  const tab = await open(context, "eventsource.html", { events: wire.events, channel: "demo" });
  await survives(gateway, wire, [tab]);
  await gateway.publish("demo", "17", { event: "created" });
  await tab.shows("#events", "created 17");
  await context.close();
});

test("a page with a bearer token gets another one when its token is refused", async () => {
  const { make, settings } = tokens();
  const gateway = await Gateway.start({ settings: { "cors.origins": pages.url, ...settings } });
  const wire = await Wire.to(gateway);
  const context = await chromium.newContext();
  const token = await make({ subscribe: ["demo"], publish: ["demo"] });
  const tab = await open(context, "bearer.html", { events: wire.events, channel: "demo", token });
  await survives(gateway, wire, [tab], token);
  await context.close();
});

test("seven tabs share one stream", async () => {
  const gateway = await Gateway.start({ settings: { "cors.origins": pages.url } });
  const wire = await Wire.to(gateway);
  const context = await chromium.newContext();
  const query = { events: wire.events, channel: "demo" };
  const tabs = await Promise.all(Array.from({ length: 7 }, () => open(context, "tabs.html", query)));
  await tabs[0].shows("#share", "worker");
  assert.equal(await gateway.live(), 1);
  await survives(gateway, wire, tabs);
  await context.close();
});

test("follow.js and state.js keep a page's state in step without the rest of the module", async () => {
  const gateway = await Gateway.start({ settings: { "cors.origins": pages.url } });
  const wire = await Wire.to(gateway);
  const page = await chromium.newPage();
  await page.goto(`${pages.url}/examples/browser/tabs.html?events=${wire.events}&channel=unused`);
  await page.evaluate(async (url) => {
    const { followState } = await import("/clients/js/src/state.js");
    window.said = [];
    const [load, show, apply] = [async () => "loaded", (state) => said.push(state), (e) => said.push(e.data)];
    followState(url, { types: ["paid"], retry: 100, load, show, apply });
  }, `${wire.events}?channel=orders`);
  const said = (expected) =>
    eventually(`the page says ${expected}`, async () => (await page.evaluate("said.join()")) === expected);
  await said("loaded");
  await gateway.publish("orders", "17", { event: "paid" });
  await said("loaded,17");
  wire.cut();
  await gateway.publish("orders", "18", { event: "paid" });
  wire.moveTo(gateway);
  await said("loaded,17,18");
  await page.close();
});
