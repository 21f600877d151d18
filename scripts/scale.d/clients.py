"""Many EventSources in one process, with little memory for each.

    clients.py --addr HOST:PORT --streams N --channels M --first K

Stream n listens to channel idle-((K + n) % M). Each stream reconnects like a browser: after the time
that the server's `retry:` says, with the last id that it saw. Commands come on standard input, one a
line; `report` is answered with one line of JSON, `end` ends the program.
"""

import argparse
import errno
import heapq
import json
import os
import random
import select
import socket
import sys
import time

# How many streams may be opening at once, so that the server's backlog does not overflow.
OPENING = 256
# Not in Python's socket module before 3.12.
IP_BIND_ADDRESS_NO_PORT = 24


class Stream:
    __slots__ = ("socket", "channel", "last_id", "retry", "open", "tail", "opening")

    def __init__(self, channel):
        self.socket = None
        self.channel = channel
        self.last_id = b""
        self.retry = 3.0
        self.open = False
        self.opening = False
        self.tail = b""


class Clients:
    def __init__(self, host, port, streams, channels, first):
        self.addr = (host, port)
        self.streams = [Stream((first + n) % channels) for n in range(streams)]
        self.poll = select.epoll()
        self.by_fd = {}
        self.due = [(0.0, n) for n in range(streams)]
        self.opening = self.live = self.opened = self.gaps = self.events = self.away = self.refused = 0

    def start(self, n):
        stream = self.streams[n]
        connection = socket.socket()
        connection.setblocking(False)
        # From four addresses: once half of an address's ports lead to one server, Linux searches through
        # all of them for each further connection.
        connection.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        connection.bind((f"127.78.0.{1 + n % 4}", 0))
        code = connection.connect_ex(self.addr)
        if code not in (0, errno.EINPROGRESS):
            connection.close()
            self.later(n)
            return
        stream.socket, stream.open, stream.opening, stream.tail = connection, False, True, b""
        self.opening += 1
        self.by_fd[connection.fileno()] = n
        self.poll.register(connection.fileno(), select.EPOLLOUT)

    def later(self, n):
        stream = self.streams[n]
        heapq.heappush(self.due, (time.monotonic() + stream.retry * (0.75 + random.random() / 2), n))

    def close(self, n):
        stream = self.streams[n]
        if stream.opening:
            stream.opening = False
            self.opening -= 1
        if stream.open:
            stream.open = False
            self.live -= 1
        self.by_fd.pop(stream.socket.fileno(), None)
        stream.socket.close()
        stream.socket = None
        self.later(n)

    def send(self, n):
        stream = self.streams[n]
        resume = b"Last-Event-ID: " + stream.last_id + b"\r\n" if stream.last_id else b""
        request = (b"GET /events?channel=idle-%d HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n%s\r\n"
                   % (stream.channel, resume))
        try:
            stream.socket.send(request)
        except OSError:
            self.refused += 1
            return self.close(n)
        self.poll.modify(stream.socket.fileno(), select.EPOLLIN)

    def read(self, n):
        stream = self.streams[n]
        try:
            data = stream.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            return self.close(n)
        lines = (stream.tail + data).split(b"\n")
        stream.tail = lines.pop()
        for line in lines:
            if line.startswith(b"id: "):
                stream.last_id = line[4:].strip()
                if not stream.open:
                    # The opening checkpoint: the stream is subscribed.
                    stream.open, stream.opening = True, False
                    self.opening -= 1
                    self.live += 1
                    self.opened += 1
            elif line.startswith(b"retry: "):
                stream.retry = int(line[7:]) / 1000
            elif line.startswith(b"event: gap"):
                self.gaps += 1
            elif line.startswith(b"data: x"):
                self.events += 1

    def run(self):
        self.poll.register(sys.stdin.fileno(), select.EPOLLIN)
        while True:
            now = time.monotonic()
            while self.due and self.due[0][0] <= now and self.opening < OPENING:
                self.start(heapq.heappop(self.due)[1])
            for fd, event in self.poll.poll(0.05, 1024):
                if fd == sys.stdin.fileno():
                    command = os.read(fd, 100)
                    if not command or b"end" in command:
                        return
                    print(json.dumps({"live": self.live, "opened": self.opened, "gaps": self.gaps,
                                      "events": self.events}), flush=True)
                    continue
                n = self.by_fd.get(fd)
                if n is None:
                    continue
                if event & select.EPOLLOUT:
                    self.send(n)
                elif event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                    self.read(n)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--addr", required=True)
    for name in ("streams", "channels", "first"):
        arguments.add_argument(f"--{name}", type=int, required=True)
    options = arguments.parse_args()
    host, port = options.addr.rsplit(":", 1)
    Clients(host, int(port), options.streams, options.channels, options.first).run()


main()
