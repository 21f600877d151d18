// Each producer, against a real gateway and a real Redis: an event arrives whole and with its type, a
// key makes one event of two, a token is shown, an outage is waited out, and a refusal is final.

import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { Gateway, Program, ownAddress, redis, tokens, eventually } from "../../lab/node/processes.mjs";

const folder = fileURLToPath(new URL("../producers/", import.meta.url));
const built = process.env.BUILT_DIR;
const python = join(built, "venv/bin/python");

const HTTP = {
  Python: [python, join(folder, "python/publish.py")],
  Node: ["node", join(folder, "node/publish.mjs")],
  Go: [join(built, "go/http")],
  PHP: ["php", join(folder, "php/publish.php")],
  Java: ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", join(built, "java"), "Publish"],
};
const REDIS = {
  Python: [python, join(folder, "python/publish_redis.py")],
  Node: ["node", join(folder, "node/publish-redis.mjs")],
  Go: [join(built, "go/redis")],
  PHP: ["php", join(folder, "php/publish-redis.php")],
};

const DATA = "two lines,\n{\"é\": \"漢 🙂 & + %\"}";
const run = ([command, ...args], more, env) => new Program(command, [...args, ...more], { env });

/** Publishes what every producer must be able to, and returns what the gateway kept of it. */
async function publishes(command, gateway, channel, env) {
  const [typed] = await run(command, [channel, DATA, "created", "key-1"], env).succeeds();
  const [again] = await run(command, [channel, DATA, "created", "key-1"], env).succeeds();
  const [plain] = await run(command, [channel, "plain"], env).succeeds();
  assert.equal(again, typed, "the key has made one event of two");
  const kept = await gateway.history(channel);
  assert.deepEqual(kept.map(({ id, event, data }) => [id, event ?? "", data]), [
    [typed, "created", DATA],
    [plain, "", "plain"],
  ]);
}

for (const [language, command] of Object.entries(HTTP)) {
  test(`${language} over HTTP`, async () => {
    const broker = await redis();
    const gateway = await Gateway.start({ redis: broker });
    await publishes(command, gateway, "user:1/a+b", { SSE_URL: gateway.url });

    // A refusal says why, and is not repeated.
    const refused = run(command, ["no such channel", "data"], { SSE_URL: gateway.url });
    assert.notEqual(await refused.ended, 0);
    assert.match(refused.errors, /400.*channel/);

    const { make, settings } = tokens();
    const guarded = await Gateway.start({ settings });
    const token = await make({ publish: ["orders"] });
    const [id] = await run(command, ["orders", "data"], { SSE_URL: guarded.url, SSE_TOKEN: token }).succeeds();
    assert.match(id, /^\d+-\d+$/);
    const stranger = run(command, ["orders", "data"], { SSE_URL: guarded.url });
    assert.notEqual(await stranger.ended, 0);
    assert.match(stranger.errors, /401/);
  });

  test(`${language} over HTTP waits until a gateway is there`, async () => {
    const address = await ownAddress();
    const early = run(command, ["orders", "data"], { SSE_URL: `http://${address}` });
    const gateway = await Gateway.start({ address });
    const [id] = await early.succeeds();
    assert.deepEqual((await gateway.history("orders")).map((event) => event.id), [id]);
  });
}

for (const [language, command] of Object.entries(REDIS)) {
  test(`${language} over Redis`, async () => {
    const broker = await redis();
    const gateway = await Gateway.start({ redis: broker });
    const [REDIS_HOST, REDIS_PORT] = broker.address.split(":");
    const env = { REDIS_URL: broker.url, REDIS_HOST, REDIS_PORT };
    await publishes(command, gateway, "user:1/a+b", env);
    const refused = run(command, ["no such channel", "data"], env);
    assert.notEqual(await refused.ended, 0);
    assert.match(refused.errors, /SSEINVALID/);
  });
}

test("a gateway without its Redis is waited for, and the event comes once", async () => {
  const broker = await redis();
  const gateway = await Gateway.start({ redis: broker });
  broker.program.signal("SIGSTOP");
  const early = run(HTTP.Node, ["orders", "data", "", "key-1"], { SSE_URL: gateway.url });
  const refused = async () => {
    const metrics = await (await fetch(`http://${gateway.admin}/metrics`)).text();
    return /sse_published_events_total\{result="(unavailable|unknown)"\} [1-9]/.test(metrics);
  };
  await eventually("the gateway has said that Redis is away", refused);
  broker.program.signal("SIGCONT");
  const [id] = await early.succeeds();
  await eventually("the gateway has its Redis", async () => (await gateway.history("orders"))?.length === 1);
  assert.deepEqual((await gateway.history("orders")).map((event) => event.id), [id]);
});
