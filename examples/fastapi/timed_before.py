"""Timed, with sse-starlette: each client's generator sleeps and yields.

    pip install -r requirements.txt
    uvicorn timed_before:app
    curl -N localhost:8000/clock
"""

import asyncio
import json
import time

from fastapi import FastAPI, Request
from sse_starlette import EventSourceResponse

app = FastAPI()


async def ticks(request):
    while not await request.is_disconnected():
        now = round(time.time())
        yield {"event": "tick", "id": str(now), "data": json.dumps({"unix": now})}
        await asyncio.sleep(1)


@app.get("/clock")
async def clock(request: Request):
    # A client that was away is not told what it missed: the id leads nowhere.
    return EventSourceResponse(ticks(request), ping=15)
