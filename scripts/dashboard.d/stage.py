"""What the dashboard shows: Redis, three gateways, clients that do everything a panel shows, and Prometheus."""

import contextlib
import json
import pathlib
import selectors
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "clients"))

import processes  # noqa: E402

SCRAPE = 1  # seconds


class Streams(threading.Thread):
    """Keeps streams open, reads them, and opens each anew when it ends."""

    def __init__(self, addresses, count):
        super().__init__(daemon=True)
        self.addresses, self.count = addresses, count
        self.selector = selectors.DefaultSelector()
        self.stopped = threading.Event()
        # Streams to open: when, where, and the number of the stream.
        self.due = [(0.0, addresses[n % len(addresses)], n) for n in range(count)]

    def run(self):
        while not self.stopped.is_set():
            now = time.monotonic()
            for entry in [entry for entry in self.due if entry[0] <= now]:
                self.due.remove(entry)
                self._open(*entry[1:])
            for key, _ in self.selector.select(timeout=0.1):
                self._read(key)

    def _open(self, address, number):
        try:
            stream = open_stream(address, f"/events?channel=room{number % 3}")
        except OSError:
            self.due.append((time.monotonic() + 1, address, number))
            return
        stream.setblocking(False)
        self.selector.register(stream, selectors.EVENT_READ, (address, number))

    def _read(self, key):
        try:
            if key.fileobj.recv(65536):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.selector.unregister(key.fileobj)
        key.fileobj.close()
        self.due.append((time.monotonic() + 0.5, *key.data))

    def close_some(self, count):
        """Closes streams; they are opened anew like those that end by themselves."""
        for key in list(self.selector.get_map().values())[:count]:
            key.fileobj.shutdown(socket.SHUT_RDWR)


def open_stream(address, path, headers="", receive_buffer=None):
    host, port = address.split(":")
    stream = socket.socket()
    if receive_buffer:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    stream.settimeout(10)
    stream.connect((host, int(port)))
    stream.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n{headers}\r\n".encode())
    return stream


def post(address, path, body):
    """Publishes; returns the ids, or None while that is not possible."""
    request = urllib.request.Request(f"http://{address}{path}", body.encode())
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)
    except (urllib.error.URLError, OSError):
        return None


class Publisher(threading.Thread):
    """Publishes a few events a second on three channels, some of them large."""

    def __init__(self, addresses):
        super().__init__(daemon=True)
        self.addresses, self.stopped = addresses, threading.Event()

    def run(self):
        number = 0
        while not self.stopped.wait(0.05):
            number += 1
            for address in self.addresses:
                size = 40_000 if number % 10 == 0 else 100
                post(address, f"/channels/room{number % 3}", f"{number} " + "x" * size)


class Stage:
    """Starts everything in `directory`. Leaving the context ends it."""

    def __init__(self, program, directory):
        self.directory = directory
        self.redis = processes.redis(directory, processes.own_address())
        self.redis_address = f"{self.redis.arguments[2]}:{self.redis.arguments[4]}"
        # Short, so that a run of half a minute sees streams that come back too late.
        settings = {"history.max_len": 100, "stream.queue_events": 20, "stream.retry": "1s"}
        settings |= {"admin.ready_needs_broker": "true", "admin.probe_interval": "500ms"}
        self.gateways = [processes.Gateway(program, directory, self.redis_address, settings) for _ in range(2)]
        self.memory = _memory_gateway(program, directory)
        self.prometheus = self._prometheus()
        self.servers = [self.redis, *self.gateways, self.memory, self.prometheus]

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        for server in self.servers:
            self.stack.callback(server.end)
            server.start()
        addresses = [gateway.address for gateway in self.gateways]
        self.streams = Streams([*addresses, self.memory.address], 90)
        self.publisher = Publisher([addresses[0], self.memory.address])
        for thread in (self.streams, self.publisher):
            thread.start()
            self.stack.callback(thread.stopped.set)
        self.slow = [
            open_stream(address, f"/events?channel=room{n}", receive_buffer=2048)
            for address in addresses
            for n in range(3)
        ]
        return self

    def __exit__(self, *exception):
        self.stack.close()

    def disturb(self):
        """Does once what happens now and then: clients that leave, come back late, or ask wrongly."""
        self.streams.close_some(10)
        for gateway in self.gateways:
            now = int(time.time() * 1000)
            for late in (f"{now - 500}-0", "1-0", "unknown"):
                open_stream(gateway.address, "/events?channel=room0", f"Last-Event-ID: {late}\r\n").close()
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(f"http://{gateway.address}/events?channel=", timeout=5)

    def readyz(self):
        """Returns the status and the body of a gateway's /readyz."""
        try:
            with urllib.request.urlopen(f"http://{self.gateways[0].admin}/readyz", timeout=10) as answer:
                return answer.status, answer.read().decode().strip()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode().strip()

    def ask(self, path, **parameters):
        """Asks Prometheus' HTTP API."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://{self.prometheus.address}/api/v1/{path}?{query}", timeout=30) as answer:
            return json.load(answer)["data"]

    def _prometheus(self):
        address = processes.own_address()
        targets = [server.admin for server in (*self.gateways, self.memory)]
        rules = self.directory / "rules.yml"
        rules.write_text((ROOT / "deploy/prometheus/rules.yml").read_text())
        # JSON is YAML, too.
        config = {
            "global": {"scrape_interval": f"{SCRAPE}s", "scrape_timeout": f"{SCRAPE}s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [{"job_name": "gateway", "static_configs": [{"targets": targets}]}],
        }
        file = self.directory / "prometheus.yml"
        file.write_text(json.dumps(config))
        arguments = ["prometheus", f"--config.file={file}", f"--web.listen-address={address}"]
        arguments += [f"--storage.tsdb.path={self.directory / 'tsdb'}", "--log.level=warn"]
        log = self.directory / "prometheus.log"
        server = processes.Server("prometheus", arguments, log, lambda: processes.get(address, "/-/ready") == 200)
        server.address = address
        return server


def _memory_gateway(program, directory):
    address, admin = processes.own_address(), processes.own_address()
    arguments = [program, "--listen", address, "--admin-listen", admin]
    log = directory / "gateway-memory.log"
    server = processes.Server("gateway", arguments, log, lambda: processes.get(admin, "/readyz") == 200)
    server.address, server.admin = address, admin
    return server
