"""Reads events with `httpx-sse`, the parser of the Python clients of many streaming APIs.

    python read.py URL COUNT [LAST-EVENT-ID]

Prints {"open": true} when the head of the answer arrived, then one {"id", "event", "data"} for each
dispatched event (not for `checkpoint`), and exits 0 after COUNT of them; 1 when the stream ended early
or was refused; SIGALRM ends it when nothing came for too long.

Why this one. Tried with hostile data (line ends of Unicode, VT, FF, FS, NEL, NUL, BOM, fields' names,
leading spaces, trailing newlines), written byte by byte and at once, with LF, CRLF and CR:
- httpx-sse 0.4.3 is right in all of it, decodes UTF-8 over chunks, and keeps the last id. It differs
  from WHATWG HTML 9.2.6 in that it also yields a block without data: `retry:` alone (left out here),
  and any blank line once an id is set, so a heartbeat followed by one would show here as an empty event.
  It leaves a BOM at the very start of a stream, which the gateway does not write.
- sseclient-py 1.9.0 reads all data right too, but forgets the id from one event to the next, also
  takes an id that holds NUL, and cannot see the end of a block whose line ends are mixed.
- requests-sse 0.5.3 and aiohttp-sse-client2 0.3.0 (read, not tried) remove every leading space and
  every trailing newline of the data, the latter also splits lines at LF only: wrong as oracles.
What breaks elsewhere is str.splitlines(), which splits at VT, FF, FS, GS, RS, NEL, U+2028 and U+2029.
"""

import json
import signal
import sys

import httpx
import httpx_sse


def write(value):
    print(json.dumps(value), flush=True)


def main(url, count, last_event_id=""):
    # A test that died must not leave a reader behind for ever.
    signal.alarm(120)
    left = int(count)
    headers = {"Last-Event-ID": last_event_id.encode()} if last_event_id else {}
    # No proxy of the environment between a test and its gateway, and no time-out of httpx's own.
    with httpx.Client(trust_env=False, timeout=None) as client:
        with httpx_sse.connect_sse(client, "GET", url, headers=headers) as source:
            if source.response.status_code != 200:
                body = source.response.read().decode(errors="replace")
                sys.exit(f"status {source.response.status_code}: {body}")
            write({"open": True})
            last = last_event_id
            for event in source.iter_sse():
                is_new, last = event.id != last, event.id
                if event.event == "checkpoint" or (is_only_retry(event) and not is_new):
                    continue
                write({"id": event.id, "event": event.event, "data": event.data})
                left -= 1
                if left <= 0:
                    return
    sys.exit(f"the stream ended {left} events early")


def is_only_retry(event):
    """httpx-sse yields a block without data as an event; no browser dispatches one.

    An empty event behind the stream's first `retry:` looks the same, but has an id of its own.
    """
    return event.retry is not None and event.event == "message" and event.data == ""


main(*sys.argv[1:])
