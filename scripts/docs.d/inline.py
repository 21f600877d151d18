"""Checks the commands in a page's prose and tables against what the programs say of themselves.

They are not run. Each option of `sse-gateway` and `sse-publish` must be in the `--help` of the
command, each target of `make` in the Makefile, each script in the tree.
"""

import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

PROGRAMS = ("sse-gateway", "sse-publish")


class Inline:
    def __init__(self, root, programs):
        self.root = Path(root)
        self.programs = programs  # name: path
        self.targets = set(re.findall(r"^([a-z-]+):", (self.root / "Makefile").read_text(), re.MULTILINE))
        self.checked = 0

    def wrong(self, code):
        """What is wrong with a piece of inline code, or None."""
        words = split(code)
        # Leading variables belong to the command: SSE_TOKEN=… sse-publish tail demo
        while words and re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        if not words:
            return None
        if words[0] in PROGRAMS:
            self.checked += 1
            return self.wrong_option(words)
        if words[0] == "make":
            self.checked += 1
            targets = [word for word in words[1:] if re.fullmatch(r"[a-z-]+", word)]
            unknown = [target for target in targets if target not in self.targets]
            return f"the Makefile has no target {unknown[0]}" if unknown else None
        if re.match(r"(scripts|deploy|clients|bench|chaos)/[\w./-]+$", words[0]):
            self.checked += 1
            return None if (self.root / words[0]).exists() else f"there is no file {words[0]}"
        return None

    def wrong_option(self, words):
        program, rest = words[0], words[1:]
        if "|" in rest:
            rest = rest[: rest.index("|")]
        known, chain = help_of(self.programs[program]), []
        for word in rest:
            if word == "--":
                break
            if word.startswith("-") and re.match(r"--?[a-z]", word):
                option = word.split("=")[0]
                if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", known):
                    return f"{' '.join([program, *chain])} has no option {option}"
            elif word in commands(known_for(self.programs[program], tuple(chain))):
                chain.append(word)
                known += known_for(self.programs[program], tuple(chain))
        return None


def split(code):
    try:
        return shlex.split(code)
    except ValueError:
        return code.split()


def commands(text):
    """The subcommands that a help text lists."""
    listed = re.search(r"^Commands:\n((?:  .*\n|\n)+)", text, re.MULTILINE)
    return set(re.findall(r"^  ([a-z][a-z-]*)\b", listed[1], re.MULTILINE)) if listed else set()


def help_of(program):
    return known_for(program, ())


@cache
def known_for(program, chain):
    done = subprocess.run([program, *chain, "--help"], capture_output=True, text=True, timeout=20)
    return done.stdout + done.stderr
