"""sseclient, which reconnects by itself.

It prints its errors to standard output, between the lines of JSON. With COME_BACK=always there is a
loop around it, and the request asks the server to close the connection after the answer: the
library waits for the end of the connection, not of the answer.
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
