// Several subscriptions on one stream, in one page, against a real gateway.

import assert from "node:assert/strict";
import http from "node:http";
import { once } from "node:events";
import { after, test } from "node:test";

import { Gateway, Wire, eventually, redis, tokens } from "../../../lab/node/processes.mjs";
import { Listener, notes } from "./listener.mjs";

/** The streams that were asked for, as lists of their channels. */
const asked = (wire) =>
  wire.heads.map((head) => new URL(head.split(" ")[1], "http://gateway").searchParams.getAll("channel"));

test("subscriptions to different channels share one stream, and each hears its own", async () => {
  const gateway = await Gateway.start();
  const wire = await Wire.to(gateway);
  const listener = new Listener(wire.events, ["orders"], {}, { types: ["paid", "message"] });
  const [both, stats] = [notes(), notes()];
  listener.subscribe(both, ["orders", "stats"]);
  listener.subscribe(stats, "stats");
  await eventually("all are open", () => listener.opens && both.opens && stats.opens);
  assert.deepEqual(asked(wire), [["orders", "stats"]]);
  const data = '{\n  "several": "lines"\n}';
  await gateway.publish("orders", data, { event: "paid" });
  await gateway.publish("orders", "", { event: "created" });
  await gateway.publish("orders", "untyped");
  await gateway.publish("stats", "7", { event: "count" });
  const heard = (list) => list.events.map((e) => `${e.channel} ${e.type} ${e.data}`);
  await eventually("they hear", () => stats.events.length === 1 && both.events.length === 4);
  assert.deepEqual(heard(stats), ["stats count 7"]);
  assert.deepEqual(heard(both), [`orders paid ${data}`, "orders created ", "orders message untyped", "stats count 7"]);
  assert.deepEqual(heard(listener), [`orders paid ${data}`, "orders message untyped"]);
  assert.equal(await gateway.live(), 1);
  listener.close();
  await eventually("the stream is over", async () => (await gateway.live()) === 0);
});

test("while subscriptions come and go, nobody misses anything or hears it twice", async () => {
  const gateway = await Gateway.start({ redis: await redis() });
  const wire = await Wire.to(gateway);
  const listener = new Listener(wire.events, ["steady"]);
  await listener.opened();
  const published = [];
  let going = true;
  const publishing = (async () => {
    while (going) published.push(await gateway.publish("steady", String(published.length)));
  })();
  const others = [];
  for (let n = 0; n < 5; n++) {
    const other = notes();
    const subscription = listener.subscribe(other, [`other:${n}`]);
    await eventually("the new one is open", () => other.opens > 0);
    const id = await gateway.publish(`other:${n}`, "for the new one");
    await eventually("it hears", () => other.events.length === 1);
    assert.equal(other.events[0].id, id);
    if (n % 2) subscription.close();
    others.push(other);
  }
  going = false;
  await publishing;
  await listener.hears(published.length);
  assert.deepEqual(listener.events.map((e) => e.id), published);
  assert.deepEqual([listener, ...others].flatMap((one) => one.gaps), []);
  assert.ok(asked(wire).length >= 6);
  listener.close();
});

test("a subscription begins now, or at the id that it names, whatever the others do", async () => {
  const gateway = await Gateway.start({ redis: await redis() });
  const ids = [];
  for (const data of ["1", "2", "3"]) ids.push(await gateway.publish("kept", data));
  const listener = new Listener(gateway.events, ["kept"]);
  const [all, rest, later] = [notes(), notes(), notes()];
  listener.subscribe(all, ["kept"], { lastEventId: "0" });
  await eventually("it hears what is kept", () => all.events.length === 3);
  listener.subscribe(rest, ["kept"], { lastEventId: ids[0] });
  await eventually("it hears what it missed", () => rest.events.length === 2);
  listener.subscribe(later, ["kept", "other"]);
  await eventually("it is open", () => later.opens > 0 && listener.opens > 0);
  await gateway.publish("kept", "4");
  for (const [list, data] of [[all, "1234"], [rest, "234"], [listener, "4"], [later, "4"]]) {
    await eventually(`it hears ${data}`, () => list.events.map((e) => e.data).join("") === data);
    assert.deepEqual(list.gaps, []);
  }
  listener.close();
});

