"""Measures what docs/scale.md's model needs, and the runs that it is compared with.

    measure.py --gateway PROGRAM --publish PROGRAM --out FILE [--only PART,…] [--quick]

Parts: masters, replicas, many_half, many_more, many, channels. Each part prints what it found; all of it is written to
FILE as JSON. Everything runs on loopback addresses of this machine, and ends with the program.
"""

import argparse
import contextlib
import http.client
import json
import os
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ADDRESSES = iter(f"127.77.{n >> 8}.{n & 255}" for n in range(1, 60000))


def say(text):
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def free_addr():
    """An address of its own, so that nobody else is given the port meanwhile."""
    host = next(ADDRESSES)
    with socket.socket() as listener:
        listener.bind((host, 0))
        # A node of a Redis Cluster has its bus 10,000 above its port.
        return host, listener.getsockname()[1] % 40000 + 10000


def cpu(pids):
    """CPU seconds that the living threads of these processes have used so far."""
    files = [file for pid in pids for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def anonymous(pids):
    """Bytes of memory of these processes that are not of a file."""
    found = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        found += 1024 * int(re.search(r"^Anonymous: +(\d+)", text, re.M).group(1))
    return found


def until(what, done, seconds=60, every=0.02):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if found := done():
                return found
        time.sleep(every)
    sys.exit(f"scale: it never came about: {what}")


class Bench:
    def __init__(self, options):
        self.options = options
        self.running = []
        self.scratch = tempfile.TemporaryDirectory(prefix="sse-scale-")

    def run(self, *command, **more):
        log = open(f"{self.scratch.name}/{len(self.running)}.log", "w")
        # Raised to the hard limit, because every stream takes a descriptor.
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        raise_limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        more = {"stdout": log, "stderr": log, **more}
        process = subprocess.Popen([str(word) for word in command], preexec_fn=raise_limit, **more)
        self.running.append(process)
        return process

    def end(self, *processes):
        for process in processes or list(reversed(self.running)):
            if process.poll() is None:
                process.kill()
            process.wait()
            if process in self.running:
                self.running.remove(process)

    def redis(self, *more):
        host, port = free_addr()
        process = self.run("redis-server", "--bind", host, "--port", port, "--save", "", "--dir",
                           tempfile.mkdtemp(dir=self.scratch.name), "--protected-mode", "no", *more)
        until("Redis listens", lambda: socket.create_connection((host, port)).close() or True)
        return process, host, port

    def cluster(self, masters):
        nodes = [self.redis("--cluster-enabled", "yes", "--cluster-node-timeout", "5000") for _ in range(masters)]
        for n, (process, host, port) in enumerate(nodes):
            cli = lambda *words: subprocess.run(["redis-cli", "-h", host, "-p", str(port), *words], check=True,
                                                capture_output=True, text=True).stdout
            cli("config", "set", "cluster-announce-ip", host)
            first, last = n * 16384 // masters, (n + 1) * 16384 // masters - 1
            cli("cluster", "addslotsrange", str(first), str(last))
            cli("cluster", "set-config-epoch", str(n + 1))
            if n:
                cli("cluster", "meet", nodes[0][1], str(nodes[0][2]))
        def settled():
            states = [subprocess.run(["redis-cli", "-h", host, "-p", str(port), "cluster", "info"],
                                     capture_output=True, text=True).stdout for _, host, port in nodes]
            return all("cluster_state:ok" in s and f"cluster_known_nodes:{masters}\n" in s for s in states)
        until("the cluster is settled", settled)
        return nodes, "redis+cluster://" + ",".join(f"{host}:{port}" for _, host, port in nodes)

    def gateway(self, url, *settings, addr=None):
        public, admin = addr or (free_addr(), free_addr())
        flags = [word for setting in ("limits.streams_per_address=0", "limits.connections_per_address=0",
                                      "limits.connection_rate_per_address=0", "log.level=warn", *settings)
                 for word in ("--set", setting)]
        process = self.run(self.options.gateway, "--redis", url, "--listen", "%s:%d" % public, "--admin-listen",
                           "%s:%d" % admin, "--wait-for-redis", "30s", *flags)
        gateway = Gateway(process, public, admin)
        until("the gateway is ready", lambda: gateway.get("/readyz") is not None)
        return gateway


class Gateway:
    def __init__(self, process, public, admin):
        self.process, self.public, self.admin, self.pid = process, public, admin, process.pid
        self.url = "http://%s:%d" % public

    def get(self, path):
        return urllib.request.urlopen("http://%s:%d%s" % (*self.admin, path), timeout=5).read().decode()

    def metric(self, name, label=""):
        """The sum of a metric over its labels, or over those that contain `label`."""
        lines = re.findall(rf"^{name}(?:{{([^}}]*)}})? (\S+)$", self.get("/metrics"), re.M)
        return sum(float(value) for labels, value in lines if label in labels)


def ndjson(bench, count, channel):
    """A file with so many events."""
    lines = Path(bench.scratch.name, f"{channel(0)}.ndjson")
    with lines.open("w") as file:
        for n in range(count):
            file.write(json.dumps({"channel": channel(n), "data": f"{n:>200}"}) + "\n")
    return lines


def publish(bench, gateway, lines):
    """Publishes a file's events in batches, as fast as the gateway takes them."""
    words = [bench.options.publish, "--url", gateway.url, "--ndjson", "--quiet"]
    with lines.open() as file:
        subprocess.run(words, stdin=file, check=True, stdout=subprocess.DEVNULL)


def masters(bench, quick):
    """One master against three: what an event costs Redis, and how many go through one gateway.

    All stand ready, and each takes the same events in turn, in several rounds, because the machine's
    speed changes from minute to minute.
    """
    count, rounds = (20_000, 1) if quick else (150_000, 7)
    lines = ndjson(bench, count, lambda n: f"c{n % 4096}")
    process, host, port = bench.redis()
    topologies = {"one server": ([(process, host, port)], f"redis://{host}:{port}"),
                  "1 master": bench.cluster(1), "3 masters": bench.cluster(3)}
    gateways = {name: bench.gateway(url) for name, (_, url) in topologies.items()}
    measured = {name: [] for name in topologies}
    for n in range(rounds + 1):
        for name, (nodes, _) in topologies.items():
            pids, gateway = [process.pid for process, _, _ in nodes], gateways[name]
            before, own, began = [cpu([pid]) for pid in pids], cpu([gateway.pid]), time.monotonic()
            publish(bench, gateway, lines)
            seconds = time.monotonic() - began
            used = [cpu([pid]) - was for pid, was in zip(pids, before)]
            # The first round fills the histories.
            if n:
                measured[name].append((count / seconds, 1e6 * sum(used) / count, 1e6 * max(used) / count,
                                       1e6 * (cpu([gateway.pid]) - own) / count))
    found = []
    for name, values in measured.items():
        per_second, redis, busiest, own = (statistics.median(column) for column in zip(*values))
        one = {"topology": name, "events": count, "rounds": rounds, "events_per_second": per_second, "redis_us": redis,
               "busiest_us": busiest, "gateway_us": own}
        found.append(one)
        say(f"masters: {name}: {per_second:.0f} events/s; Redis {redis:.1f} µs an event, the busiest master {busiest:.1f} µs; "
            f"gateway {own:.1f} µs")
    bench.end()
    return found


# Streams of a channel at each replica, and events a second on it; 0 for as many as go through.
SHAPES = {"few": (10, 400), "many": (100, 100), "batches": (1, 0)}


def replicas(bench, quick):
    """More replicas with the same streams each: what an event costs each of them, and Redis.

    Each channel has its streams at one, two, four or eight of the gateways, and only these gateways
    hear of its events. One more gateway, without streams, takes them from the publisher. The machine's
    speed changes from minute to minute, so all numbers of replicas are measured in turn, in several
    rounds. What all processes need when nothing is published is subtracted.
    """
    counts, seconds, rounds, batch = ((1, 2), 2, 1, 5_000) if quick else ((1, 2, 4, 8), 4, 5, 50_000)
    process, host, port = bench.redis()
    taking, *gateways = [bench.gateway(f"redis://{host}:{port}", "server.workers=1") for _ in range(max(counts) + 1)]
    for count in counts:
        for gateway in gateways[:count]:
            for shape, (streams, _) in SHAPES.items():
                url = f"{gateway.url}/events?channel={shape}-{count}"
                bench.run(bench.options.publish, "bench", url, "--connections", streams, "--for", "900s", "--json")
    each = sum(streams for streams, _ in SHAPES.values())
    for n, gateway in enumerate(gateways):
        wanted = each * sum(count > n for count in counts)
        until("the streams are open", lambda: gateway.metric("sse_subscribers") == wanted)
    lines = {count: ndjson(bench, batch, lambda n: f"batches-{count}") for count in counts}

    def used(count, work):
        """CPU seconds of a listening gateway, of Redis, and how long it took."""
        pids = [gateway.pid for gateway in gateways[:count]]
        before, redis, began = cpu(pids), cpu([process.pid]), time.monotonic()
        work()
        return (cpu(pids) - before) / count, cpu([process.pid]) - redis, time.monotonic() - began

    idle = {count: [used / lasted for used in (gateway, redis)] for count in counts
            for gateway, redis, lasted in [used(count, lambda: time.sleep(seconds))]}
    costs = {(count, shape): [] for count in counts for shape in SHAPES}
    for _ in range(rounds):
        for count, shape in costs:
            rate = SHAPES[shape][1]
            events = rate * seconds or batch
            work = ((lambda: steadily(taking, f"{shape}-{count}", rate, seconds)) if rate else
                    (lambda: publish(bench, taking, lines[count])))
            *both, lasted = used(count, work)
            costs[count, shape].append([1e6 * (cost - rest * lasted) / events for cost, rest in zip(both, idle[count])])
    found = []
    for count in counts:
        one = {"replicas": count}
        for shape in SHAPES:
            gateway_us, redis_us = (statistics.median(values) for values in zip(*costs[count, shape]))
            one[shape] = {"gateway_us": gateway_us, "redis_us": redis_us, "rounds": costs[count, shape]}
        found.append(one)
        texts = [f"{shape}: {one[shape]['gateway_us']:.1f} µs at each replica and {one[shape]['redis_us']:.1f} µs in Redis"
                 for shape in SHAPES]
        say(f"replicas: {count}: an event costs, {'; '.join(texts)}")
    bench.end()
    return found


def steadily(gateway, channel, rate, seconds):
    """Publishes so many events a second, one a request, on one connection."""
    connection = http.client.HTTPConnection(*gateway.public)
    began = time.monotonic()
    for n in range(int(rate * seconds)):
        time.sleep(max(0.0, began + n / rate - time.monotonic()))
        connection.request("POST", f"/channels/{channel}", "x" * 200)
        connection.getresponse().read()
    connection.close()


def many(bench, quick, each=16_667):
    """Idle streams on six gateways; then every gateway is killed at once and started again."""
    gateways_count, channels = 6, 1000
    streams = each // 16 if quick else each
    process, host, port = bench.redis()
    url = f"redis://{host}:{port}"
    gateways = [bench.gateway(url) for _ in range(gateways_count)]
    time.sleep(2)
    before = anonymous([gateway.pid for gateway in gateways])
    began = time.monotonic()
    clients = [bench.run(sys.executable, HERE / "clients.py", "--addr", "%s:%d" % gateway.public, "--streams", streams,
                         "--channels", channels, "--first", 7 * n, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
               for n, gateway in enumerate(gateways)]
    total = streams * gateways_count

    def report():
        for client in clients:
            client.stdin.write("report\n")
            client.stdin.flush()
        return [json.loads(client.stdout.readline()) for client in clients]

    until("all streams are open", lambda: sum(r["live"] for r in report()) == total, 300, 0.2)
    opening = time.monotonic() - began
    time.sleep(3)
    pids = [gateway.pid for gateway in gateways]
    memory = anonymous(pids)
    # What the clients miss while their gateways are away.
    began, opened = time.monotonic(), sum(r["opened"] for r in report())
    for gateway in gateways:
        gateway.process.kill()
    for gateway in gateways:
        gateway.process.wait()
    again = [bench.gateway(url, addr=(gateway.public, gateway.admin)) for gateway in gateways]
    for n in range(100):
        urllib.request.urlopen(urllib.request.Request(f"{again[0].url}/channels/idle-{n}", b"x"), timeout=10).read()
    until("all streams are back", lambda: sum(r["live"] for r in report()) == total, 300, 0.1)
    back = time.monotonic() - began
    time.sleep(2)
    reports = report()
    reads = sum(gateway.metric("sse_history_reads_total") for gateway in again)
    settled = anonymous([gateway.pid for gateway in again])
    one = {"streams": total, "opening_seconds": opening, "empty_bytes": before, "bytes": memory,
           "bytes_a_stream": (memory - before) / total, "back_seconds": back, "bytes_after": settled,
           "history_reads": reads, "gaps": sum(r["gaps"] for r in reports),
           "reconnects": sum(r["opened"] for r in reports) - opened}
    say(f"many: {total} streams open after {opening:.0f} s; {memory / 1e6:.1f} MB in all gateways, {before / 1e6:.1f} MB of it "
        f"without streams; all back {back:.1f} s after every gateway was killed, with {reads:.0f} history reads, "
        f"{one['gaps']} gaps")
    bench.end()
    return one


def channels(bench, quick):
    """Many channels on one replica: how long they take to be subscribed again after a loss."""
    streams, each = (200, 50) if quick else (2_000, 50)
    process, host, port = bench.redis()
    gateway = bench.gateway(f"redis://{host}:{port}", "stream.max_channels=100", "server.max_head_bytes=65536")
    sockets = []
    for n in range(streams):
        query = "&".join(f"channel=c{n * each + m}" for m in range(each))
        connection = socket.create_connection(gateway.public)
        connection.sendall(f"GET /events?{query} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".encode())
        sockets.append(connection)
    total = streams * each
    until("all streams are live", lambda: gateway.metric("sse_subscribers", "live") == streams, 120)
    sessions = gateway.metric("sse_broker_sessions_total")
    began = time.monotonic()
    cli = ["redis-cli", "-h", host, "-p", str(port), "client", "kill", "type", "pubsub"]
    subprocess.run(cli, check=True, capture_output=True)
    until("a new session", lambda: gateway.metric("sse_broker_sessions_total") > sessions, 30, 0.005)
    subscribed = lambda: int(subprocess.run(["redis-cli", "-h", host, "-p", str(port), "info", "stats"], check=True,
                             capture_output=True, text=True).stdout.split("pubsub_channels:")[1].split()[0])
    until("all channels are subscribed", lambda: subscribed() >= total, 60, 0.02)
    again = time.monotonic() - began
    until("all streams are live again", lambda: gateway.metric("sse_subscribers", "live") == streams, 120, 0.02)
    live = time.monotonic() - began
    one = {"channels": total, "streams": streams, "subscribed_seconds": again, "live_seconds": live,
           "bytes": anonymous([gateway.pid])}
    say(f"channels: {total} channels subscribed again {again:.2f} s after the loss, all {streams} streams live after {live:.2f} s; "
        f"the gateway has {one['bytes'] / 1e6:.0f} MB")
    bench.end()
    return one


def many_half(bench, quick):
    """Fewer streams, for the constants from which `many` is predicted."""
    return many(bench, quick, 8_333)


def many_more(bench, quick):
    return many(bench, quick, 12_500)


PARTS = {"masters": masters, "replicas": replicas, "many_half": many_half, "many_more": many_more, "many": many, "channels": channels}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--gateway", required=True)
    arguments.add_argument("--publish", required=True)
    arguments.add_argument("--out", required=True)
    arguments.add_argument("--only", default=",".join(PARTS))
    arguments.add_argument("--quick", action="store_true")
    options = arguments.parse_args()
    bench = Bench(options)
    # One part may be measured again without the others.
    out = Path(options.out)
    found = json.loads(out.read_text()) if out.exists() else {}
    version = subprocess.run(["redis-server", "--version"], check=True, capture_output=True, text=True).stdout
    found["redis"] = re.search(r"v=(\S+)", version).group(1)
    try:
        for part in options.only.split(","):
            found[part] = PARTS[part](bench, options.quick)
            found[part + "_quick"] = options.quick
    finally:
        bench.end()
        out.write_text(json.dumps(found, indent=1) + "\n")


main()
