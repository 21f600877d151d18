"""What commands of the documents find around them: a network and a machine of their own, Redis, a gateway.

Commands are run exactly as they stand, with their ports, their host name and their paths. So all of
them run in namespaces of Linux: no port is taken there, `events.example.org` is this machine, `/etc`
is a copy that is thrown away, and every process ends with the script.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HOST = "events.example.org"


class Trouble(Exception):
    """Something around the commands does not work; not the fault of a page."""


def enter(scratch):
    """Starts this program again in namespaces of its own, unless it already is there."""
    if os.environ.get("DOCS_COMMANDS_INSIDE"):
        return
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    spaces = [*user, "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run(["unshare", *spaces, "true"], capture_output=True).returncode:
        raise Trouble("this machine makes no namespaces (unshare); run the script as root")
    environment = {**os.environ, "DOCS_COMMANDS_INSIDE": str(scratch)}
    done = subprocess.run(["unshare", *spaces, sys.executable, *sys.argv], env=environment)
    sys.exit(done.returncode)


def furnish(root, scratch):
    """Inside the namespaces: loopback, a throw-away /etc with certificates and secrets, a read-only tree."""
    run("ip", "link", "set", "lo", "up")
    # An overlay would be shorter, but without root nothing in it could be changed.
    theirs, ours = scratch / "etc-of-the-machine", scratch / "etc"
    theirs.mkdir()
    ours.mkdir()
    run("mount", "--bind", "/etc", theirs)
    for entry in theirs.iterdir():
        (ours / entry.name).symlink_to(entry)
    (ours / "hosts").unlink()
    (ours / "hosts").write_text(f"127.0.0.1 localhost {HOST}\n::1 localhost\n")
    run("mount", "--bind", ours, "/etc")
    # nginx tests a configuration by preparing its folders.
    for folder in filter(os.path.isdir, ("/run", "/var/log", "/var/lib/nginx")):
        run("mount", "-t", "tmpfs", "tmpfs", folder)
    Path("/var/log/nginx").mkdir()
    # No command of a document may change the tree.
    run("mount", "--bind", root, root)
    run("mount", "-o", "remount,bind,ro", root)
    for folder in ("/etc/sse", "/etc/sse-gateway", "/run/secrets"):
        Path(folder).mkdir(parents=True)
    certify(Path("/etc/sse"))
    for name in ("fullchain.pem", "privkey.pem"):
        shutil.copy(f"/etc/sse/{name}", "/etc/sse-gateway")
    Path("/run/secrets/sse-jwt").write_text("a-secret-of-tests-0123456789-0123456789\n")


def certify(folder):
    """An authority, and a certificate of it for HOST, as a page says its reader has them."""
    authority, request = folder / "authority.pem", folder / "request.pem"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run("openssl", "req", "-x509", *key, "-subj", "/CN=documents", "-days", "2",
        "-keyout", folder / "authority.key", "-out", authority)
    run("openssl", "req", *key, "-subj", f"/CN={HOST}", "-keyout", folder / "privkey.pem", "-out", request)
    (folder / "names").write_text(f"subjectAltName=DNS:{HOST}\n")
    run("openssl", "x509", "-req", "-in", request, "-CA", authority, "-CAkey", folder / "authority.key",
        "-CAcreateserial", "-days", "2", "-extfile", folder / "names", "-out", folder / "fullchain.pem")


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        raise Trouble(f"{' '.join(map(str, words))}: {done.stderr.strip()}")


CARGO = """#!/bin/sh
# Stands for cargo: the programs are built already, and nothing else of cargo is run here.
case "$1" in run) ;; *) echo "cargo $1 takes too long here; the block needs the note 'not run'" >&2; exit 64 ;; esac
while [ $# -gt 0 ]; do
    case $1 in -p|--package) program=$2 ;; --) shift; break ;; esac
    shift
done
exec "$program" "$@"
"""
# redis-cli ends with 0 behind an error of Redis unless it is told otherwise.
REDIS_CLI = "#!/bin/sh\nexec {real} -e \"$@\"\n"


def shelter(scratch, programs):
    """The environment of every command: the programs first on the PATH, no settings from outside."""
    folder, home = scratch / "bin", scratch / "home"
    folder.mkdir()
    home.mkdir()
    for name, program in programs.items():
        (folder / name).symlink_to(program)
    scripts = {"cargo": CARGO, "redis-cli": REDIS_CLI.format(real=shutil.which("redis-cli"))}
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    # An answer with an error is a failure, and shows what it says.
    (home / ".curlrc").write_text('fail-with-body\nsilent\nshow-error\ncacert = "/etc/sse/authority.pem"\n')
    kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
    path = f"{folder}:{os.environ['PATH']}:/usr/sbin:/sbin"
    return {**kept, "PATH": path, "HOME": str(home), "SSL_CERT_FILE": "/etc/sse/authority.pem", "TERM": "dumb"}


class Surroundings:
    """The processes that a story finds: `redis, gateway --set KEY=VALUE, env NAME=VALUE`."""

    def __init__(self, wish, folder, environment):
        self.environment, self.folder, self.running = dict(environment), folder, []
        parts = [part.strip() for part in wish.split(", ") if part.strip()]
        redis = any(part.split()[0] == "redis" for part in parts)
        for part in parts:
            name, *rest = part.split()
            if name == "nothing":
                continue
            if name == "redis":
                self.redis()
            elif name == "gateway":
                self.gateway(rest, redis)
            elif name == "env":
                self.environment.update(word.split("=", 1) for word in rest)
            else:
                raise Trouble(f"`run with: {wish}`: there is no {name}; there are redis, gateway, env, nothing")

    def redis(self):
        # Without the delay a copy for `redis-cli --rdb` would begin after five seconds.
        words = ["redis-server", "--port", "6379", "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder),
                 "--repl-diskless-sync-delay", "0"]
        self.start("redis", words)
        until(lambda: connects(6379), "redis-server does not answer", self.log("redis"))

    def gateway(self, rest, redis):
        words = ["sse-gateway", *rest]
        if redis:
            words += ["--redis", "redis://127.0.0.1:6379"]
        self.start("gateway", words)
        until(lambda: "has started" in self.log("gateway").read_text(), "the gateway does not start", self.log("gateway"))

    def log(self, name):
        return self.folder / f".{name}.log"

    def start(self, name, words):
        program = shutil.which(words[0], path=self.environment["PATH"]) or words[0]
        with open(self.log(name), "w") as log:
            process = subprocess.Popen([program, *words[1:]], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                       env=self.environment, cwd=self.folder, start_new_session=True)
        self.running.append((name, process))

    def end(self):
        """Ends what was started, the last first. Says what did not end well, or None."""
        trouble = None
        for name, process in reversed(self.running):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                status = process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                status = "SIGKILL"
            if name == "gateway" and status != 0:
                trouble = f"the gateway ended with {status}: {self.log(name).read_text()[-2000:]}"
        return trouble


def connects(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(holds, otherwise, log=None, seconds=30):
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise Trouble(otherwise + (f":\n{Path(log).read_text()}" if log else ""))
        time.sleep(0.02)


def streams():
    """The open streams of the gateway on the usual admin port, or None if it does not answer."""
    done = subprocess.run(["curl", "--silent", "--max-time", "2", "http://127.0.0.1:9090/metrics"],
                          capture_output=True, text=True)
    counts = re.findall(r'^sse_subscribers\{[^}]*\} (\d+)', done.stdout, re.MULTILINE)
    return sum(map(int, counts)) if counts else None