test("what was trimmed is told to those who miss it, and to nobody else", async () => {
  const gateway = await Gateway.start({ settings: { "history.max_len": "10" } });
  const first = await gateway.publish("busy", "0");
  const listener = new Listener(gateway.events, ["busy"]);
  await listener.opened();
  for (let n = 1; n <= 300; n++) await gateway.publish("busy", String(n));
  await listener.hears(300);
  const late = notes();
  listener.subscribe(late, ["busy"], { lastEventId: first });
  await eventually("it is told", () => late.gaps.length === 1);
  assert.equal(late.gaps[0].reason, "trimmed");
  assert.equal(late.gaps[0].channel, "busy");
  await gateway.publish("busy", "the last");
  await listener.hears(301);
  assert.deepEqual(listener.gaps, []);
  listener.close();
});

test("a channel that is refused ends its own subscriptions alone", async () => {
  const { make, settings } = tokens();
  const gateway = await Gateway.start({ settings });
  const token = await make({ sub: "42", subscribe: ["mine", "user:{sub}:*"], publish: ["mine"] });
  const listener = new Listener(gateway.events, ["mine"], { token: () => token });
  const theirs = notes();
  listener.subscribe(theirs, ["mine", "user:7:mail"]);
  await listener.opened();
  await gateway.publish("mine", "for me", { token });
  await listener.hears(1);
  assert.equal(theirs.refused.status, 403);
  assert.match(theirs.refused.detail, /user:7:mail$/);
  assert.deepEqual(theirs.events, []);
  listener.close();
});

test("a gateway that cannot tell channels apart is an error that says so", async () => {
  const gateway = await Gateway.start();
  // An old gateway passes over the parameter. This proxy takes it away.
  const proxy = http.createServer((request, response) => {
    const path = request.url.replace("&annotate=channel", "");
    const [host, port] = gateway.address.split(":");
    const onward = http.get({ host, port, path }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    response.on("close", () => onward.destroy());
    onward.on("error", () => response.destroy());
  });
  proxy.listen(0, "127.0.0.1");
  await once(proxy, "listening");
  after(() => proxy.close());
  const listener = new Listener(`http://127.0.0.1:${proxy.address().port}/events`, ["a", "b"]);
  await listener.opened();
  await gateway.publish("a", "whose?");
  await listener.is("failed");
  assert.match(listener.client.problem.detail, /annotate=channel/);
  assert.deepEqual(listener.events, []);
  listener.close();
});

test("a state is loaded once the stream is open, kept in step, and loaded again after a gap", async () => {
  const gateway = await Gateway.start({ settings: { "history.max_len": "0" } });
  const wire = await Wire.to(gateway);
  const listener = new Listener(wire.events, ["other"], { longestWait: 100 });
  const said = [];
  let state = ["loaded"];
  const stop = listener.client.followState({
    channels: ["orders"],
    load: async () => state,
    show: (loaded) => said.push(...loaded),
    apply: (e) => said.push(e.data),
    spread: 0,
  });
  await eventually("it is loaded", () => said.length === 1);
  await gateway.publish("orders", "17 paid");
  await eventually("it is applied", () => said.length === 2);
  wire.cut();
  await gateway.publish("orders", "18 paid");
  state = ["loaded again"];
  wire.moveTo(gateway);
  await eventually("it is loaded again", () => said.length === 3);
  assert.deepEqual(said, ["loaded", "17 paid", "loaded again"]);
  stop();
  listener.close();
});

test("a subscription without a channel, and an address that is none, are errors at once", async () => {
  const listener = new Listener("http://127.0.0.1:9/events", ["a"]);
  assert.throws(() => listener.client.subscribe({ channels: [] }), /needs a channel/);
  listener.close();
  assert.throws(() => new Listener("/events", ["a"]), /\/events is no absolute URL/);
});
