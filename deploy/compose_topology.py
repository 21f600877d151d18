"""Breaks Redis under load, behind Sentinels or as a Redis Cluster. For deploy/compose-check --topology.

While --subscribers clients listen through nginx and 100 events a second are published:

 - cluster: a third of a master's slots is moved to another master with redis-cli. Nobody loses an
   event, gets one twice or out of order, or is told anything.
 - The container of a master is killed and, after the failover, started again; then that of another
   master. Behind Sentinels that is the one that took over. Each acknowledged event reaches each
   subscriber exactly once, in order, or the subscriber is told of a gap where it is missing. In a
   cluster the channels of the other masters are told nothing. Publishing works again everywhere.

Then, with an event in the history of each channel:

 - `restart` of all containers, and `down` and `up` in a network with other addresses. Each time all
   is healthy again, the histories are there, and publishing works.
"""

import binascii
import collections
import contextlib
import json
import time

import compose_load
from compose_deployment import Failed, bearer, check, eventually, request, run, say

EVENTS_PER_SECOND = 100
# Redis replaces a master after five to ten seconds. A machine that is busy may take longer.
BOUND = 60
PARTITIONS = 16


class Sentinels:
    servers = ("redis", "redis-2")

    def __init__(self, deployment):
        self.deployment = deployment

    def ask(self, *command):
        return self.deployment.redis_cli("sentinel-1", "-p", "26379", "sentinel", *command)

    def master(self):
        return self.ask("get-master-addr-by-name", "mymaster").split()[0]

    def masters_of(self, channels):
        """The service that has each channel."""
        return dict.fromkeys(channels, self.master())

    def victims(self):
        """The services to kill, one after the other, each asked for when the one before is back."""
        for _ in range(2):
            yield self.master()

    def is_replaced(self, service):
        return self.master() != service

    def is_whole(self):
        """Whether one is master, the other its replica, in sync, and all Sentinels see that."""
        roles = {name: self.deployment.redis_cli(name, "role").split() for name in self.servers}
        master = self.master()
        replica = next(name for name in self.servers if name != master)
        seen = self.ask("replicas", "mymaster").splitlines()
        return (roles[master][0] == "master" and roles[replica][:4] == ["slave", master, "6379", "connected"]
                and dict(zip(seen[::2], seen[1::2])).get("flags") == "slave")


