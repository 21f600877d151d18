"""A first version in Python: FastAPI, sse-starlette, and a Redis subscription for each reader."""

import os

from fastapi import FastAPI, Request
from redis import asyncio as redis
from sse_starlette import EventSourceResponse

# Each subscription takes a connection of the pool, whose default limit is 100.
client = redis.from_url(os.environ["REDIS_URL"], decode_responses=True, max_connections=100_000)
app = FastAPI()


async def read(channel: str):
    async with client.pubsub() as subscription:
        await subscription.subscribe(channel)
        async for message in subscription.listen():
            if message["type"] == "subscribe":
                # A reader that gets this is subscribed: Redis has confirmed it.
                yield {"comment": "hello"}
            elif message["type"] == "message":
                yield {"data": message["data"]}


@app.get("/events")
async def events(channel: str):
    return EventSourceResponse(read(channel))


@app.post("/channels/{channel}")
async def publish(channel: str, request: Request):
    return {"readers": await client.publish(channel, await request.body())}
