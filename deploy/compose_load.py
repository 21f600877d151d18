"""Many subscribers through nginx, each of which judges its own events. For deploy/compose-check."""

import bisect
import collections
import http.client
import json
import selectors
import socket
import threading
import time

# The subscribers of a channel get each of its events, so fewer channels are more deliveries.
CHANNELS = 100


def as_number(event_id):
    milliseconds, _, sequence = event_id.partition("-")
    return int(milliseconds), int(sequence)


class Gap:
    """A gap that a subscriber was told: behind how many of its events. It speaks of what is missing
    up to the next checkpoint, because the events that are still in the history follow the gap."""

    def __init__(self, start, reason):
        self.start, self.end, self.reason = start, None, reason

    def explains(self, index):
        return self.start <= index and (self.end is None or index <= self.end)


class Subscriber:
    """One client on one channel. It comes back with its position, as an EventSource does."""

    def __init__(self, load, number):
        self.load, self.number = load, number
        self.channel = f"{load.name}-{number % CHANNELS}"
        self.numbers, self.ids, self.position, self.live = [], [], None, False
        self.socket, self.buffer, self.head, self.retry = None, b"", True, 3.0
        self.told, self.opened = [], 0

    def open(self):
        resumed = f"Last-Event-ID: {self.position}\r\n" if self.position else ""
        head = (f"GET /events?channel={self.channel} HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
                f"Authorization: Bearer {self.load.token}\r\n{resumed}\r\n")
        self.socket = socket.create_connection(("127.0.0.1", self.load.port), timeout=30)
        self.socket.sendall(head.encode())
        self.socket.setblocking(False)
        self.buffer, self.head = b"", True
        self.opened += 1
        self.load.selector.register(self.socket, selectors.EVENT_READ, self)

    def readable(self):
        try:
            got = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            got = b""
        if not got:
            self.load.selector.unregister(self.socket)
            self.socket.close()
            self.load.ended(self)
            return
        self.buffer += got
        while (end := self.buffer.find(b"\r\n\r\n" if self.head else b"\n\n")) >= 0:
            block, self.buffer = self.buffer[:end], self.buffer[end + (4 if self.head else 2):]
            if self.head:
                self.head = False
                if not block.startswith(b"HTTP/1.1 200"):
                    self.load.refused[block.split(b"\r\n")[0].decode()] += 1
            else:
                self.block(block.decode())

    def block(self, text):
        fields = dict(line.split(": ", 1) for line in text.split("\n") if ": " in line)
        if "retry" in fields:
            self.retry = int(fields["retry"]) / 1000
        kind = fields.get("event")
        if kind == "gap":
            self.told.append(Gap(len(self.ids), json.loads(fields["data"])["reason"]))
        elif kind == "checkpoint":
            self.live = True
            for gap in self.told:
                gap.end = len(self.ids) if gap.end is None else gap.end
        elif kind is None and "data" in fields:
            self.numbers.append(int(fields["data"]))
            self.ids.append(as_number(fields["id"]))
        self.position = fields.get("id", self.position)


class Load(threading.Thread):
    """The subscribers, in one thread. Reconnects are kept with their times."""

    def __init__(self, port, token, count, name="load"):
        super().__init__(daemon=True)
        self.port, self.token, self.name = port, token, name
        self.selector = selectors.DefaultSelector()
        self.refused = collections.Counter()
        self.subscribers = [Subscriber(self, number) for number in range(count)]
        self.waiting = []  # (when, subscriber)
        self.reconnects, self.error, self.stopping = [], None, threading.Event()

    def ended(self, subscriber):
        self.waiting.append((time.monotonic() + subscriber.retry, subscriber))

    def run(self):
        try:
            for subscriber in self.subscribers:
                subscriber.open()
            while not self.stopping.is_set():
                for key, _ in self.selector.select(timeout=0.05):
                    key.data.readable()
                now = time.monotonic()
                due = [entry for entry in self.waiting if entry[0] <= now]
                self.waiting = [entry for entry in self.waiting if entry[0] > now]
                for _, subscriber in due:
                    self.reconnects.append(time.monotonic())
                    subscriber.open()
        except Exception as error:  # The main thread raises it.
            self.error = error

    def live(self):
        return sum(subscriber.live for subscriber in self.subscribers)


