"""A FastAPI service that publishes through sse-gateway: timed, event-driven and hybrid producers.

    pip install fastapi uvicorn httpx
    uvicorn fastapi_app:app --port 8000

Browsers do not connect to this service for events. They connect to the gateway:

    curl -N 'http://127.0.0.1:8080/events?channel=clock&channel=orders&channel=stats'
"""

import asyncio
import contextlib
import json
import os
import time
import uuid

import httpx
from fastapi import FastAPI

GATEWAY = os.environ.get("SSE_URL", "http://127.0.0.1:8080")
orders = 0  # Stands for a database: with several workers, each would count its own.


async def publish(channel, data, event=None, key=None):
    """Publishes one event and returns its id. A retry under the same key never publishes twice."""
    headers = {"Idempotency-Key": key or str(uuid.uuid4())}
    params = {"event": event} if event else {}
    for attempt in range(5):
        try:
            answer = await app.state.gateway.post(
                f"/channels/{channel}", content=json.dumps(data), params=params, headers=headers
            )
            if answer.status_code not in (429, 502, 503, 504):
                answer.raise_for_status()  # Any other 4xx is our own mistake: no retry.
                return answer.json()["id"]
        except httpx.TransportError:
            pass  # Not reached, or no answer: the key makes another attempt safe.
        await asyncio.sleep(0.2 * 2**attempt)
    raise RuntimeError(f"{channel}: not published")


async def every(seconds, producer):
    """Calls a producer at whole multiples of `seconds`. If it fails, the next turn tries again."""
    while True:
        await asyncio.sleep(seconds - time.time() % seconds)
        try:
            await producer(round(time.time() / seconds))
        except Exception as error:
            print(f"{producer.__name__}: {error!r}")


async def clock(turn):
    """Timed. Every worker of `uvicorn --workers 4` calls this; the key makes it one event."""
    await publish("clock", {"unix": turn * 2}, key=f"clock-{turn}")


async def stats(turn=None):
    """Hybrid: on a schedule, and at once after each order (see below)."""
    await publish("stats", {"orders": orders}, event="stats")


@contextlib.asynccontextmanager
async def lifespan(app):
    async with httpx.AsyncClient(base_url=GATEWAY, timeout=5) as app.state.gateway:
        tasks = [asyncio.create_task(every(2, clock)), asyncio.create_task(every(5, stats))]
        yield
        for task in tasks:
            task.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/orders")
async def create_order(order: dict):
    """Event-driven: first the database, then the event."""
    global orders
    orders += 1
    event_id = await publish("orders", order, event="created")
    await stats()
    return {"event": event_id}
