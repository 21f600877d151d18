"""Listens with `sseclient-py`:   python with_sseclient.py URL

Prints one {"type","id","data"} per event. sseclient-py only parses an answer that another library
reads; here that is `requests`, as usual. `requests` passes on each chunk as it arrives; without
chunks, it would wait for some hundred bytes.
"""

import json
import sys
import time

import requests
import sseclient


def main(url):
    last_event_id, delay = "", 0
    with requests.Session() as session:
        # A proxy from the environment would disturb the tests.
        session.trust_env = False
        while True:
            headers = {"Accept": "text/event-stream"}
            if last_event_id:
                headers["Last-Event-ID"] = last_event_id
            try:
                with session.get(url, headers=headers, stream=True) as answer:
                    for event in sseclient.SSEClient(answer).events():
                        if event.id is not None:
                            last_event_id = event.id
                        if event.retry is not None:
                            delay = int(event.retry) / 1000
                        heard = {"type": event.event, "id": last_event_id, "data": event.data}
                        print(json.dumps(heard), flush=True)
            except requests.RequestException:
                pass
            time.sleep(delay)


main(*sys.argv[1:])
