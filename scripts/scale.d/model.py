"""Computes docs/scale.md's tables from what measure.py found.

    model.py MEASURED [--write docs/scale.md]

It takes the model's constants from the smaller runs, predicts the larger ones, and says how far each
prediction is off. With --write it writes the page: page.md.in, with a table in each place that is marked
`<!-- table: NAME -->`. Exit code 1: a prediction is off by more than 20 %.
"""

import argparse
import json
import math
import sys
from pathlib import Path

# Shares and sizes that the model assumes; docs/scale.md says why.
BUSY = 0.6  # How busy a core may be on average.
CORES = 8  # Of a gateway's machine.
FEW, MANY = 10, 100  # Streams of a channel at each replica, as in measure.py.
STREAMS = 500_000  # Of one gateway at most: descriptors, and what its end means for the others.


class Constants:
    """µs and bytes, from the smaller runs."""

    def __init__(self, found):
        replicas = {one["replicas"]: one for one in found["replicas"]}
        one, two, more = replicas[1], replicas[2], replicas[4] if 4 in replicas else replicas[2]
        # Redis: a publish in a batch, and a push for each replica that listens.
        self.push = (more["batches"]["redis_us"] - one["batches"]["redis_us"]) / (more["replicas"] - 1)
        self.batched = one["batches"]["redis_us"] - self.push
        self.publish = one["few"]["redis_us"] - self.push
        # A replica: an event, and a delivery to each stream.
        self.delivery = (two["many"]["gateway_us"] - two["few"]["gateway_us"]) / (MANY - FEW)
        self.event = two["few"]["gateway_us"] - FEW * self.delivery
        topologies = {one["topology"]: one for one in found["masters"]}
        self.masters = topologies["1 master"]["redis_us"]
        self.accepted = topologies["1 master"]["gateway_us"]
        half, more = found["many_half"], found["many_more"]
        self.base = half["empty_bytes"] / 6
        self.stream = half["bytes_a_stream"]
        # A restart takes its time, and clients wait for `retry`, however many there are.
        self.back = (more["back_seconds"] - half["back_seconds"]) / (more["streams"] - half["streams"])
        self.away = half["back_seconds"] - half["streams"] * self.back


def predictions(found):
    """What, predicted, measured."""
    c = Constants(found)
    replicas = {one["replicas"]: one for one in found["replicas"]}
    topologies = {one["topology"]: one for one in found["masters"]}
    many = found["many"]
    rows = []
    for count in (4, 8):
        if count in replicas:
            one = replicas[count]
            # Four are where the constant comes from.
            if count > 4:
                rows.append((f"Redis, µs an event in batches, {count} replicas", c.batched + count * c.push,
                             one["batches"]["redis_us"]))
            rows.append((f"gateway, µs an event to {MANY} streams, {count} replicas", c.event + MANY * c.delivery,
                         one["many"]["gateway_us"]))
    rows.append(("Redis, µs an event in batches, 3 masters", c.masters, topologies["3 masters"]["redis_us"]))
    rows.append(("gateway, µs an event accepted, 3 masters", c.accepted, topologies["3 masters"]["gateway_us"]))
    rows.append((f"memory, MB, {many['streams']:,} streams on six gateways",
                 (6 * c.base + many["streams"] * c.stream) / 1e6, many["bytes"] / 1e6))
    rows.append((f"all {many['streams']:,} streams back, s", c.away + many["streams"] * c.back, many["back_seconds"]))
    return rows


# Streams, events a second, and to how many streams an event goes.
CASES = [
    ("100,000 dashboards, one channel", 1e5, 10, 1e5),
    ("1,000,000 tabs, a channel each", 1e6, 1e4, 1),
    ("1,000,000 tabs, 10,000 rooms", 1e6, 1e4, 100),
    ("10,000,000 tabs, a channel each", 1e7, 1e5, 1),
    ("10,000,000 tabs, one channel", 1e7, 1, 1e7),
    ("100,000,000 tabs, a channel each", 1e8, 1e6, 1),
    ("100,000,000 tabs, 1,000,000 rooms", 1e8, 1e5, 100),
]


