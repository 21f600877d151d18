"""requests with `iter_lines`, as in tutorials.

With LINES=bytes it splits bytes into lines and decodes each line.
"""

import os

import requests
from hear import URL, come_back, heard, tell

AS_TEXT = os.environ.get("LINES") != "bytes"


def listen(place):
    with requests.get(URL, stream=True, headers=place.headers()) as response:
        response.raise_for_status()
        tell("open")
        kind, data, id = "message", [], None
        for line in response.iter_lines(decode_unicode=AS_TEXT):
            line = line if AS_TEXT else line.decode()
            if not line:
                if data:
                    heard(kind, id, "\n".join(data))
                kind, data, id = "message", [], None
                continue
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                kind = value
            elif field == "data":
                data.append(value)
            elif field == "id":
                id = value
                place.keep(id)
            elif field == "retry":
                place.keep(retry=value)


come_back(listen, requests.RequestException)
