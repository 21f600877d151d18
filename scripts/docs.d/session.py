"""Runs the commands of one story in one bash, so that variables and files of one are there for the next.

A story is a section of a page, or what begins at a note `run with`. A command that serves or listens
does not end: it runs on in the background, as in a second terminal. A later server takes its place,
and the story's end stops it.
"""

import contextlib
import os
import re
import signal
import subprocess
import time

from surroundings import connects, streams

SECONDS = 30  # of one command

SERVER = re.compile(r"^(?:\w+=\S+ )*(?:sse-gateway|cargo run\b.*sse-gateway)(?=\s|$)")
# What of the gateway's command line ends by itself.
ENDS = re.compile(r"\s(?:defaults|healthcheck|settings|partitions|fence|top|--check-config|--print-config|--help|--version|-h|-V)\b")
LISTENER = re.compile(r"^(?:\w+=\S+ )*(?:curl (?:.* )?(?:-N|--no-buffer)\b|sse-publish tail\b|tail -f\b)")
BOUNDED = re.compile(r"--max-time|\| *head|--count|--limit|--help")


class Failed(Exception):
    """A command did not do what its page says."""


def commands(text):
    """The block's commands as (line, text): lines are joined until bash finds a whole command."""
    waiting, first = [], 0
    for number, line in enumerate(text.rstrip("\n").split("\n")):
        if not waiting and (not line.strip() or line.lstrip().startswith("#")):
            continue
        first = first if waiting else number
        waiting.append(line)
        if whole("\n".join(waiting)):
            yield first, "\n".join(waiting)
            waiting = []
    if waiting:
        raise Failed(f"bash finds no end of the command that begins: {waiting[0]}")


def whole(text):
    if text.rstrip(" ").endswith("\\"):
        return False
    done = subprocess.run(["bash", "-n"], input=text + "\n", capture_output=True, text=True)
    return done.returncode == 0 and not done.stderr


class Session:
    def __init__(self, folder, environment):
        self.folder, self.ran, self.behind, self.server = folder, [], [], None
        status, self.status_end = os.pipe()
        self.status = os.fdopen(status)
        self.bash = subprocess.Popen(
            ["bash", "--norc", "--noprofile"], stdin=subprocess.PIPE, cwd=folder, env=environment, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[self.status_end], start_new_session=True)

    def run(self, text):
        """Runs a command to its end, or starts it, and waits until it serves or listens."""
        number = len(self.ran)
        command = re.sub(r"\s*&\s*$", "", text)
        serves = bool(SERVER.match(command)) and not ENDS.search(strip_comment(command))
        listens = bool(LISTENER.match(command)) and not BOUNDED.search(command)
        (self.folder / f".{number}.sh").write_text(command + "\n")
        self.ran.append(text)
        if serves:
            self.stop_server()
        before = streams() if listens else None
        self.send(number, serves or listens)
        if serves:
            self.server = self.behind[-1]
            self.wait_for(lambda: "has started" in self.printed(number), "the gateway does not start")
        elif listens:
            self.wait_for(lambda: self.out(number) or grew(before), "it heard nothing and no stream was opened")

    def send(self, number, background):
        files = f">.{number}.out 2>.{number}.err </dev/null"
        if background:
            line = f"(eval \"$(cat .{number}.sh)\") {files} & echo $! >&{self.status_end}\n"
        else:
            line = f"eval \"$(cat .{number}.sh)\" {files}; echo $? >&{self.status_end}\n"
        self.bash.stdin.write(line)
        self.bash.stdin.flush()
        answer = self.read_status()
        if answer is None:
            raise Failed(f"it has not ended after {SECONDS} s; it printed:\n{self.printed(number)}")
        if background:
            self.behind.append((number, int(answer)))
        elif answer != "0":
            raise Failed(f"it ended with {answer}; it printed:\n{self.printed(number)}")

    def read_status(self):
        deadline = time.monotonic() + SECONDS
        os.set_blocking(self.status.fileno(), False)
        while time.monotonic() < deadline:
            if line := self.status.readline():
                return line.strip()
            time.sleep(0.005)
        return None

    def wait_for(self, holds, otherwise):
        number, pid = self.behind[-1]
        deadline = time.monotonic() + SECONDS
        while not holds():
            if time.monotonic() > deadline or not alive(pid):
                if holds():
                    return
                raise Failed(f"{otherwise}; it printed:\n{self.printed(number)}")
            time.sleep(0.02)

    def out(self, number):
        return read(self.folder / f".{number}.out")

    def printed(self, number):
        return read(self.folder / f".{number}.err") + self.out(number)

    def output_of(self, beginning):
        """What the last command with this beginning printed, and whether it still runs."""
        for number in reversed(range(len(self.ran))):
            if self.ran[number].startswith(beginning):
                return number, any(number == behind for behind, _ in self.behind)
        raise Failed(f"no command before this block begins with: {beginning}")

    def stop_server(self):
        if self.server:
            number, pid = self.server
            self.behind.remove(self.server)
            self.server = None
            stop(pid, signal.SIGTERM)
            if "panicked" in self.printed(number):
                raise Failed(f"the gateway that `{self.ran[number]}` started panicked:\n{self.printed(number)}")

    def end(self):
        for entry in reversed(self.behind):
            if entry != self.server:
                stop(entry[1], signal.SIGTERM)
        if self.server:
            self.stop_server()
        self.bash.stdin.close()
        os.killpg(self.bash.pid, signal.SIGKILL)
        self.bash.wait()
        self.status.close()
        os.close(self.status_end)


def grew(before):
    now = streams()
    return now is not None and now > (before or 0)


def strip_comment(command):
    return re.sub(r"\s#\s.*", "", command)


def read(file):
    try:
        return file.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def stop(pid, number):
    """Signals a command and its children, and waits for them."""
    pids = [pid, *children(pid)]
    for one in filter(alive, pids):
        signal_to(one, number)
    deadline = time.monotonic() + 25
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for one in filter(alive, pids):
        signal_to(one, signal.SIGKILL)


def signal_to(pid, number):
    with contextlib.suppress(ProcessLookupError):  # It has just ended.
        os.kill(pid, number)


def children(pid):
    done = subprocess.run(["pgrep", "--parent", str(pid)], capture_output=True, text=True)
    direct = [int(line) for line in done.stdout.split()]
    return direct + [below for child in direct for below in children(child)]
