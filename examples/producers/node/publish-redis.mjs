// Publishes one event with one call of Redis:
//
//   npm install ioredis
//   node publish-redis.mjs CHANNEL DATA [TYPE [KEY]]
//
// REDIS_URL names the Redis.

import Redis from "ioredis";
import { setTimeout as sleep } from "node:timers/promises";

const redis = new Redis(process.env.REDIS_URL ?? "redis://127.0.0.1:6379", {
  maxRetriesPerRequest: 0, // The loop below repeats, with the key.
  commandTimeout: 5_000,
});
redis.on("error", () => {}); // The calls that fail tell it.
const ATTEMPTS = 6;

/** Publishes an event and returns its id. The key makes every repetition harmless. */
async function publish(channel, data, { event = "", key = crypto.randomUUID() } = {}) {
  const keys = ["sse:state", `sse:history:${channel}`, `sse:idem:${channel}|${key}`];
  for (let attempt = 1; ; attempt++) {
    try {
      return await redis.fcall("sse_publish", keys.length, ...keys, data, event);
    } catch (error) {
      // An error of the function itself, such as SSEINVALID, says that nothing was published.
      if (error.message.startsWith("SSE") || attempt === ATTEMPTS) throw error;
      await sleep(100 * 2 ** attempt * (0.5 + Math.random()));
    }
  }
}

const [channel, data, event, key] = process.argv.slice(2);
try {
  console.log(await publish(channel, data, { event, key }));
} finally {
  redis.disconnect();
}