class Publishers:
    """Publishes numbers to the channels in turn, at this rate, until stop(). With a thread for each
    channel, one that takes nothing delays no other."""

    PATIENCE = 90  # Seconds for one event.

    def __init__(self, port, token, per_second, threads=12, name="load"):
        self.port, self.name, self.headers = port, name, {"Authorization": f"Bearer {token}"}
        self.pause = threads / per_second
        self.published = [0] * CHANNELS
        # By channel: the acknowledged ids with their times, and the numbers that had to be repeated.
        self.acknowledged = [[] for _ in range(CHANNELS)]
        self.doubtful = [set() for _ in range(CHANNELS)]
        self.repeated, self.error, self.stopping = 0, None, threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(n, threads), daemon=True) for n in range(threads)]
        for thread in self.threads:
            thread.start()

    def _run(self, first, step):
        try:
            due = time.monotonic()
            while True:
                for channel in range(first, CHANNELS, step):
                    if self.stopping.is_set():
                        return
                    self._publish(channel)
                    due += self.pause
                    time.sleep(max(0, due - time.monotonic()))
        except Exception as error:
            self.error = error

    def _publish(self, channel):
        number, end = self.published[channel], time.monotonic() + self.PATIENCE
        while time.monotonic() < end:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                headers = self.headers | {"Idempotency-Key": f"{channel}-{number}"}
                connection.request("POST", f"/channels/{self.name}-{channel}", str(number), headers)
                answer = connection.getresponse()
                body = answer.read()
                if answer.status == 200:
                    self.acknowledged[channel].append((as_number(json.loads(body)["id"]), time.monotonic()))
                    self.published[channel] = number + 1
                    return
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            self.doubtful[channel].add(number)
            self.repeated += 1
            time.sleep(0.2)
        raise RuntimeError(f"{self.name}-{channel}: {number} could not be published in {self.PATIENCE} s")

    def longest_pauses(self):
        """The longest time between two acknowledged events, by channel, in seconds."""
        times = [[at for _, at in acknowledged] for acknowledged in self.acknowledged]
        return [max((b - a for a, b in zip(of, of[1:])), default=0) for of in times]

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(60)


def faults(load, published):
    """Returns how many events were lost, doubled and out of order, over all subscribers."""
    lost = doubled = disordered = 0
    for subscriber in load.subscribers:
        total, got = published[subscriber.number % CHANNELS], subscriber.numbers
        lost += len(set(range(total)) - set(got))
        doubled += len(got) - len(set(got))
        disordered += sum(b < a for a, b in zip(got, got[1:]))
    return lost, doubled, disordered


def broken(load, publishers):
    """Returns what breaks the promise where gaps may be told, as text. Judges by event ids: each
    acknowledged one reached each subscriber of its channel exactly once, in order, or a gap stands
    where it is missing. Others may only be attempts that were answered with an error."""
    found = []
    for subscriber in load.subscribers:
        channel, got = subscriber.number % CHANNELS, subscriber.ids
        known = {event_id for event_id, _ in publishers.acknowledged[channel]}
        name = f"subscriber {subscriber.number} of {subscriber.channel}"
        found += [f"{name}: {b} after {a}" for a, b in zip(got, got[1:]) if b <= a]
        for event_id in sorted(known - set(got)):
            if not any(gap.explains(bisect.bisect(got, event_id)) for gap in subscriber.told):
                found.append(f"{name}: {event_id} is missing without a gap")
        for event_id, number in zip(got, subscriber.numbers):
            if event_id not in known and number not in publishers.doubtful[channel]:
                found.append(f"{name}: {event_id} with {number} was never published")
    return found


def missing(load, publishers):
    """How many acknowledged events did not come, over all subscribers."""
    acknowledged = [{event_id for event_id, _ in of} for of in publishers.acknowledged]
    return sum(len(acknowledged[s.number % CHANNELS] - set(s.ids)) for s in load.subscribers)


def histogram(times, began, width=2):
    """Returns how many reconnects began in each span of `width` seconds."""
    counts = collections.Counter(int((at - began) // width) * width for at in times)
    return {f"{at}-{at + width} s": counts[at] for at in range(0, max(counts, default=0) + width, width)}
