"""Event-driven, with sse-starlette: a queue for each client, filled where something happens.

    pip install -r requirements.txt
    uvicorn event_driven_before:app       # One worker: others would not see these queues.
    curl -N localhost:8000/orders/events
    curl localhost:8000/orders -H 'Content-Type: application/json' -d '{"number": 17}'
"""

import asyncio
import json

from fastapi import FastAPI
from sse_starlette import EventSourceResponse

app = FastAPI()
queues = set()


async def events():
    queue = asyncio.Queue(maxsize=100)
    queues.add(queue)
    try:
        while True:
            yield await queue.get()
    finally:
        queues.discard(queue)


@app.get("/orders/events")
async def listen():
    return EventSourceResponse(events(), ping=15)


@app.post("/orders")
async def create_order(order: dict):
    # Here the order is stored.
    for queue in queues:
        try:
            queue.put_nowait({"event": "created", "data": json.dumps(order)})
        except asyncio.QueueFull:
            pass  # A slow client loses this event and is not told.
    return order
