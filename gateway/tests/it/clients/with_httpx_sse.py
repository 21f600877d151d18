"""Listens with `httpx-sse`:   python with_httpx_sse.py URL

Prints one {"type","id","data"} per event. httpx-sse does not reconnect by itself, so this has the
loop of its documentation, with one addition: an answer without a length ends without an error when
its connection ends, so the end of the loop over events also means a lost connection.
"""

import json
import sys
import time

import httpx
import httpx_sse


def main(url):
    last_event_id, delay = "", 0
    # A proxy from the environment, or a time-out of httpx, would disturb the tests.
    with httpx.Client(trust_env=False, timeout=None) as client:
        while True:
            headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
            try:
                with httpx_sse.connect_sse(client, "GET", url, headers=headers) as source:
                    for event in source.iter_sse():
                        last_event_id = event.id
                        if event.retry is not None:
                            delay = event.retry / 1000
                        heard = {"type": event.event, "id": event.id, "data": event.data}
                        print(json.dumps(heard), flush=True)
            except httpx.TransportError:
                pass
            time.sleep(delay)


main(*sys.argv[1:])
