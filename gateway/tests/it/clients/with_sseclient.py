"""Listens with `sseclient-py`:   python with_sseclient.py URL

Prints one {"type","id","data"} for each event it yields. It only parses an answer that another library
reads, here `requests`, the usual one. That hands on each chunk as it comes; an answer without chunks it would
hold back until some hundred bytes had come.
"""

import json
import sys
import time

import requests
import sseclient


def main(url):
    last_event_id, delay = "", 0
    with requests.Session() as session:
        # No proxy of the environment between a test and its gateway.
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
