"""The scenarios. All clients run at once, each on streams of its own, directly and through nginx.

A scenario returns the outcome of each listener in each cell:
{(client, cell, path, cured): outcome}.
"""

import itertools
import time

import judge
from probe import Probe
from processes import Gateway, Listener, eventually, get, nginx, own_address, redis, sent_away, wait_for

# How long a scenario waits for a client after everything works again, in seconds.
PATIENCE = 20
CHANNEL = "matrix"

SMALL = [
    ("plain text", "plain", "message"),
    ("typed event", '{"n": 2}', "note"),
    ("line ends", "first\nsecond\n\nfourth\n", "message"),
    ("leading spaces", "  two of them", "message"),
    ("é 漢 emoji", "é 漢 🙂", "message"),
    ("U+0085 and U+2028", "next\u0085line\u2028separator", "message"),
    ("empty data", "", "message"),
    ("60 KB line", "x" * 60_000, "message"),
    ("plain text", "last", "message"),
]
LONG = [
    ("100 KB of lines", "\n".join(["z" * 99] * 1000), "message"),
    ("200 KB line", "y" * 200_000, "message"),
    ("plain text", "behind them", "message"),
]

# The cells that each stage fills.
CELLS = {name: [name] for name in ("idle", "killed", "drained", "redis")} | {"published": ["published", "long"]}


class Stage:
    """The processes of a scenario: Redis, gateways, nginx, and a listener per client and path."""

    def __init__(self, name, run, clients, settings=None):
        self.directory = run.directory / name
        self.directory.mkdir()
        self.name, self.run, self.clients = name, run, clients
        # `open_wait` is long, so that a stream on a slow machine never begins with a gap `late`.
        self.settings = {"stream.heartbeat": "1s", "stream.retry": "1s", "stream.open_wait": "30s", "drain.spread": "1s"}
        self.settings |= settings or {}
        self.started, self.listeners, self.published = [], [], []
        self.keys = itertools.count()

    def __enter__(self):
        try:
            self.redis = self._start(redis(self.directory, own_address()))
            self.gateway = self.another_gateway()
            # No scenario breaks this replica, so publishing always works.
            self.other = self.another_gateway()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for one in self.listeners + list(reversed(self.started)):
            one.end()

    def _start(self, server):
        self.started.append(server)
        return server.start()

    def another_gateway(self, **settings):
        address = self.redis.arguments[2] + ":" + self.redis.arguments[4]
        changed = self.settings | {key.replace("__", "."): value for key, value in settings.items()}
        return self._start(Gateway(self.run.gateway, self.directory, address, changed))

    def nginx(self, name, *replicas):
        return self._start(nginx(self.directory, name, [replica.address for replica in replicas]))

    def listen(self, path, server, query=""):
        """Starts every client on this path, and those with a cure once more with it."""
        url = f"http://{server.address}/events?channel={CHANNEL}{query}"
        for client in self.clients:
            curable = any(client.cured_in(cell, path) for cell in CELLS[self.name])
            for cured in (False, True) if curable else (False,):
                name = f"{client.file_name}-{path}{'-cured' if cured else ''}"
                environment = client.cure["env"] if cured else {}
                log = self.directory / f"{name}.log"
                listener = Listener(client, path, f"{url}&_={name}", self.run.built, log, environment)
                listener.name, listener.cured = name, cured
                self.listeners.append(listener)

    def opened(self):
        wait_for(self.listeners, lambda one: one.has(what="event", type="checkpoint"), 60)

    def publish(self, items):
        body = [{"channel": CHANNEL, "data": data, "idempotency_key": f"{self.name}-{next(self.keys)}"}
                | ({"event": kind} if kind != "message" else {}) for _, data, kind in items]
        ids = self.other.publish(body)
        self.published += [(id, kind, data, label) for id, (label, data, kind) in zip(ids, items)]
        return ids[-1]

    def heard(self, id, bound=PATIENCE):
        wait_for(self.listeners, lambda one: one.has(what="event", id=id), bound)

    def judged(self, cell, by=judge.judge):
        outcomes = {}
        for one in self.listeners:
            outcome = by(self.published, one.lines, one.over)
            outcomes[one.client.name, cell, one.path, one.cured] = outcome
        return outcomes

    def forget(self):
        """Forgets what was published and heard, after it was judged."""
        self.published = []
        for one in self.listeners:
            del one.lines[:]


def texts(*words):
    return [(word, word, "message") for word in words]


