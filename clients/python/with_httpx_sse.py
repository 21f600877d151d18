"""httpx-sse."""

import httpx
from hear import URL, come_back, heard, tell
from httpx_sse import connect_sse


def listen(place):
    # By default, httpx gives up on a stream that is silent for five seconds.
    with httpx.Client(timeout=None, trust_env=False) as client:
        with connect_sse(client, "GET", URL, headers=place.headers()) as source:
            source.response.raise_for_status()
            tell("open")
            for event in source.iter_sse():
                place.keep(event.id, event.retry)
                heard(event.event, event.id, event.data)


come_back(listen, httpx.TransportError)
