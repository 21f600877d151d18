"""Many subscribers through nginx, each of which judges its own events. For deploy/compose-check."""

import collections
import http.client
import selectors
import socket
import threading
import time

# The subscribers of a channel get each of its events, so fewer channels are more deliveries.
CHANNELS = 100


class Subscriber:
    """One client on one channel. It comes back with its position, as an EventSource does."""

    def __init__(self, load, number):
        self.load, self.number = load, number
        self.channel = f"load-{number % CHANNELS}"
        self.numbers, self.position, self.live = [], None, False
        self.socket, self.buffer, self.head, self.retry = None, b"", True, 3.0
        self.gaps, self.opened = 0, 0

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
            self.gaps += 1
        elif kind == "checkpoint":
            self.live = True
        elif kind is None and "data" in fields:
            self.numbers.append(int(fields["data"]))
        self.position = fields.get("id", self.position)


class Load(threading.Thread):
    """The subscribers, in one thread. Reconnects are kept with their times."""

    def __init__(self, port, token, count):
        super().__init__(daemon=True)
        self.port, self.token = port, token
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
    """Publishes numbers to the channels in turn, at this rate, until stop()."""

    def __init__(self, port, token, per_second, threads=12):
        self.port, self.headers = port, {"Authorization": f"Bearer {token}"}
        self.pause = threads / per_second
        self.published = [0] * CHANNELS
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
        number = self.published[channel]
        for _ in range(100):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                headers = self.headers | {"Idempotency-Key": f"{channel}-{number}"}
                connection.request("POST", f"/channels/load-{channel}", str(number), headers)
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    self.published[channel] = number + 1
                    return
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            self.repeated += 1
            time.sleep(0.2)
        raise RuntimeError(f"load-{channel}: {number} could not be published in 100 attempts")

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


def histogram(times, began, width=2):
    """Returns how many reconnects began in each span of `width` seconds."""
    counts = collections.Counter(int((at - began) // width) * width for at in times)
    return {f"{at}-{at + width} s": counts[at] for at in range(0, max(counts, default=0) + width, width)}