def idle(run, clients):
    """Heartbeats every second; on streams without checkpoints, comments at the default 15 s."""
    with Stage("idle", run, clients) as stage:
        slow = stage.another_gateway(stream__heartbeat="15s")
        stage.listen("direct", stage.gateway)
        stage.listen("nginx", stage.nginx("nginx", stage.gateway))
        stage.opened()
        # Without checkpoints, no client prints that its stream is open.
        stage.listen("comments", slow, "&checkpoints=off")
        count = sum(one.path == "comments" for one in stage.listeners)
        eventually("the streams without checkpoints are open", lambda: slow.subscribers() == count)
        stage.heard(stage.publish(texts("before it is idle")), 5)
        time.sleep(20)
        stage.heard(stage.publish(texts("after it was idle")), 5)
        run.saw(stage)
        return stage.judged("idle", judge.judge_idle)


def published(run, clients):
    """Publishes events of every kind, and then some that are too long for some clients."""
    with Stage("published", run, clients) as stage:
        stage.listen("direct", stage.gateway)
        stage.listen("nginx", stage.nginx("nginx", stage.gateway))
        stage.opened()
        stage.heard(stage.publish(SMALL))
        outcomes = stage.judged("published")
        run.saw(stage)
        stage.forget()
        # Clients that cannot read a long event need this time to try it several times.
        stage.heard(stage.publish(LONG), 12)
        run.saw(stage)
        return outcomes | stage.judged("long")


def killed(run, clients):
    """Kills the gateway and starts it again. Only one of the two nginx has another replica."""
    with Stage("killed", run, clients) as stage:
        stage.listen("direct", stage.gateway)
        stage.listen("nginx", stage.nginx("nginx", stage.gateway, stage.other))
        alone = stage.nginx("nginx-alone", stage.gateway)
        stage.listen("alone", alone)
        stage.opened()
        stage.heard(stage.publish(texts("before one", "before two")), 5)
        stage.gateway.kill()
        stage.publish(texts("while it was away one", "while it was away two"))
        # Long enough for refused connections, and until nginx has sent every client away.
        time.sleep(2.5)
        left = [one for one in stage.listeners if one.path == "alone"]
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not {one.name for one in left if not one.over} <= sent_away(alone):
            time.sleep(0.1)
        stage.gateway.start()
        return _afterwards(run, stage, "killed")


def drained(run, clients):
    """Drains the gateway and starts it a second after its end. nginx has another replica."""
    with Stage("drained", run, clients) as stage:
        stage.listen("direct", stage.gateway)
        stage.listen("nginx", stage.nginx("nginx", stage.gateway, stage.other))
        stage.opened()
        stage.heard(stage.publish(texts("before one", "before two")), 5)
        stage.gateway.terminate()
        stage.publish(texts("while it drained one", "while it drained two"))
        stage.gateway.wait()
        stage.publish(texts("while it was away"))
        time.sleep(1)
        stage.gateway.start()
        return _afterwards(run, stage, "drained")


def redis_lost(run, clients):
    """Kills Redis and starts it with its data after 4 s."""
    with Stage("redis", run, clients, {"redis.reconnect_max": "500ms"}) as stage:
        stage.listen("direct", stage.gateway)
        stage.listen("nginx", stage.nginx("nginx", stage.gateway))
        stage.opened()
        stage.heard(stage.publish(texts("before one", "before two")), 5)
        stage.redis.kill()
        time.sleep(4)
        stage.redis.start()
        eventually("the gateway has Redis again", lambda: get(stage.gateway.admin, "/readyz") == 200)
        stage.heard(stage.publish(texts("after one", "after two")))
        run.saw(stage)
        return stage.judged("redis", judge.judge_redis)


def probed(run, clients):
    """Runs clients against a server that cuts them off and records how they reconnect."""
    probe, listeners = Probe(), []
    for client in clients:
        url = f"http://{probe.address}/{client.file_name}"
        log = run.directory / f"probe-{client.file_name}.log"
        listeners.append(Listener(client, "probe", url, run.built, log, {}))
    end = time.monotonic() + 30
    while time.monotonic() < end and not all(one.over or probe.finished(one.client.file_name) for one in listeners):
        time.sleep(0.1)
    for one in listeners:
        one.end()
    run.probed = {c.name: (probe.position(c.file_name), probe.retry(c.file_name)) for c in clients}
    return {}


def _afterwards(run, stage, cell):
    """Waits for the clients that reconnect, then publishes once more to reveal duplicates."""
    last = stage.published[-1][0]
    stage.heard(last)
    there = [one for one in stage.listeners if one.has(what="event", id=last)]
    after = stage.publish(texts("after"))
    wait_for(there, lambda one: one.has(what="event", id=after), 10)
    run.saw(stage)
    return stage.judged(cell)


ALL = {"idle": idle, "published": published, "killed": killed, "drained": drained, "redis": redis_lost, "probe": probed}
