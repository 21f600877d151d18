"""Reads events with `httpx-sse`, the parser of the Python clients of many streaming APIs.

    python read.py URL COUNT [LAST-EVENT-ID]

Prints {"open": true} when the head of the answer arrives, then one {"id", "event", "data"} per
dispatched event (not for `checkpoint`). Exits with 0 after COUNT of them, and with 1 if the stream
ended early or was refused. SIGALRM ends it if it takes too long.

The choice rests on tests with hostile data (Unicode line ends, VT, FF, FS, NEL, NUL, BOM, field
names, leading spaces, trailing newlines), written byte by byte and at once, with LF, CRLF and CR:
- httpx-sse 0.4.3 is right in all of it, decodes UTF-8 across chunks, and keeps the last id. Unlike
  WHATWG HTML 9.2.6 it also yields a block without data: a lone `retry:` (skipped here), and any
  blank line once it has an id, so a heartbeat with a blank line would appear here as an empty
  event. It keeps a BOM at the start of a stream, which the gateway does not write.
- sseclient-py 1.9.0 also reads all data right, but forgets the id from one event to the next, takes
  an id with NUL, and cannot see the end of a block with mixed line ends.
- requests-sse 0.5.3 and aiohttp-sse-client2 0.3.0 (read, not tested) remove every leading space and
  every trailing newline of the data, and the latter splits lines at LF only. Neither is an oracle.
Other parsers break on str.splitlines(), which splits at VT, FF, FS, GS, RS, NEL, U+2028 and U+2029.
"""

import json
import signal
import sys

import httpx
import httpx_sse


def write(value):
    print(json.dumps(value), flush=True)


def main(url, count, last_event_id=""):
    # After a test died, its reader must end, too.
    signal.alarm(120)
    left = int(count)
    headers = {"Last-Event-ID": last_event_id.encode()} if last_event_id else {}
    # A proxy from the environment, or a time-out of httpx, would disturb the tests.
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
    """Whether the event is a lone `retry:`, which httpx-sse yields and no browser dispatches.

    An empty event with the stream's first `retry:` looks the same, but has a new id.
    """
    return event.retry is not None and event.event == "message" and event.data == ""


main(*sys.argv[1:])
