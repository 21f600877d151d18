"""sseclient, which comes back by itself.

It prints its errors to standard output, between the lines of JSON. With COME_BACK=always there is a loop around it,
and the server is asked to close the connection behind its answer: the library waits for that end, not for the answer's.
"""

import time

import requests
from hear import COMES_BACK_ALWAYS, URL, heard, tell
from sseclient import SSEClient


def listen(options):
    source = SSEClient(URL, **options)
    tell("open")
    for event in source:
        if event.id:
            options["last_id"] = event.id
        heard(event.event, event.id, event.data)


if not COMES_BACK_ALWAYS:
    listen({})
options = {"headers": {"Connection": "close"}}
while True:
    try:
        listen(options)
    except requests.RequestException as error:
        tell("error", why=str(error)[:200])
        time.sleep(1)
