"""A server that cuts off its streams and records how each client comes back.

It learns two things that a gateway cannot: in which header or parameter the client sends its
position, and whether it waits as long as `retry:` says.
"""

import socket
import threading
import time
import urllib.parse

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-store\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
# What each connection gets before the server cuts it off without its end; a later one stays open.
# As in the gateway's streams, `retry:` is part of a block with data.
SCRIPT = [
    "retry: 300\ndata: one\nid: 1-1\n\n",
    "retry: 4000\ndata: two\nid: 1-2\n\n",
    # A gateway that drains ends a stream with this line, without the blank line that ends a block.
    "data: three\nid: 1-3\n\nretry: 300\n",
]


class Probe:
    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.asked, self.waits, self.cut = {}, {}, {}
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        came = time.monotonic()
        head = b""
        while b"\r\n\r\n" not in head:
            part = connection.recv(4096)
            if not part:
                return
            head += part
        line, *headers = head.decode("latin-1").split("\r\n")
        target = urllib.parse.urlsplit(line.split(" ")[1])
        name = target.path.strip("/")
        asked = self.asked.setdefault(name, [])
        asked.append((dict(urllib.parse.parse_qsl(target.query)), headers))
        if name in self.cut:
            self.waits.setdefault(name, []).append(came - self.cut[name])
        connection.sendall(HEAD)
        if len(asked) > len(SCRIPT):
            connection.recv(1)
            return
        text = SCRIPT[len(asked) - 1].encode()
        connection.sendall(b"%x\r\n%s\r\n" % (len(text), text))
        time.sleep(0.2)
        self.cut[name] = time.monotonic()
        connection.close()

    def finished(self, name):
        return len(self.waits.get(name, [])) >= len(SCRIPT)

    def position(self, name):
        """Returns how the client sends its position: `header`, a parameter's name, or `-`."""
        for query, headers in self.asked.get(name, [])[1:]:
            for header in headers:
                if header.lower().startswith("last-event-id:"):
                    return "header"
            for key, value in query.items():
                if value.startswith("1-"):
                    return f"`?{key}=`"
        return "-"

    def retry(self, name):
        """Whether it waits as `retry:` says. Half as long counts: some clients randomise."""
        waits = self.waits.get(name, [])
        if len(waits) < 2:
            return "-"
        if waits[1] < 1.9:
            return "own"
        return "kept, last words too" if len(waits) > 2 and waits[2] < 2.5 else "kept"
