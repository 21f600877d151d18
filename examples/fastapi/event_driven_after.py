"""Event-driven, with the gateway: one call where something happens.

    pip install -r requirements.txt
    uvicorn event_driven_after:app --workers 4
    curl -N 'localhost:8080/events?channel=orders'
    curl localhost:8000/orders -H 'Content-Type: application/json' -d '{"number": 17}'
"""

import contextlib

from fastapi import FastAPI

from publishing import Gateway

gateway = Gateway()


@contextlib.asynccontextmanager
async def lifespan(app):
    yield
    await gateway.close()


app = FastAPI(lifespan=lifespan)


@app.post("/orders")
async def create_order(order: dict):
    # Here the order is stored. The event comes after that, under a key that a repetition of this
    # request has, too.
    key = f"order-{order['number']}-created"
    return {"event": await gateway.publish("orders", order, event="created", key=key)}
