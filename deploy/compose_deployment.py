"""The Compose project that deploy/compose-check starts, and what its checks share."""

import http.client
import json
import os
import re
import socket
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# All subscribers come from this machine's address and have the same token.
CHANGES = """
services:
  gateway:
    environment: {SSE_LIMITS__STREAMS_PER_ADDRESS: "0", SSE_LIMITS__STREAMS_PER_SUBJECT: "0",
                  SSE_LIMITS__CONNECTIONS_PER_ADDRESS: "0", SSE_LIMITS__CONNECTION_RATE_PER_ADDRESS: "0"}
"""


class Failed(Exception):
    """A check failed. The message says which one, with what was measured."""


def check(held, message):
    if not held:
        raise Failed(message)


def say(message):
    print(f"{time.strftime('%H:%M:%S')}  {message}", flush=True)


def eventually(what, probe, seconds, every=0.25):
    """Calls `probe` until it returns something true, and returns that. Raises Failed if not."""
    end = time.monotonic() + seconds
    last = None
    while time.monotonic() < end:
        try:
            last = probe()
            if last:
                return last
        except (OSError, http.client.HTTPException, subprocess.SubprocessError) as error:
            last = error
        time.sleep(every)
    raise Failed(f"not within {seconds} s: {what} (last: {last!r})")


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(*command, timeout=60, **options):
    return subprocess.run(command, check=True, timeout=timeout, text=True, stdout=subprocess.PIPE, **options).stdout


def request(method, host, port, path, body=None, headers=None, timeout=10):
    """Sends one request on a new connection. Returns status, headers and body."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


class Deployment:
    """The Compose project and its containers. A `topology` is started with its file deploy/*.env."""

    def __init__(self, topology=None):
        v2 = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
        self.project = f"sse-check-{os.getpid()}"
        self.changes = tempfile.NamedTemporaryFile("w", suffix=".yml")
        self.changes.write(CHANGES)
        self.changes.flush()
        chosen = ["--env-file", str(ROOT / f"deploy/{topology}.env")] if topology else []
        self.compose_command = [*(["docker", "compose"] if v2 else ["docker-compose"]), *chosen, "-p", self.project,
                                "-f", str(ROOT / "docker-compose.yml"), "-f", self.changes.name]
        self.port, self.prometheus_port = free_port(), free_port()
        self.token = None
        # The environment would come before the topology's file.
        kept = {name: value for name, value in os.environ.items()
                if name not in ("COMPOSE_PROFILES", "REDIS_START", "GATEWAY_REDIS_URL")}
        self.environment = {**kept, "SSE_PORT": str(self.port), "PROMETHEUS_PORT": str(self.prometheus_port)}

    def compose(self, *arguments, timeout=120, quiet=True):
        return run(*self.compose_command, *arguments, timeout=timeout, env=self.environment, cwd=ROOT,
                   stderr=subprocess.DEVNULL if quiet else None)

    def containers(self, service=None):
        """With `-a`, because v2 would not list a container that has crashed."""
        return self.compose("ps", "-a", "-q", *([service] if service else [])).split()

    def container(self, service):
        """The container of a service that has one, from Docker, because Compose takes a second to answer."""
        labels = [f"label=com.docker.compose.project={self.project}", f"label=com.docker.compose.service={service}"]
        found = run("docker", "ps", "-aq", "--no-trunc", "--filter", labels[0], "--filter", labels[1]).split()
        check(len(found) == 1, f"{service} has {len(found)} containers")
        return found[0]

    def addresses(self, network):
        """The address of each running container in that network, by service."""
        found = {}
        for container in run("docker", "ps", "-q", "--filter", f"network={self.project}_{network}").split():
            described = self.inspect(container)
            service = described["Config"]["Labels"]["com.docker.compose.service"]
            found.setdefault(service, described["NetworkSettings"]["Networks"][f"{self.project}_{network}"]["IPAddress"])
        return found

    def redis_cli(self, service, *arguments, timeout=30):
        return run("docker", "exec", self.container(service), "redis-cli", *arguments, timeout=timeout)

    def inspect(self, container):
        return json.loads(run("docker", "inspect", container))[0]

    def health(self):
        """Name and health of each container, or "no health check"."""
        described = [self.inspect(container) for container in self.containers()]
        # The container that creates the keys has ended, and is fine if its exit code is 0.
        described = [d for d in described if "keys" not in d["Name"] or d["State"]["ExitCode"] != 0]
        return {d["Name"].lstrip("/"): d["State"].get("Health", {}).get("Status", "no health check") for d in described}

    def demo_token(self):
        return run("docker", "exec", next(iter(self.replicas())), "cat", "/run/sse/demo.token").strip()

    def replicas(self):
        """Each running replica's address in the network that it shares with nginx, by container."""
        found = {}
        for container in self.containers("gateway"):
            described = self.inspect(container)
            if described["State"]["Running"]:
                found[container] = described["NetworkSettings"]["Networks"][f"{self.project}_front"]["IPAddress"]
        return found

    def published(self):
        """This machine's addresses on which ports of containers are published."""
        bindings = [self.inspect(container)["HostConfig"]["PortBindings"] or {} for container in self.containers()]
        return {binding["HostIp"] for ports in bindings for port in ports.values() for binding in port}

    def subscribers(self, address):
        """How many streams are open on one replica, from its metrics."""
        status, _, body = request("GET", address, 9090, "/metrics")
        check(status == 200, f"{address}: /metrics answered {status}")
        values = re.findall(rb"^sse_subscribers(?:\{[^}]*\})? (\S+)", body, re.MULTILINE)
        check(values, f"{address}: /metrics has no sse_subscribers")
        return int(sum(map(float, values)))

    def serving(self):
        """The containers that have at least one stream open."""
        return [container for container, address in self.replicas().items() if self.subscribers(address)]

    def wait_healthy(self, seconds):
        def all_healthy():
            health = self.health()
            return health if health and set(health.values()) == {"healthy"} else None
        try:
            return eventually("every container healthy", all_healthy, seconds, every=1)
        except Failed as failed:
            raise Failed(f"{failed}; health: {self.health()}") from None

    def targets_up(self):
        query = "/api/v1/query?query=up%7Bjob%3D%22gateway%22%7D"
        status, _, body = request("GET", "127.0.0.1", self.prometheus_port, query)
        if status != 200:  # Prometheus is still loading its data.
            return set()
        return {r["metric"]["instance"] for r in json.loads(body)["data"]["result"] if r["value"][1] == "1"}

    def wait_targets(self):
        """Waits until Prometheus scrapes every running replica."""
        wanted = {f"{address}:9090" for address in self.replicas().values()}
        started = time.monotonic()
        eventually(f"Prometheus has {len(wanted)} targets up", lambda: wanted <= self.targets_up(), 60, every=1)
        say(f"  Prometheus: {len(wanted)} replicas up, found within {time.monotonic() - started:.0f} s")

    def started_at(self, service):
        return [self.inspect(container)["State"]["StartedAt"] for container in self.containers(service)]

    def logs(self):
        command = [*self.compose_command, "logs", "--no-color", "--tail", "30"]
        return subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True,
                              timeout=30, check=False).stdout

    def down(self):
        subprocess.run([*self.compose_command, "down", "-v", "--remove-orphans", "-t", "1"], env=self.environment,
                       cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120, check=False)
