#!/usr/bin/env python3
"""Runs every client of clients.toml through every scenario, and compares the outcomes:

    matrix.py --gateway PROGRAM --built DIR [--clients a,b] [--scenarios a,b] [--write docs/clients.md]
    matrix.py --languages [--clients a,b]

The exit status is 0 if each outcome is the expected one, else 1. `make clients` installs and builds
everything that this needs.
"""

import argparse
import fnmatch
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib

import judge
import scenarios
import table
from processes import ROOT

HERE = pathlib.Path(__file__).resolve().parent


class Client:
    """One entry of clients.toml."""

    def __init__(self, entry):
        self.name, self.language, self.run = entry["name"], entry["language"], entry["run"]
        self.version = _pinned(entry["pinned"])
        self.title = entry.get("title", f"{self.name} VERSION").replace("VERSION", self.version)
        self.comes_back, self.notes = entry["comes_back"], entry.get("notes", "").strip()
        self.expected, self.cure = entry.get("expected", {}), entry.get("cure")
        self.env, self.one_handler = entry.get("env", {}), entry.get("one_handler", False)
        self.file_name = re.sub(r"\W+", "-", self.name)

    def command(self, built):
        return [part.replace("{built}", str(built)) for part in self.run]

    def environment(self, built):
        return {key: value.replace("{built}", str(built)) for key, value in self.env.items()}

    def expects(self, cell, path):
        """Returns the expected outcomes; `*` in one stands for any words."""
        words = self.expected.get(f"{cell}.{path}", self.expected.get(cell, "fine"))
        return words if isinstance(words, list) else [words]

    def cured_in(self, cell, path):
        """Whether clients.toml has a cure for what goes wrong in this cell."""
        return bool(self.cure) and bool({cell, f"{cell}.{path}"} & set(self.cure["cells"]))


def _pinned(where):
    """Returns the version from the file that pins it, or a text as it is."""
    if isinstance(where, str):
        return where
    found = re.search(where["pattern"], (HERE / where["file"]).read_text(), re.S)
    if not found:
        raise SystemExit(f"clients: {where['file']} does not pin {where['pattern']!r}")
    return found[1]


class Run:
    """What all scenarios share, and what they observe beside the outcomes."""

    def __init__(self, gateway, built, directory):
        self.gateway, self.built, self.directory = gateway, built, directory
        # By client: the reserved types that reached its application, and how it reconnects.
        self.reserved, self.probed = {}, {}

    def saw(self, stage):
        for one in stage.listeners:
            self.reserved.setdefault(one.client.name, set()).update(judge.reserved(one.lines))


def compared(clients, outcomes):
    """Prints each outcome that is not an expected one. Returns how many there are."""
    by_name = {client.name: client for client in clients}
    wrong = 0
    for (name, cell, path, cured), outcome in outcomes.items():
        client = by_name[name]
        if cured and not client.cured_in(cell, path):
            continue
        expected = client.cure.get("expected", ["fine"]) if cured else client.expects(cell, path)
        if not any(fnmatch.fnmatchcase(outcome, one) for one in expected):
            wrong += 1
            with_cure = ", with its cure" if cured else ""
            print(f"{name}, {cell}, {path}{with_cure}: {outcome}; clients.toml says: {' or '.join(expected)}")
    return wrong


def chosen(everything, names, what):
    """Returns the named ones, or all if there are no names."""
    names = [name for name in re.split(r"[,\s]+", names or "") if name]
    unknown = [name for name in names if name not in everything]
    if unknown:
        raise SystemExit(f"clients: no {what} is called {unknown[0]!r}; there are {', '.join(everything)}")
    return [everything[name] for name in names or everything]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--gateway", help="the gateway's program")
    arguments.add_argument("--built", help="where scripts/clients has put what it built")
    arguments.add_argument("--clients", default="", help="names in clients.toml, with commas; all by default")
    arguments.add_argument("--scenarios", default="", help=f"of {', '.join(scenarios.ALL)}; all by default")
    arguments.add_argument("--write", help="the page whose table is written, after a run of everything")
    arguments.add_argument("--languages", action="store_true", help="only name the languages of the clients")
    options = arguments.parse_args()

    entries = tomllib.loads((HERE / "clients.toml").read_text())["client"]
    everything = {entry["name"]: Client(entry) for entry in entries}
    clients = chosen(everything, options.clients, "client")
    if options.languages:
        print(*dict.fromkeys(client.language for client in clients))
        return 0
    stories = chosen({name: name for name in scenarios.ALL}, options.scenarios, "scenario")
    if options.write and (len(clients), len(stories)) != (len(everything), len(scenarios.ALL)):
        raise SystemExit("clients: --write needs all clients and all scenarios")

    # SIGTERM would kill Python at once; sys.exit lets the scenarios end their processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = pathlib.Path(tempfile.mkdtemp(prefix="sse-clients-"))
    run = Run(options.gateway, pathlib.Path(options.built).resolve(), directory)
    outcomes, started = {}, time.monotonic()
    print(f"clients: the logs are in {directory}, and go if all is as expected", file=sys.stderr)
    for name in stories:
        outcomes |= scenarios.ALL[name](run, clients)
        print(f"clients: {name} is done, after {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    for name, (position, retry) in run.probed.items():
        print(f"{name}: position {position}, retry {retry}")
    wrong = compared(clients, outcomes)
    print(f"{len(clients)} clients, {len(outcomes)} outcomes, {wrong} not as clients.toml says")
    if wrong:
        return 1
    shutil.rmtree(directory)
    if options.write:
        table.write(ROOT / options.write, clients, outcomes, run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
