"""Hybrid, with sse-starlette: on a schedule, and at once when something happens. An error is an event.

    pip install -r requirements.txt
    uvicorn hybrid_before:app             # One worker: others would not see these orders.
    curl -N localhost:8000/stats
    curl localhost:8000/orders -H 'Content-Type: application/json' -d '{"price": 17}'
"""

import asyncio
import json

from fastapi import FastAPI
from sse_starlette import EventSourceResponse

app = FastAPI()
prices = []  # Stands for a database.
changed = asyncio.Condition()


def average():
    return {"average": sum(prices) / len(prices)}


async def stats():
    while True:
        try:
            yield {"event": "stats", "data": json.dumps(average())}
        except ZeroDivisionError as error:
            # Not "error": an EventSource has events of that type of its own.
            yield {"event": "failed", "data": json.dumps({"detail": str(error)})}
        try:
            async with asyncio.timeout(2), changed:
                await changed.wait()
        except TimeoutError:
            pass


@app.get("/stats")
async def listen():
    # Each client's generator computes the same again.
    return EventSourceResponse(stats(), ping=15)


@app.post("/orders")
async def create_order(order: dict):
    prices.append(order["price"])
    async with changed:
        changed.notify_all()
    return order
