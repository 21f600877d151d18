// Publishes one event over HTTP, with Node 18 or newer and no package:
//
//   node publish.mjs CHANNEL DATA [TYPE [KEY]]
//
// SSE_URL names the gateway, SSE_TOKEN holds a token or an API key, if the gateway wants one.

import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const { SSE_URL = "http://127.0.0.1:8080", SSE_TOKEN } = process.env;
const ATTEMPTS = 6;
const RETRYABLE = [429, 502, 503, 504];

/** Publishes an event and returns its id. The key makes every repetition harmless. */
export async function publish(channel, data, { event = "", key = crypto.randomUUID() } = {}) {
  const url = `${SSE_URL}/channels/${encodeURIComponent(channel)}?event=${encodeURIComponent(event)}`;
  const headers = { "Idempotency-Key": key };
  if (SSE_TOKEN) headers.Authorization = `Bearer ${SSE_TOKEN}`;
  for (let attempt = 1; ; attempt++) {
    let wait = 0;
    try {
      const signal = AbortSignal.timeout(5_000);
      const answer = await fetch(url, { method: "POST", headers, body: data, signal });
      const body = await answer.json();
      if (answer.ok) return body.id;
      if (!RETRYABLE.includes(answer.status) || attempt === ATTEMPTS) {
        throw Object.assign(new Error(`${answer.status}: ${body.detail}`), { final: true });
      }
      wait = 1_000 * Number(answer.headers.get("Retry-After"));
    } catch (error) {
      // Not reached, or no answer: it may have been published, which the key makes good.
      if (error.final || attempt === ATTEMPTS) throw error;
    }
    await sleep(Math.max(wait, 100 * 2 ** attempt * (0.5 + Math.random())));
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [channel, data, event, key] = process.argv.slice(2);
  console.log(await publish(channel, data, { event, key }));
}
