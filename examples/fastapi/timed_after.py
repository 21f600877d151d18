"""Timed, with the gateway: one background task publishes, whoever listens.

    pip install -r requirements.txt
    uvicorn timed_after:app --workers 4
    curl -N 'localhost:8080/events?channel=clock'
"""

import contextlib

from fastapi import FastAPI

from publishing import Gateway, every, running

gateway = Gateway()


async def tick(turn):
    # Each of the workers calls this. The key makes it one event.
    await gateway.publish("clock", {"unix": turn}, event="tick", key=f"clock-{turn}")


@contextlib.asynccontextmanager
async def lifespan(app):
    async with running(every(1, tick)):
        yield
    await gateway.close()


app = FastAPI(lifespan=lifespan)