def case(c, name, streams, events, fan_out):
    deliveries = events * fan_out
    by_streams = streams / STREAMS
    # An event goes to each replica that has one of its streams.
    listening = lambda gateways: gateways * (1 - (1 - 1 / gateways) ** fan_out) if gateways > 1 else 1
    work = lambda gateways: (deliveries * c.delivery + events * listening(gateways) * c.event) / 1e6 / (CORES * BUSY)
    gateways = max(1, math.ceil(by_streams))
    while work(gateways) > gateways:
        gateways = max(gateways + 1, math.ceil(work(gateways)))
    work, listening = work(gateways), listening(gateways)
    redis = events * (c.batched + listening * c.push) / 1e6
    masters = max(1, math.ceil(redis / BUSY))
    memory = (c.base + streams / gateways * c.stream) / 1e9
    first = "streams of a gateway" if by_streams >= work else "CPU of deliveries"
    if masters > 1 and listening * c.push > c.batched:
        first = "Redis: pushes to replicas"
    elif masters > gateways / 4 and masters > 1:
        first = "Redis: publishes"
    return [name, f"{deliveries:,.0f}", gateways, f"{memory:.1f}", f"{listening:,.0f}", f"{redis:,.2f}", masters, first]


def table(columns, rows):
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return "\n".join(lines + [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows])


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("measured")
    arguments.add_argument("--write")
    options = arguments.parse_args()
    found = json.loads(Path(options.measured).read_text())
    c, rows = Constants(found), predictions(found)
    off = [abs(predicted / measured - 1) for _, predicted, measured in rows]
    tables = {
        "constants": table(["constant", "value"], [
            ["Redis, a publish alone, at 400 a second", f"{c.publish:.0f} µs"],
            ["Redis, a publish in a batch", f"{c.batched:.1f} µs"],
            ["Redis, an event to one more replica", f"{c.push:.1f} µs"],
            ["gateway, an event that comes from Redis", f"{c.event:.0f} µs"],
            ["gateway, a delivery of it", f"{c.delivery:.1f} µs"],
            ["gateway, an event accepted in a batch", f"{c.accepted:.1f} µs"],
            ["gateway, without streams", f"{c.base / 1e6:.1f} MB"],
            ["gateway, an idle stream", f"{c.stream:,.0f} B"],
            ["six gateways on this machine, a restart and the clients' `retry`", f"{c.away:.1f} s"],
            ["six gateways on this machine, each stream that comes back", f"{1e6 * c.back:.0f} µs"],
        ]),
        "replicas": table(["replicas", f"a replica, an event to {FEW} streams", f"to {MANY} streams", "Redis, an event in a batch"], [
            [one["replicas"], f"{one['few']['gateway_us']:.0f} µs", f"{one['many']['gateway_us']:.0f} µs",
             f"{one['batches']['redis_us']:.1f} µs"] for one in found["replicas"]]),
        "masters": table(["", "events/s here", "Redis, an event", "of it the busiest master", "its core is full at", "gateway, an event"], [
            [one["topology"], f"{one['events_per_second']:,.0f}", f"{one['redis_us']:.1f} µs", f"{one['busiest_us']:.1f} µs",
             f"{1e6 / one['busiest_us']:,.0f} events/s", f"{one['gateway_us']:.1f} µs"] for one in found["masters"]]),
        "many": table(["run", "streams", "channels", "gateways", "memory of the gateways", "all back"], [
            *(["every gateway killed at once, started again", f"{one['streams']:,}", "1,000", 6, f"{one['bytes'] / 1e6:.0f} MB",
               f"{one['back_seconds']:.1f} s, {one['history_reads']:,.0f} history reads"] for one in (found["many_half"], found["many"])),
            ["Redis' subscriptions lost", f"{found['channels']['streams']:,}", f"{found['channels']['channels']:,}", 1,
             f"{found['channels']['bytes'] / 1e6:.0f} MB", f"subscribed {found['channels']['subscribed_seconds']:.1f} s, live "
             f"{found['channels']['live_seconds']:.1f} s after it"]]),
        "predictions": table(["run", "predicted", "measured", "off"], [
            [name, f"{predicted:.1f}", f"{measured:.1f}", f"{100 * (predicted / measured - 1):+.0f} %"]
            for name, predicted, measured in rows]),
        "cases": table(["case", "deliveries/s", "gateways", "GB each", "replicas an event goes to", "Redis cores",
                        "masters", "what decides"], [case(c, *one) for one in CASES]),
    }
    if options.write:
        text = Path(__file__).with_name("page.md.in").read_text()
        text = text.replace("<!-- value: redis -->", found["redis"])
        for name, lines in tables.items():
            mark = f"<!-- table: {name} -->"
            assert text.count(mark) == 1, name
            text = text.replace(mark, lines)
        Path(options.write).write_text(text)
    else:
        print("\n\n".join(tables.values()))
    return 1 if max(off) > 0.2 else 0


sys.exit(main())
