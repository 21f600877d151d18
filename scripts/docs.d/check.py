"""Runs every command of the documents, and checks every other block of code.

    check.py [--gateway PROGRAM] [--publish PROGRAM] [--list] [PAGE...]

Ends with 0 if all did what their page says, 1 if not, 69 if this machine lacks something.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import surroundings
from inline import Inline
from languages import Languages, Wrong, read_kernel
from markdown import REASONS, BadPage, codes, read
from output import differs
from session import Failed, Session, commands
from surroundings import Surroundings, Trouble

ROOT = Path(__file__).resolve().parent.parent.parent
SHELLS = ("sh", "bash", "console")


def pages():
    found = []
    for folder, below, names in os.walk(ROOT):
        below[:] = [name for name in below if not name.startswith(".") and name not in ("target", "node_modules", "vendor")]
        found += [os.path.relpath(os.path.join(folder, name), ROOT) for name in names if name.endswith(".md")]
    return sorted(found)


class Check:
    def __init__(self, root, scratch, environment, programs):
        self.root, self.scratch, self.environment = Path(root), scratch, environment
        self.languages = Languages(root, scratch, environment)
        self.inline = Inline(root, programs)
        self.failures, self.not_run, self.texts = [], [], 0
        self.commands = self.outputs = self.blocks = self.stories = 0
        self.ci = "".join(Path(root, name).read_text() for name in (".ci/run", "scripts/test") if Path(root, name).exists())

    def fail(self, place, why):
        self.failures.append(f"{place}: {why}")
        print(f"FAILED {place}: {why}", flush=True)

    def page(self, name):
        try:
            page = read(self.root, name)
        except BadPage as bad:
            return self.fail(*str(bad).split(": ", 1))
        for line, code in page.inline:
            if wrong := self.inline.wrong(code):
                self.fail(f"{name}:{line}", f"`{code}`: {wrong}")
        story, began = [], None
        for block in page.blocks:
            if story and (block.heading != began or "run with" in block.notes):
                self.story(page, story)
                story = []
            began = block.heading
            if self.is_run(block):
                story.append(block)
        if story:
            self.story(page, story)

    def is_run(self, block):
        """Whether the block is part of a story. What is none is checked here."""
        if reason := block.notes.get("not run"):
            self.left_out(block, reason)
            return False
        if "tested by" in block.notes:
            self.other(block)
            return False
        if block.language in (*SHELLS, "table"):
            return True
        if not {"output of", "file"} & set(block.notes):
            self.other(block)
            return False
        return True

    def left_out(self, block, reason):
        if reason not in REASONS:
            self.fail(block.place, f"`not run: {reason}` is none of: {', '.join(REASONS)}")
        elif reason == "a step of CI":
            for _, command in commands(block.text):
                step = " ".join(command.split("#")[0].replace("'", "").split()[:2])
                if step.split()[0].startswith("RUSTDOCFLAGS"):
                    step = "cargo doc"
                if step not in self.ci.replace("'", ""):
                    self.fail(block.place, f"neither .ci/run nor scripts/test has a step `{step}`")
        self.not_run.append(f"{block.place}: {reason}")

    def other(self, block):
        self.blocks += 1
        try:
            how = self.languages.check(block)
            self.texts += how.startswith("not checked")
        except Wrong as wrong:
            self.fail(block.place, str(wrong))

    def story(self, page, blocks):
        """Runs one story in a fresh folder that looks like a clone of the repository."""
        if not any(block.language in (*SHELLS, "table") for block in blocks):
            return
        self.stories += 1
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        for entry in self.root.iterdir():
            if entry.name not in (".git", "target"):
                (folder / entry.name).symlink_to(entry)
        wish = next((b.notes["run with"] for b in blocks if "run with" in b.notes), page.surroundings)
        around = Surroundings("", folder, self.environment)
        session = None
        try:
            around = Surroundings(wish, folder, self.environment)
            session = Session(folder, around.environment)
            for block in blocks:
                self.block(block, session, folder)
        except Failed as failed:
            self.fail(*failed.args)
        except Trouble as trouble:
            self.fail(blocks[0].place, str(trouble))
        finally:
            if session:
                session.end()
            if trouble := around.end():
                self.fail(blocks[-1].place, trouble)
            shutil.rmtree(folder, ignore_errors=True)

    def block(self, block, session, folder):
        if name := block.notes.get("file"):
            (folder / name).write_text(block.text)
        elif of := block.notes.get("output of"):
            self.shown(block, of, varies(block), session)
        elif block.language == "console":
            self.console(block, session)
        elif block.language == "table":
            for number, line in enumerate(block.text.split("\n")):
                for code in table_commands(line):
                    self.command(block, number, code, session)
        else:
            try:
                parts = list(commands(block.text))
            except Failed as failed:
                raise Failed(block.place, str(failed)) from None
            for number, command in parts:
                self.command(block, number + 1, command, session)

    def command(self, block, offset, command, session):
        place = f"{block.page}:{block.line + offset}"
        self.commands += 1
        began = time.monotonic()
        try:
            session.run(command)
        except Failed as failed:
            raise Failed(place, f"`{command}`: {failed}") from None
        took = time.monotonic() - began
        if took > 5:
            print(f"slow   {place}: {took:.1f} s: {command}", flush=True)

    def shown(self, block, of, vary, session):
        """A block that shows what an earlier command printed. One that runs on may print more."""
        try:
            number, behind = session.output_of(of)
        except Failed as failed:
            raise Failed(block.place, str(failed)) from None
        self.outputs += 1
        deadline = time.monotonic() + (10 if behind else 0)
        while True:
            printed = session.out(number)
            wrong = differs(block.text, printed, vary, behind)
            whole = printed.count("\n") >= block.text.count("\n")
            if not wrong or whole or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        if wrong:
            self.fail(block.place, f"`{session.ran[number]}`: {wrong}")

    def console(self, block, session):
        """`$ command` and what it prints, as a terminal shows it."""
        command, first, shown = None, 0, []
        lines = [*block.text.rstrip("\n").split("\n"), "$ "]
        for number, line in enumerate(lines):
            if not line.startswith("$ ") and line != "$ ":
                shown.append(line)
                continue
            if command is not None:
                self.command(block, first + 1, command, session)
                if shown:
                    self.outputs += 1
                    printed = session.printed(len(session.ran) - 1)
                    if wrong := differs("\n".join(shown), printed, varies(block)):
                        self.fail(f"{block.page}:{block.line + first + 1}", f"`{command}`: {wrong}")
            command, first, shown = line[2:], number, []


def varies(block):
    return block.notes.get("output") == "numbers vary"


def table_commands(line):
    words = [code for code in codes(line) if " " in code]
    return [code for code in words if code.split()[0] in ("sse-gateway", "sse-publish", "curl", "redis-cli", "tail")]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", default="target/debug/sse-gateway")
    parser.add_argument("--publish", default="target/debug/sse-publish")
    parser.add_argument("--list", action="store_true", help="list the blocks that are not run")
    parser.add_argument("pages", nargs="*")
    return parser.parse_args()


def main():
    wanted = arguments()
    programs = {"sse-gateway": Path(wanted.gateway).resolve(), "sse-publish": Path(wanted.publish).resolve()}
    for program in programs.values():
        if not os.access(program, os.X_OK):
            raise Trouble(f"{program} is not there: build it, or name another by --gateway and --publish")
    inside = os.environ.get("DOCS_COMMANDS_INSIDE")
    read_kernel()
    if not inside:
        with tempfile.TemporaryDirectory() as scratch:
            surroundings.enter(scratch)
    scratch = Path(inside)
    surroundings.furnish(ROOT, scratch)
    environment = surroundings.shelter(scratch, programs)
    check = Check(ROOT, scratch, environment, programs)
    began = time.monotonic()
    for page in wanted.pages or pages():
        check.page(page)
    return account(check, wanted.list, time.monotonic() - began)


def account(check, listed, seconds):
    if listed:
        print("\nNot run:\n" + "\n".join(f"  {line}" for line in check.not_run))
    print(f"{check.commands} commands of {check.stories} stories ran, {check.outputs} outputs were compared, "
          f"{check.inline.checked} commands in prose and {check.blocks} blocks of other languages checked "
          f"({check.texts} of them plain text), {len(check.not_run)} blocks not run, in {seconds:.0f} s.")
    if check.failures:
        print(f"{len(check.failures)} failed:\n" + "\n".join(check.failures))
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Trouble as trouble:
        print(f"docs-commands: {trouble}", file=sys.stderr)
        sys.exit(69)
