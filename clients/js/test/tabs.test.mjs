// Several tabs of a real Chromium share one stream of a real gateway: through a SharedWorker, and
// through the tab that leads where there is no SharedWorker.

import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { browser, site } from "../../../lab/node/browser.mjs";
import { Gateway, eventually, tokens } from "../../../lab/node/processes.mjs";

const PAGE = "<!doctype html><title>A page</title>";
const POLICY = { text: PAGE, headers: { "Content-Security-Policy": "worker-src 'none'" } };

const chromium = await browser();
const folders = { "/src/": fileURLToPath(new URL("../src/", import.meta.url)) };
const pages = await site({ folders, pages: { "/": PAGE, "/no-workers": POLICY, "/elsewhere": PAGE } });

/** A gateway that pages of the site may use. */
const gatewayForPages = (settings = {}) =>
  Gateway.start({ settings: { "cors.origins": pages.url, ...settings } });

/** A tab with a client and one subscription. */
class Tab {
  static async open(context, gateway, { channels = ["demo"], path = "/", ...options } = {}) {
    const tab = new Tab();
    tab.page = await context.newPage();
    await tab.page.goto(pages.url + path);
    await tab.listen(gateway, channels, options);
    return tab;
  }

  listen(gateway, channels, { token, ...options } = {}) {
    const begin = async ([url, channels, options, token]) => {
      const { createClient } = await import("/src/client.js");
      Object.assign(window, { heard: [], gaps: [], opens: 0, tokens: 0 });
      if (token) options.token = () => (window.tokens++, token);
      window.client = createClient({ url, ...options });
      client.subscribe({
        channels,
        event: (e) => heard.push(`${e.channel}: ${e.data}`),
        gap: (gap) => gaps.push(gap),
        open: () => window.opens++,
      });
    };
    return this.page.evaluate(begin, [gateway.events, channels, options, token]);
  }

  get(expression) {
    return this.page.evaluate(expression);
  }

  is(expression, value) {
    const text = JSON.stringify(value);
    return eventually(`${expression} is ${text}`, async () => JSON.stringify(await this.get(expression)) === text);
  }

  open() {
    return eventually("the tab's stream is open", () => this.get("opens > 0"));
  }

  /** Looks at the tab, as its user does. */
  lookAt() {
    return this.get("void document.dispatchEvent(new Event('visibilitychange'))");
  }
}

