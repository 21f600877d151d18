"""Hybrid, with the gateway: on a schedule, and at once when something happens. An error is an event.

    pip install -r requirements.txt
    uvicorn hybrid_after:app
    curl -N 'localhost:8080/events?channel=stats'
    curl localhost:8000/orders -H 'Content-Type: application/json' -d '{"price": 17}'
"""

import contextlib

from fastapi import FastAPI

from publishing import Gateway, every, running

gateway = Gateway()
prices = []  # Stands for a database, which all workers would share.


def average():
    return {"average": sum(prices) / len(prices)}


async def stats(turn=None):
    # Computed once for all clients.
    try:
        data = average()
    except ZeroDivisionError as error:
        # Not "error": an EventSource has events of that type of its own.
        await gateway.publish("stats", {"detail": str(error)}, event="failed")
    else:
        await gateway.publish("stats", data, event="stats")


@contextlib.asynccontextmanager
async def lifespan(app):
    async with running(every(2, stats)):
        yield
    await gateway.close()


app = FastAPI(lifespan=lifespan)


@app.post("/orders")
async def create_order(order: dict):
    prices.append(order["price"])
    await stats()
    return order
