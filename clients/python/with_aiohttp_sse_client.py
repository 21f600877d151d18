"""aiohttp-sse-client.

It reconnects by itself only after a stream that ended in order, and raises everything else. So it
needs a loop around it. The loop must keep the last id, because a new EventSource does not know it.
"""

import asyncio

import aiohttp
from aiohttp_sse_client import client
from hear import COMES_BACK_ALWAYS, URL, Place, heard, tell


async def listen(place):
    # By default, aiohttp ends every request after five minutes.
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        headers = {k: v for k, v in place.headers().items() if k != "Accept"}
        tells = {"on_open": lambda: tell("open"), "on_error": lambda: tell("error", why="on_error")}
        async with client.EventSource(URL, session=session, headers=headers, **tells) as source:
            async for event in source:
                place.keep(event.last_event_id)
                heard(event.type or "message", event.last_event_id, event.data)


async def main():
    place = Place()
    while True:
        try:
            await listen(place)
            tell("end")
            if not COMES_BACK_ALWAYS:
                return
        except (aiohttp.ClientError, ConnectionError, ValueError) as error:
            tell("error", why=f"{type(error).__name__}: {error}"[:200])
        await asyncio.sleep(place.wait)


asyncio.run(main())
