"""What schemathesis does not know by itself: NDJSON, and which of its values are no fair question to a gateway."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def write_lines(context, value):
    """A list is one JSON text a line; anything else, which only a wrong request holds, is one line."""
    lines = value if isinstance(value, list) else [value]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@schemathesis.deserializer("application/x-ndjson")
def read_lines(context, response):
    return [json.loads(line) for line in response.content.splitlines()]


@schemathesis.hook
def filter_query(context, query):
    """The description's pattern of an event's id is wider than its two bounds, which no pattern says in a readable way."""
    after = str((query or {}).get("after", ""))
    milliseconds, _, sequence = after.partition("-")
    if not (milliseconds.isdecimal() and sequence.isdecimal()):
        return True
    return int(milliseconds) < 99 * 10**12 and int(sequence) < 2**44