for (const share of ["worker", "tabs"]) {
  test(`${share}: more tabs than a browser opens connections share one stream`, async () => {
    const gateway = await gatewayForPages();
    const context = await chromium.newContext();
    const tabs = await Promise.all(Array.from({ length: 8 }, () => Tab.open(context, gateway, { share })));
    await Promise.all(tabs.map((tab) => tab.open()));
    assert.equal(await tabs[0].get("client.share"), share);
    assert.equal(await gateway.live(), 1);
    await gateway.publish("demo", "for all");
    await Promise.all(tabs.map((tab) => tab.is("heard", ["demo: for all"])));
    await context.close();
    await eventually("the stream ends with the last tab", async () => (await gateway.live()) === 0);
  });

  test(`${share}: tabs listen to different channels, and hear those alone`, async () => {
    const gateway = await gatewayForPages();
    const context = await chromium.newContext();
    const [a, both] = [
      await Tab.open(context, gateway, { share, channels: ["a"] }),
      await Tab.open(context, gateway, { share, channels: ["a", "b"] }),
    ];
    await Promise.all([a.open(), both.open()]);
    await gateway.publish("a", "1");
    await gateway.publish("b", "2");
    await both.is("heard", ["a: 1", "b: 2"]);
    await a.is("heard", ["a: 1"]);
    assert.equal(await gateway.live(), 1);
    await context.close();
  });

  test(`${share}: when tabs are closed or crash, the others go on and miss nothing`, async () => {
    const gateway = await gatewayForPages();
    const context = await chromium.newContext();
    const [first, second, third] = [
      await Tab.open(context, gateway, { share }),
      await Tab.open(context, gateway, { share, channels: ["demo", "second"] }),
      await Tab.open(context, gateway, { share }),
    ];
    await Promise.all([first, second, third].map((tab) => tab.open()));
    const published = [];
    const publish = async () => {
      await gateway.publish("demo", String(published.length));
      published.push(`demo: ${published.length}`);
    };
    await publish();
    await third.is("heard", published);
    await first.page.close();
    await publish();
    await third.is("heard", published);
    const crash = await context.newCDPSession(second.page);
    crash.send("Page.crash").catch(() => {});
    await publish();
    await third.is("heard", published);
    await eventually("nobody listens to the crashed tab's channel", async () => {
      const answer = await fetch(`${gateway.url}/channels/second`);
      return (await answer.json()).subscribers === 0;
    });
    await publish();
    await third.is("heard", published);
    await third.is("gaps", []);
    assert.equal(await gateway.live(), 1);
    await context.close();
  });

  test(`${share}: a tab that sleeps and comes back hears what it missed`, async () => {
    const gateway = await gatewayForPages();
    const context = await chromium.newContext();
    const tabs = [await Tab.open(context, gateway, { share }), await Tab.open(context, gateway, { share })];
    await Promise.all(tabs.map((tab) => tab.open()));
    const devtools = await context.newCDPSession(tabs[0].page);
    await gateway.publish("demo", "before");
    await Promise.all(tabs.map((tab) => tab.is("heard", ["demo: before"])));
    await devtools.send("Page.setWebLifecycleState", { state: "frozen" });
    await gateway.publish("demo", "meanwhile");
    await tabs[1].is("heard", ["demo: before", "demo: meanwhile"]);
    await devtools.send("Page.setWebLifecycleState", { state: "active" });
    await tabs[0].is("heard", ["demo: before", "demo: meanwhile"]);
    await gateway.publish("demo", "after");
    for (const tab of tabs) await tab.is("heard", ["demo: before", "demo: meanwhile", "demo: after"]);
    for (const tab of tabs) await tab.is("gaps", []);
    await context.close();
  });

  test(`${share}: a page that is left and returned to goes on where it was`, async () => {
    const gateway = await gatewayForPages();
    const context = await chromium.newContext();
    const tab = await Tab.open(context, gateway, { share });
    await tab.open();
    await gateway.publish("demo", "before");
    await tab.is("heard", ["demo: before"]);
    await tab.page.goto(`${pages.url}/elsewhere`);
    await gateway.publish("demo", "while it was away");
    await tab.page.goBack({ waitUntil: "commit" });
    assert.equal(await tab.get("typeof heard"), "object", "the browser has not kept the page");
    await tab.is("heard", ["demo: before", "demo: while it was away"]);
    await tab.is("gaps", []);
    await context.close();
  });

  test(`${share}: a page gives the token, and another user's tabs have another stream`, async () => {
    const { make, settings } = tokens();
    const gateway = await gatewayForPages(settings);
    const context = await chromium.newContext();
    const open = async (sub) => {
      const token = await make({ sub, subscribe: ["user:{sub}"], publish: ["*"] });
      return Tab.open(context, gateway, { share, key: sub, token, channels: [`user:${sub}`] });
    };
    const [one, other] = [await open("1"), await open("2")];
    await Promise.all([one.open(), other.open()]);
    const token = await make({ publish: ["*"] });
    await gateway.publish("user:1", "for 1", { token });
    await gateway.publish("user:2", "for 2", { token });
    await one.is("heard", ["user:1: for 1"]);
    await other.is("heard", ["user:2: for 2"]);
    assert.equal(await gateway.live(), 2);
    assert.equal(await one.get("tokens"), 1);
    await context.close();
  });
}

test("tabs: another tab takes over from one that does not answer, and hears what it missed", async () => {
  const gateway = await gatewayForPages();
  const context = await chromium.newContext();
  const leader = await Tab.open(context, gateway, { share: "tabs" });
  await leader.open();
  const other = await Tab.open(context, gateway, { share: "tabs" });
  await other.open();
  const devtools = await context.newCDPSession(leader.page);
  await devtools.send("Debugger.enable");
  await devtools.send("Debugger.pause");
  // Nothing of the leader runs any more, and it still holds its lock.
  const paused = new Promise((done) => devtools.once("Debugger.paused", done));
  leader.page.evaluate("1").catch(() => {});
  await paused;
  await gateway.publish("demo", "while nobody led");
  await other.lookAt();
  await other.is("heard", ["demo: while nobody led"]);
  await devtools.send("Debugger.resume");
  await leader.is("heard", ["demo: while nobody led"]);
  await gateway.publish("demo", "after");
  for (const tab of [leader, other]) await tab.is("heard", ["demo: while nobody led", "demo: after"]);
  await eventually("there is one stream", async () => (await gateway.live()) === 1);
  for (const tab of [leader, other]) await tab.is("gaps", []);
  await context.close();
});

test("where a policy forbids workers, a tab leads", async () => {
  const gateway = await gatewayForPages();
  const context = await chromium.newContext();
  const tabs = [1, 2].map(() => Tab.open(context, gateway, { path: "/no-workers" }));
  for (const tab of await Promise.all(tabs)) {
    await tab.open();
    assert.equal(await tab.get("client.share"), "tabs");
  }
  assert.equal(await gateway.live(), 1);
  await context.close();
});
