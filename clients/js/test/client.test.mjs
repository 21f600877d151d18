// The client in Node, against real gateways: it resumes, waits, asks for tokens, and tells of gaps.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Gateway, Wire, eventually, ownAddress, redis, tokens } from "../../../lab/node/processes.mjs";
import { Listener } from "./listener.mjs";

const QUICK = { longestWait: 200 };

test("nothing is lost and nothing comes twice while gateways are cut, drained and killed", async () => {
  const broker = await redis();
  const gateways = await Promise.all([1, 2, 3].map(() => Gateway.start({ redis: broker })));
  const [killed, drained, last] = gateways;
  const wire = await Wire.to(killed);
  const listener = new Listener(wire.events, ["demo"], QUICK);
  await listener.opened();
  const published = [];
  const publish = async (data) => published.push([await last.publish("demo", data), data]);

  await publish("before");
  await listener.hears(1);
  wire.cut();
  await publish("while it was cut");
  wire.moveTo(killed);
  await listener.hears(2);
  await killed.kill();
  await publish("after the kill");
  wire.cut();
  wire.moveTo(drained);
  await listener.hears(3);
  wire.target = last.address;
  await drained.drain();
  await publish("after the drain");
  await listener.hears(4);
  await publish("the last");
  await listener.hears(5);

  assert.deepEqual(listener.pairs(), published);
  assert.deepEqual(listener.gaps, []);
  listener.close();
});

test("a checkpoint moves the position, and is no event", async () => {
  const gateway = await Gateway.start();
  const wire = await Wire.to(gateway);
  const listener = new Listener(wire.events, ["quiet"], QUICK);
  const { subscription } = listener;
  const first = await eventually("it has a position", () => subscription.lastEventId);
  await eventually("a checkpoint moves it", () => subscription.lastEventId !== first);
  const asked = subscription.lastEventId;
  wire.cut();
  wire.moveTo(gateway);
  await eventually("it is back", () => wire.heads.length > 1);
  const sent = /last_event_id=([^ &]+)/.exec(wire.heads.at(-1))[1];
  assert.ok(sent >= asked, `${sent} is behind ${asked}`);
  assert.deepEqual(listener.events, []);
  listener.close();
});

test("a connection that died without a word is opened again", async () => {
  const broker = await redis();
  const [frozen, last] = [await Gateway.start({ redis: broker }), await Gateway.start({ redis: broker })];
  const wire = await Wire.to(frozen);
  const listener = new Listener(wire.events, ["demo"], { ...QUICK, silence: 3_000 });
  await listener.opened();
  frozen.program.signal("SIGSTOP");
  wire.target = last.address;
  const id = await last.publish("demo", "during the frost");
  await listener.hears(1);
  assert.deepEqual(listener.pairs(), [[id, "during the frost"]]);
  assert.match(listener.problems.join(), /silent/);
  listener.close();
});

test("a gateway that forgot everything is told as a gap", async () => {
  const address = await ownAddress();
  const first = await Gateway.start({ address });
  const listener = new Listener(first.events, ["demo"], QUICK);
  await listener.opened();
  await first.publish("demo", "before");
  await listener.hears(1);
  await first.kill();
  const second = await Gateway.start({ address });
  await eventually("it is told", () => listener.gaps.length === 1);
  assert.equal(listener.gaps[0].reason, "reset");
  await second.publish("demo", "after");
  await listener.hears(2);
  assert.deepEqual(listener.data(), ["before", "after"]);
  listener.close();
});

test("each attempt waits longer, up to a bound, and tells why", async () => {
  const address = await ownAddress();
  const listener = new Listener(`http://${address}/events`, ["demo"], { longestWait: 50 });
  await eventually("it has tried", () => listener.problems.length > 5);
  assert.equal(listener.client.state === "open", false);
  assert.match(listener.problems[0], /fetch failed/);
  const gateway = await Gateway.start({ address });
  await listener.opened();
  await gateway.publish("demo", "there it is");
  await listener.hears(1);
  listener.close();
});

test("it shows its token, asks for another one when that is refused, and stops at the second refusal", async () => {
  const { make, settings } = tokens();
  const gateway = await Gateway.start({ settings });
  const good = await make({ sub: "42", subscribe: ["demo"], publish: ["demo"] });
  const asked = [];
  const token = async ({ refused }) => {
    asked.push(refused);
    return refused ? good : "stale";
  };
  const listener = new Listener(gateway.events, ["demo"], { ...QUICK, token });
  await listener.opened();
  assert.deepEqual(asked, [false, true]);
  await gateway.publish("demo", "for bearers", { token: good });
  await listener.hears(1);
  listener.close();

  const wrong = new Listener(gateway.events, ["demo"], { ...QUICK, token: async () => "wrong" });
  await wrong.is("failed");
  assert.equal(wrong.client.problem.status, 401);
  assert.equal(wrong.client.problem.type, "urn:sse-gateway:invalid-token");
  wrong.close();

  const nobody = new Listener(gateway.events, ["demo"], { ...QUICK, token: async () => null });
  await nobody.is("failed");
  assert.equal(nobody.client.problem.detail, "nobody is logged in");
  nobody.close();
});

test("a token that ends is replaced, and nothing is missed", async () => {
  const { make, settings } = tokens();
  const gateway = await Gateway.start({ settings });
  const claims = { sub: "42", subscribe: ["demo"], publish: ["demo"] };
  let connections = 0;
  const token = async () => make(claims, ++connections === 1 ? 2 : 3600);
  const listener = new Listener(gateway.events, ["demo"], { ...QUICK, token });
  await listener.opened();
  await eventually("the first token is over", () => connections > 1);
  const id = await gateway.publish("demo", "after the end", { token: await make(claims) });
  await listener.hears(1);
  assert.deepEqual(listener.pairs(), [[id, "after the end"]]);
  assert.deepEqual(listener.gaps, []);
  listener.close();
});

test("a failing provider of tokens is asked again", async () => {
  const { make, settings } = tokens();
  const gateway = await Gateway.start({ settings });
  let calls = 0;
  const token = async () => {
    if (++calls < 3) throw new Error("the login service is away");
    return make({ subscribe: ["demo"] });
  };
  const listener = new Listener(gateway.events, ["demo"], { longestWait: 50, token });
  await listener.opened();
  assert.match(listener.problems[0], /the login service is away/);
  listener.close();
});

test("a handler that throws stops nothing", async () => {
  const gateway = await Gateway.start();
  const thrown = [];
  const { error } = console;
  console.error = (what) => thrown.push(String(what));
  const seen = [];
  const listener = new Listener(gateway.events, ["demo"], QUICK);
  const failing = listener.client.subscribe({
    channels: "demo",
    event(e) {
      seen.push(e.data);
      throw new Error("a fault of the page");
    },
  });
  await listener.opened();
  await eventually("both listen", async () => failing.lastEventId !== null);
  for (const data of ["1", "2"]) await gateway.publish("demo", data);
  await listener.hears(2);
  console.error = error;
  assert.deepEqual(seen, ["1", "2"]);
  assert.equal(thrown.length, 2);
  listener.close();
});
