"""Prints one JSON line for each thing that happens, for all programs here; see ../README.md."""

import json
import os
import sys
import time

# Whether the application also reconnects after the server has ended the stream in order.
COMES_BACK_ALWAYS = os.environ.get("COME_BACK") == "always"


def tell(what, **more):
    print(json.dumps({"what": what, **more}), flush=True)


def heard(kind, id, data):
    tell("event", type=kind, id=id, data=data)


class Place:
    """The position that the application sends when it reconnects, and its wait before that."""

    def __init__(self):
        self.last_event_id, self.wait = "", 1.0

    def headers(self):
        headers = {"Accept": "text/event-stream"}
        if self.last_event_id:
            headers["Last-Event-ID"] = self.last_event_id
        return headers

    def keep(self, id=None, retry=None):
        if id:
            self.last_event_id = id
        if retry:
            self.wait = int(retry) / 1000


def come_back(listen, errors):
    """The usual loop around a client: listen, and listen again after an error."""
    place = Place()
    while True:
        try:
            listen(place)
            tell("end")
            if not COMES_BACK_ALWAYS:
                return
        except errors as error:
            tell("error", why=f"{type(error).__name__}: {error}"[:200])
        time.sleep(place.wait)


URL = sys.argv[1]
