"""Publishes one event over HTTP, with the standard library alone:

    python publish.py CHANNEL DATA [TYPE [KEY]]

SSE_URL names the gateway, SSE_TOKEN holds a token or an API key, if the gateway wants one.
"""

import http.client
import json
import os
import random
import sys
import time
import urllib.error
import urllib.request
import uuid

URL = os.environ.get("SSE_URL", "http://127.0.0.1:8080")
TOKEN = os.environ.get("SSE_TOKEN")
ATTEMPTS = 6
RETRYABLE = (429, 502, 503, 504)


def publish(channel, data, event=None, key=None):
    """Publishes an event and returns its id. The key makes every repetition harmless.

    Raises HTTPError if the gateway refuses the event, URLError or OSError if it is not reached.
    """
    item = {"channel": channel, "data": data, "idempotency_key": key or str(uuid.uuid4())}
    if event:
        item["event"] = event
    headers = {"Content-Type": "application/json"}
    if TOKEN:
        headers["Authorization"] = f"Bearer {TOKEN}"
    request = urllib.request.Request(f"{URL}/publish", json.dumps(item).encode(), headers)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.load(answer)["results"][0]["id"]
        except urllib.error.HTTPError as error:
            if error.code not in RETRYABLE or attempt == ATTEMPTS:
                raise
            wait = float(error.headers.get("Retry-After", 0))
        except (OSError, http.client.HTTPException):
            # Not reached, or no answer: it may have been published, which the key makes good.
            if attempt == ATTEMPTS:
                raise
            wait = 0
        time.sleep(max(wait, 0.1 * 2**attempt * random.uniform(0.5, 1.5)))


if __name__ == "__main__":
    try:
        print(publish(*sys.argv[1:5]))
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.code}: {json.load(error)['detail']}")