class Cluster:
    servers = ("redis", "redis-2", "redis-3", "redis-4", "redis-5", "redis-6")

    def __init__(self, deployment):
        self.deployment = deployment

    def nodes(self):
        """The nodes as the first sees them that answers: service, id, flags and slots of each."""
        services = {address: service for service, address in self.deployment.addresses("back").items()}
        asked = next(service for service in self.servers if service in services.values())
        for line in self.deployment.redis_cli(asked, "cluster", "nodes").splitlines():
            identity, address, flags, *_ = fields = line.split()
            ranges = [[int(n) for n in r.split("-")] for r in fields[8:] if not r.startswith("[")]
            slots = {slot for r in ranges for slot in range(r[0], r[-1] + 1)}
            yield services.get(address.split(":")[0]), identity, flags.split(","), slots

    def masters(self):
        """The slots of each master that serves some, by service."""
        return {service: slots for service, _, flags, slots in self.nodes()
                if service and slots and not {"fail", "fail?"} & set(flags)}

    def masters_of(self, channels):
        masters = self.masters().items()
        return {channel: next(service for service, slots in masters if slot_of(channel) in slots) for channel in channels}

    def victims(self):
        killed = set()
        for _ in range(2):
            masters = self.masters()
            service = max(masters.keys() - killed, key=lambda name: len(partitions_in(masters[name])))
            killed.add(service)
            yield service

    def is_replaced(self, service):
        masters = self.masters()
        return service not in masters and sum(map(len, masters.values())) == 16384

    def is_whole(self):
        if self.deployment.inspect(self.deployment.container("keep-cluster"))["State"]["Health"]["Status"] != "healthy":
            return False
        nodes = list(self.nodes())
        return (len(nodes) == 6 and all(flags[-1] in ("master", "slave") for _, _, flags, _ in nodes)
                and sum("master" in flags for _, _, flags, _ in nodes) == 3)

    def reshard(self):
        """Moves a third of a master's slots to another one. Returns what it moved, as text."""
        before = self.masters()
        source = max(before, key=lambda name: len(partitions_in(before[name])))
        target = next(name for name in before if name != source)
        ids = {service: identity for service, identity, _, _ in self.nodes()}
        # Not 127.0.0.1: redis-cli tells the source to send its keys there, if this node is the target.
        self.deployment.redis_cli("redis", "--cluster", "reshard", "redis:6379", "--cluster-from", ids[source],
                                  "--cluster-to", ids[target], "--cluster-slots", str(len(before[source]) // 3),
                                  "--cluster-yes", timeout=300)
        after = self.masters()
        moved = partitions_in(before[source]) - partitions_in(after[source])
        check(moved and moved <= partitions_in(after[target]), f"{source} has {len(after[source])} slots, {moved} moved")
        return f"{len(before[source] - after[source])} slots with {len(moved)} partitions from {source} to {target}"


TOPOLOGIES = {"sentinel": Sentinels, "cluster": Cluster}


def slot_of(channel):
    return binascii.crc_hqx(str(binascii.crc_hqx(channel.encode(), 0) % PARTITIONS).encode(), 0) % 16384


def partitions_in(slots):
    return {p for p in range(PARTITIONS) if binascii.crc_hqx(str(p).encode(), 0) % 16384 in slots}


@contextlib.contextmanager
def under_load(deployment, name, count):
    """Subscribers and publishers on channels of their own. Behind the block every subscriber has the
    last event of its channel."""
    load = compose_load.Load(deployment.port, deployment.token, count, name)
    load.start()
    publishers = None
    try:
        eventually(f"{count} streams are live", lambda: load.error or load.live() == count, 120, every=0.5)
        check(not load.error, f"the subscribers: {load.error!r}")
        publishers = compose_load.Publishers(deployment.port, deployment.token, EVENTS_PER_SECOND,
                                             compose_load.CHANNELS, name)
        time.sleep(3)
        yield load, publishers
        time.sleep(3)
        publishers.stop()
        check(not publishers.error and not load.error, f"{publishers.error or load.error!r}")

        def have_last():
            return all(s.ids and s.ids[-1] >= publishers.acknowledged[s.number % compose_load.CHANNELS][-1][0]
                       for s in load.subscribers)
        eventually("every subscriber has the last event of its channel", have_last, BOUND, every=0.5)
        time.sleep(2)  # A duplicate would arrive in this time.
    finally:
        if publishers:
            publishers.stop()
        load.stopping.set()
        load.join(10)


def describe(load, publishers):
    reasons = collections.Counter(gap.reason for s in load.subscribers for gap in s.told)
    check(not load.refused, f"subscribers were refused: {load.refused}")
    return (f"{sum(publishers.published)} events, {publishers.repeated} attempts repeated; "
            f"{sum(len(s.ids) for s in load.subscribers)} received, {compose_load.missing(load, publishers)} missing; "
            f"told {dict(reasons) or 'nothing'}, {len(load.reconnects)} reconnects")


def resharded(deployment, cluster, count):
    say("slots are moved under load")
    with under_load(deployment, "reshard", count) as (load, publishers):
        started = time.monotonic()
        moved = cluster.reshard()
        took = time.monotonic() - started
    say(f"  {moved} in {took:.1f} s: {describe(load, publishers)}; "
        f"longest pause of a channel {max(publishers.longest_pauses()):.1f} s")
    faults = compose_load.faults(load, publishers.published)
    check(faults == (0, 0, 0), f"lost, doubled, out of order: {faults}")
    check(not any(s.told for s in load.subscribers), "a subscriber was told of a gap, although nothing was lost")
    deployment.wait_healthy(BOUND)


def killed(deployment, topology, service, name, count):
    say(f"the container of the master {service} is killed under load")
    masters = topology.masters_of([f"{name}-{n}" for n in range(compose_load.CHANNELS)])
    concerned = {n for n, master in enumerate(masters.values()) if master == service}
    check(concerned, f"no channel is on {service}")
    with under_load(deployment, name, count) as (load, publishers):
        began = time.monotonic()
        run("docker", "kill", deployment.container(service))
        eventually(f"{service} is replaced", lambda: topology.is_replaced(service), BOUND)
        replaced = time.monotonic() - began

        def work():
            now = [of[-1][1] for of in publishers.acknowledged]
            return publishers.error or all(at > began + replaced for at in now)
        eventually("publishing works on every channel", work, BOUND)
        publishing = time.monotonic() - began
        run("docker", "start", deployment.container(service))
        eventually("Redis is whole", topology.is_whole, BOUND, every=1)
        whole = time.monotonic() - began
    pauses = publishers.longest_pauses()
    others = [pause for n, pause in enumerate(pauses) if n not in concerned]
    say(f"  replaced after {replaced:.1f} s, publishing everywhere after {publishing:.1f} s, whole after {whole:.1f} s")
    say(f"  {describe(load, publishers)}")
    say(f"  longest pause of its {len(concerned)} channels {max(pauses[n] for n in concerned):.1f} s"
        + (f", of the {len(others)} others {max(others):.1f} s" if others else ""))
    broken = compose_load.broken(load, publishers)
    check(not broken, f"the promise was broken {len(broken)} times: {broken[:5]}")
    told = [s for s in load.subscribers if s.told and s.number % compose_load.CHANNELS not in concerned]
    check(not told, f"{len(told)} subscribers of other masters were told of a gap")
    deployment.wait_healthy(BOUND)


def publish(deployment, channel, data):
    key = bearer(deployment.token) | {"Idempotency-Key": data.replace(" ", "-")}
    return request("POST", "127.0.0.1", deployment.port, f"/channels/{channel}", data, key)[0]


def history(deployment, channel):
    status, _, body = request("GET", "127.0.0.1", deployment.port, f"/channels/{channel}/history",
                              headers=bearer(deployment.token))
    return [event["data"] for event in json.loads(body)["events"]] if status == 200 else None


def survives(deployment, topology, what, disturb, already):
    """Publishes to channels of all partitions, disturbs, and looks for all of it and for `already`."""
    say(what)
    channels = [f"kept-{n}" for n in range(4 * PARTITIONS)]
    for channel in channels:
        check(publish(deployment, channel, what) == 200, f"{channel}: not published before")
    time.sleep(2)  # Redis syncs its file each second.
    started = time.monotonic()
    disturb()
    deployment.wait_healthy(3 * BOUND)
    eventually("Redis is whole", topology.is_whole, BOUND, every=1)
    took = time.monotonic() - started
    wanted = [*already, what]
    for channel in channels:
        eventually(f"the history of {channel} is {wanted}", lambda: history(deployment, channel) == wanted, BOUND)
    for channel in channels:
        eventually(f"{channel} takes an event", lambda: publish(deployment, channel, f"after {what}") == 200, BOUND)
    say(f"  all healthy and whole after {took:.0f} s; {len(channels)} histories complete, as many channels publish")
    return [*wanted, f"after {what}"]


def made_anew(deployment):
    """Removes containers and networks, takes the network's addresses away, and starts again."""
    before = deployment.addresses("back")
    subnet = run("docker", "network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", f"{deployment.project}_back")
    deployment.compose("down", "-t", "30")
    taken = f"{deployment.project}-taken"
    run("docker", "network", "create", "--internal", "--subnet", subnet.strip(), taken)
    try:
        deployment.compose("up", "-d", "--no-build", timeout=300)
    finally:
        run("docker", "network", "rm", taken)
    after = deployment.addresses("back")
    same = [service for service in after if after[service] in before.values()]
    check(not same, f"{same} have addresses of before")
    say(f"  redis was {before['redis']} and is {after['redis']}")


def prove(deployment, name, count):
    topology = TOPOLOGIES[name](deployment)
    eventually("Redis is whole", topology.is_whole, BOUND, every=1)
    if name == "cluster":
        resharded(deployment, topology, count)
    for n, service in enumerate(topology.victims(), 1):
        killed(deployment, topology, service, f"kill-{n}", count)
    kept = survives(deployment, topology, "all containers are restarted",
                    lambda: deployment.compose("restart", "-t", "30", timeout=300), [])
    survives(deployment, topology, "all containers are made anew, with other addresses",
             lambda: made_anew(deployment), kept)
