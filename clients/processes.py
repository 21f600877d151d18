"""Starts, breaks and ends Redis, gateways, nginx and clients as processes.

Each server has a loopback address of its own, with a port from the kernel. So it can come back
there: no other process can get that port in the meantime.
"""

import http.client
import itertools
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BOUND = 60

_hosts = itertools.count(1)


def own_address():
    """Returns HOST:PORT on a loopback address that only this process uses."""
    pid, n = os.getpid(), next(_hosts)
    host = f"127.{1 + (pid >> 8) % 250}.{pid % 256}.{1 + n % 250}"
    with socket.create_server((host, 0)) as listener:
        return f"{host}:{listener.getsockname()[1]}"


def _own_environment():
    """Returns our environment without proxies and without settings of a gateway."""
    given = os.environ.items()
    return {k: v for k, v in given if not k.lower().endswith("_proxy") and not k.startswith("SSE_")}


def eventually(what, condition):
    end = time.monotonic() + BOUND
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"clients: it never came about: {what}")
        time.sleep(0.02)


def get(address, path):
    """Returns the status of a GET, or None if nobody answers."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


class Server:
    """A process that can be killed, terminated, and started again with the same arguments."""

    def __init__(self, name, arguments, log, ready):
        self.name, self.arguments, self.log, self.ready = name, arguments, log, ready
        self.process = None

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.arguments, env=_own_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        eventually(f"{self.name} is ready, see {self.log}", lambda: self._alive() and self.ready())
        return self

    def _alive(self):
        if self.process.poll() is not None:
            raise SystemExit(f"clients: {self.name} ended with {self.process.returncode}, see {self.log}")
        return True

    def kill(self):
        self.process.kill()
        self.process.wait()

    def terminate(self):
        self.process.terminate()

    def wait(self):
        self.process.wait(BOUND)

    def end(self):
        """Ends the process. nginx gets SIGTERM, because its workers would survive a kill."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM if self.name == "nginx" else signal.SIGKILL)
            self.process.wait(BOUND)


def redis(directory, address):
    host, port = address.split(":")
    data = directory / "redis"
    data.mkdir()
    keeps = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    arguments = ["redis-server", "--bind", host, "--port", port, "--dir", str(data), *keeps]

    def ready():
        try:
            with socket.create_connection((host, int(port)), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(7) == b"+PONG\r\n"
        except OSError:
            return False

    return Server("redis", arguments, directory / "redis.log", ready)


class Gateway(Server):
    def __init__(self, program, directory, redis_address, settings):
        self.address, self.admin = own_address(), own_address()
        arguments = [program, "--listen", self.address, "--admin-listen", self.admin]
        arguments += ["--redis", f"redis://{redis_address}"]
        for key, value in settings.items():
            arguments += ["--set", f"{key}={value}"]
        log = directory / f"gateway-{self.address}.log"
        super().__init__("gateway", arguments, log, lambda: get(self.admin, "/readyz") == 200)

    def subscribers(self):
        """Returns how many streams are live."""
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return int(re.search(r'sse_subscribers\{state="live"\} (\d+)', text)[1])

    def publish(self, items):
        """Publishes items, returns their ids. Repeats them while Redis is away: each has a key."""
        end = time.monotonic() + BOUND
        while True:
            connection = http.client.HTTPConnection(self.address, timeout=30)
            connection.request("POST", "/publish", json.dumps(items), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            body = json.load(answer)
            connection.close()
            if answer.status == 200:
                return [result["id"] for result in body["results"]]
            if answer.status != 503 or time.monotonic() > end:
                raise SystemExit(f"clients: publishing was answered {answer.status}: {body}")
            time.sleep(0.1)


def nginx(directory, name, replicas):
    """Returns nginx with the repository's configuration. If a replica fails, it uses the next."""
    address = own_address()
    conf = directory / name
    (conf / "prefix").mkdir(parents=True)
    target, group = replicas[0], ""
    if len(replicas) > 1:
        target = "replicas"
        others = "".join(f" server {replica} backup;" for replica in replicas[1:])
        group = f"upstream replicas {{ server {replicas[0]};{others} }}\n"
    # `sent_away` needs the whole request in the log, to see which client nginx answered.
    logged = {'"path":"$uri"': '"path":"$request_uri"'}
    _copy("nginx.conf", conf, {"listen 8080 ": f"listen {address} ", "http {\n": "http {\n" + group} | logged)
    _copy("proxy.conf", conf, {"gateway:8080": target})
    _copy("gateway.conf", conf, {})
    arguments = ["nginx", "-e", "stderr", "-p", str(conf / "prefix"), "-c", str(conf / "nginx.conf")]
    server = Server("nginx", arguments, directory / f"{name}.log", lambda: get(address, "/nginx-health") == 200)
    server.address = address
    return server


def sent_away(server):
    """Returns the names (see `Stage.listen`) of clients that nginx answered without a replica."""
    names = set()
    for line in server.log.read_text().splitlines():
        answer = json.loads(line) if line.startswith("{") and line.endswith("}") else {}
        if answer.get("status") == 200 and answer["upstream_status"] == "502":
            names.update(urllib.parse.parse_qs(urllib.parse.urlsplit(answer["path"]).query).get("_", []))
    return names


def _copy(name, to, changes):
    text = (ROOT / "nginx" / name).read_text()
    for old, new in changes.items():
        if text.count(old) != 1:
            raise SystemExit(f"clients: nginx/{name} should say {old!r} once")
        text = text.replace(old, new)
    (to / name).write_text(text)


class Listener:
    """A client's program on one stream, and everything that it printed."""

    changed = threading.Condition()

    def __init__(self, client, path, url, built, log, environment):
        self.client, self.path, self.log = client, path, log
        self.lines = []
        self.over = False
        # Helps to explain an outcome.
        self.printed = open(log.with_suffix(".jsonl"), "wb", buffering=0)
        with open(log, "wb") as errors:
            self.process = subprocess.Popen(
                [*client.command(built), url],
                cwd=ROOT / "clients",
                env={**_own_environment(), **client.environment(built), **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            # sseclient prints its own messages to standard output.
            if line.startswith(b"{"):
                self.printed.write(line)
                with self.changed:
                    self.lines.append(json.loads(line))
                    self.changed.notify_all()
        self.printed.close()
        with self.changed:
            self.over = True
            self.changed.notify_all()

    def has(self, **what):
        return any(what.items() <= line.items() for line in list(self.lines))

    def end(self):
        self.process.kill()
        self.process.wait()


def wait_for(listeners, condition, bound):
    """Waits until the condition holds for every live listener, at most `bound` seconds."""
    with Listener.changed:
        Listener.changed.wait_for(lambda: all(one.over or condition(one) for one in listeners), bound)
