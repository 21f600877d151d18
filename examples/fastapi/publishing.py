"""What the applications in this folder publish with: an event over HTTP, repeated until it is there.

SSE_URL names the gateway, SSE_TOKEN holds a token or an API key, if the gateway wants one.
"""

import asyncio
import contextlib
import json
import os
import random
import time
import uuid

import httpx

URL = os.environ.get("SSE_URL", "http://127.0.0.1:8080")
TOKEN = os.environ.get("SSE_TOKEN")
ATTEMPTS = 6
RETRYABLE = (429, 502, 503, 504)


class Gateway:
    def __init__(self):
        headers = {"Authorization": f"Bearer {TOKEN}"} if TOKEN else {}
        self._client = httpx.AsyncClient(base_url=URL, headers=headers, timeout=5)

    async def close(self):
        await self._client.aclose()

    async def publish(self, channel, data, event=None, key=None):
        """Publishes an event and returns its id. The key makes every repetition harmless."""
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        item = {"content": json.dumps(data), "params": {"event": event or ""}, "headers": headers}
        for attempt in range(1, ATTEMPTS + 1):
            wait = 0
            try:
                answer = await self._client.post(f"/channels/{channel}", **item)
                if answer.status_code not in RETRYABLE or attempt == ATTEMPTS:
                    answer.raise_for_status()
                    return answer.json()["id"]
                wait = float(answer.headers.get("Retry-After", 0))
            except httpx.TransportError:
                # Not reached, or no answer: it may have been published, which the key makes good.
                if attempt == ATTEMPTS:
                    raise
            await asyncio.sleep(max(wait, 0.1 * 2**attempt * random.uniform(0.5, 1.5)))


async def every(seconds, producer):
    """Calls a producer at whole multiples of `seconds`. If it fails, the next turn tries again."""
    while True:
        await asyncio.sleep(seconds - time.time() % seconds)
        try:
            await producer(round(time.time() / seconds))
        except Exception as error:
            print(f"{producer.__name__}: {error!r}")


@contextlib.asynccontextmanager
async def running(*producers):
    """Runs producers in the background while the application runs."""
    tasks = [asyncio.create_task(producer) for producer in producers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
