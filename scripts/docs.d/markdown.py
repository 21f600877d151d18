"""Reads the blocks of code, tables and inline code of a Markdown page, with the notes before them.

A note is an HTML comment on a line of its own, before the block or table it speaks of:

    <!-- run with: redis, gateway --set KEY=VALUE -->  a fresh folder with these running (surroundings.py),
                                                       or with `nothing`
    <!-- not run: REASON -->                           one of REASONS; the block is listed and left out
    <!-- file: NAME -->                                the block is also written into the folder as NAME
    <!-- output of: COMMAND -->                        the block is what that command printed (output.py)
    <!-- output: numbers vary -->                      of the shown numbers only zeros must be equal
    <!-- tested by: FILE::NAME -->                     that test, or that script, tries the block, so it is
                                                       neither run nor parsed here; `::NAME` may be left out

`<!-- commands run with: … -->` once in a page says the same for each of its sections.
"""

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

REASONS = {
    "needs Docker": "deploy/compose-check runs the deployment",
    "needs Kubernetes": "a cluster",
    "needs systemd": "a machine's own systemd",
    "needs a terminal": "a program for people alone",
    "needs a registry": "packages of npm, PyPI, Maven or Go; a script or test of its own installs them",
    "takes minutes": "a build, or a long run",
    "a step of CI": "its first command is in .ci/run or scripts/test, which this script checks",
    "another server": "the configuration of a program that is not ours",
    "another machine": "an address or a file that only its reader has",
}
NOTES = ("run with", "not run", "file", "output of", "output", "tested by", "commands run with")


class BadPage(Exception):
    """A page that cannot be read; the message names file and line."""


@dataclass
class Block:
    """A fenced block, or a table whose code is to be run (`language` is then "table")."""

    page: str
    line: int
    language: str
    text: str
    heading: int
    notes: dict = field(default_factory=dict)

    @property
    def place(self):
        return f"{self.page}:{self.line}"


@dataclass
class Page:
    name: str
    blocks: list
    inline: list  # (line, text) of each piece of inline code
    surroundings: str  # what `commands run with` says, or ""


NOTE = re.compile(r"^<!--\s*([a-z ]+?):\s*(.*?)\s*-->$")
CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")


def read(root, name):
    """The page's blocks, in order. `heading` numbers its sections down to level 3."""
    page = Page(name, [], [], "")
    notes, heading, table = {}, 0, None
    lines = iter(enumerate(Path(root, name).read_text().split("\n"), 1))
    for number, line in lines:
        stripped = line.strip()
        if note := NOTE.match(stripped):
            key, value = note.groups()
            if key not in NOTES and not get_close_matches(key, NOTES):
                continue  # A comment of another purpose.
            if key not in NOTES:
                raise BadPage(f"{name}:{number}: no note `{key}`; there are: {', '.join(NOTES)}")
            if key == "commands run with":
                page.surroundings = value
            else:
                notes[key] = value
        elif stripped.startswith("```"):
            block = fenced(name, number, line, lines, heading)
            block.notes, notes, table = notes, {}, None
            page.blocks.append(block)
        elif stripped.startswith("|"):
            if table is None:
                table = Block(name, number, "table", "", heading, notes)
                notes = {}
                if table.notes:
                    page.blocks.append(table)
            table.text += line + "\n"
            page.inline += [(number, code) for code in codes(line)]
        elif stripped:
            if notes:
                raise BadPage(f"{name}:{number}: the note before this line speaks of no block and no table")
            table = None
            heading += bool(re.match(r"#{1,3} ", line))
            page.inline += [(number, code) for code in codes(line)]
    return page


def fenced(name, number, line, lines, heading):
    indent = len(line) - len(line.lstrip())
    fence = re.match(r"`+", line.strip())[0]
    language = line.strip()[len(fence):].strip()
    text = []
    for _, inner in lines:
        if inner.strip() == fence:
            return Block(name, number, language, "\n".join(text) + "\n", heading)
        text.append(inner[indent:] if inner[:indent].isspace() or not indent else inner)
    raise BadPage(f"{name}:{number}: the block has no end")


def codes(line):
    """The pieces of inline code. A table's `\\|` stands for a bar."""
    return [code[1].strip().replace("\\|", "|") for code in CODE.findall(line)]
