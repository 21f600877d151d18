// The three patterns of producers, as applications with sse-starlette and as applications that publish
// to the gateway: what their clients hear.

import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { Parser } from "../../clients/js/src/parser.js";
import { Gateway, Program, eventually } from "../../lab/node/processes.mjs";

const python = join(process.env.BUILT_DIR, "venv/bin/python");
const cwd = fileURLToPath(new URL("../fastapi/", import.meta.url));

/** Runs an application on a port from the kernel, and gives its address. */
async function application(name, gateway, workers = 1) {
  const env = { SSE_URL: gateway?.url ?? "", PYTHONDONTWRITEBYTECODE: "1" };
  const args = ["-m", "uvicorn", `${name}:app`, "--port", "0", "--workers", String(workers)];
  const program = new Program(python, args, { env, cwd, group: true });
  const started = () => {
    if (program.isOver) throw new Error(program.errors);
    const all = program.errors.match(/Application startup complete/g) ?? [];
    return all.length === workers && /running on (http:\S+)/.exec(program.errors)?.[1];
  };
  return eventually(`${name} runs`, started);
}

/** Listens to a stream; `events` holds what it heard, as "type data". */
async function listen(url) {
  const heard = { events: [] };
  const end = new AbortController();
  const answer = await fetch(url, { signal: end.signal });
  const own = ["checkpoint", "alive"];
  const parser = new Parser(
    ({ type, data }) => own.includes(type) || heard.events.push(`${type} ${data}`),
    () => {},
  );
  const read = async () => {
    for await (const bytes of answer.body) parser.push(bytes);
  };
  read().catch(() => {});
  heard.close = () => end.abort();
  return heard;
}

const hears = (heard, expected) =>
  eventually(`${expected} is heard`, () => heard.events.some((event) => expected.test(event)));

const order = (url, order) =>
  fetch(`${url}/orders`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(order),
  });

test("timed, before and after: four workers publish each tick once", async () => {
  const before = await listen(`${await application("timed_before")}/clock`);
  await hears(before, /^tick \{"unix": \d+\}$/);
  before.close();

  const gateway = await Gateway.start();
  await application("timed_after", gateway, 4);
  const after = await listen(`${gateway.events}?channel=clock`);
  await eventually("it ticks", () => after.events.length >= 3);
  const times = after.events.map((event) => JSON.parse(event.replace("tick ", "")).unix);
  times.forEach((time, n) => assert.equal(time, times[0] + n));
  after.close();
});

test("event-driven, before and after: an order is heard, and its repetition is no second event", async () => {
  const app = await application("event_driven_before");
  const before = await listen(`${app}/orders/events`);
  await order(app, { number: 17 });
  await hears(before, /^created \{"number": 17\}$/);
  before.close();

  const gateway = await Gateway.start();
  const published = await application("event_driven_after", gateway, 2);
  const after = await listen(`${gateway.events}?channel=orders`);
  const first = await (await order(published, { number: 17 })).json();
  const again = await (await order(published, { number: 17 })).json();
  await order(published, { number: 18 });
  await hears(after, /18/);
  assert.deepEqual(after.events, ['created {"number": 17}', 'created {"number": 18}']);
  assert.deepEqual(again, first);
  after.close();
});

test("hybrid, before and after: on a schedule, at once after an order, and errors are events", async () => {
  const gateway = await Gateway.start();
  const [before, after] = [await application("hybrid_before"), await application("hybrid_after", gateway)];
  for (const [app, stream] of [[before, `${before}/stats`], [after, `${gateway.events}?channel=stats`]]) {
    const heard = await listen(stream);
    await hears(heard, /^failed \{"detail": "division by zero"\}$/);
    await order(app, { price: 10 });
    await order(app, { price: 20 });
    await hears(heard, /^stats \{"average": 15.0\}$/);
    // Nothing happens any more, and the schedule goes on.
    const now = heard.events.length;
    await eventually("the schedule goes on", () => heard.events.length > now);
    assert.equal(heard.events.at(-1), 'stats {"average": 15.0}');
    heard.close();
  }
});
