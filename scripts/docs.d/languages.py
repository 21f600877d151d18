"""Checks blocks that are no commands: each is a piece of a file that a test runs, or parses as its language says."""

import configparser
import json
import os
import re
import shutil
import subprocess
import tomllib
from html.parser import HTMLParser
from pathlib import Path

# Where a page may quote from: what lies there is run, compiled or loaded by a test of its own.
QUOTED = ("examples", "clients", "deploy", "nginx", "gateway/tests", "docker-compose.yml")
ENDINGS = {".js", ".mjs", ".ts", ".tsx", ".jsx", ".py", ".go", ".php", ".java", ".yml", ".yaml", ".conf", ".cfg",
           ".toml", ".service", ".example", ".html", ".lua", ".json"}


class Wrong(Exception):
    """The block is not what its language says."""


class Languages:
    def __init__(self, root, scratch, environment):
        self.root, self.scratch, self.environment = Path(root), Path(scratch), environment
        self.sources = dict(self.files())
        self.number = 0

    def files(self):
        for place in filter(lambda place: (self.root / place).exists(), QUOTED):
            start = self.root / place
            for folder, below, names in os.walk(start) if start.is_dir() else [(self.root, [], [place])]:
                below[:] = [name for name in below if name not in ("node_modules", "target", "vendor")]
                for name in names:
                    if os.path.splitext(name)[1] in ENDINGS:
                        file = Path(folder, name)
                        yield str(file.relative_to(self.root)), flat(file.read_text(errors="replace"))

    def quoted(self, block):
        """The file that the block is a piece of. A line with only … stands for what was left out."""
        pieces = [flat(piece) for piece in re.split(r"^\s*(?://|#)?\s*…\s*$", block.text, flags=re.MULTILINE)]
        for name, text in self.sources.items():
            if all(piece in text for piece in pieces if piece):
                return name
        return None

    def check(self, block):
        """Says how the block was checked, or raises `Wrong`."""
        if tested := block.notes.get("tested by"):
            return self.tested(tested)
        if block.language == "text":
            return "not checked: text"
        if not block.language:
            raise Wrong("the block says no language; what is neither code nor a command is `text`")
        if len(block.text.strip().split("\n")) > 1 and (file := self.quoted(block)):
            return f"quoted from {file}"
        check = getattr(self, "in_" + re.sub(r"\W", "_", block.language), None)
        if not check:
            raise Wrong(f"nothing here checks `{block.language}`: quote a file of {', '.join(QUOTED)}, or name a test with `tested by`")
        check(block.text)
        return f"parsed as {block.language}"

    def tested(self, note):
        name, _, test = note.partition("::")
        file = self.root / name
        if not file.is_file():
            raise Wrong(f"`tested by: {note}`: there is no file {name}")
        if test and not re.search(rf"\b(?:fn|def|test\() *[\"']?{re.escape(test)}\b", file.read_text()):
            raise Wrong(f"`tested by: {note}`: {name} has no test {test}")
        return f"tested by {note}"

    def file(self, ending, text):
        self.number += 1
        file = self.scratch / f"block{self.number}{ending}"
        file.write_text(text)
        return file

    def ask(self, *words):
        if not shutil.which(words[0], path=self.environment["PATH"]):
            raise Wrong(f"{words[0]} is not installed, which checks this language")
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=self.environment)
        if done.returncode:
            raise Wrong(f"{words[0]} says:\n{(done.stdout + done.stderr).strip()}")

    def in_js(self, text):
        self.ask("node", "--check", self.file(".mjs", text))

    in_javascript = in_mjs = in_js

    def in_html(self, text):
        parser = Scripts()
        parser.feed(text)
        for script in parser.scripts:
            self.in_js(script)

    def in_python(self, text):
        try:
            compile(text, "block", "exec")
        except SyntaxError as error:
            raise Wrong(str(error)) from None

    def in_go(self, text):
        self.ask("gofmt", "-e", "-l", self.file(".go", text))

    def in_php(self, text):
        self.ask("php", "-l", self.file(".php", text if "<?php" in text else "<?php\n" + text))

    def in_json(self, text):
        try:
            json.loads(text)
        except ValueError as error:
            raise Wrong(str(error)) from None

    def in_toml(self, text):
        """Every TOML block of these pages is a gateway's configuration, so a gateway judges it."""
        try:
            tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise Wrong(str(error)) from None
        self.ask("sse-gateway", "--config", self.file(".toml", text), "--check-config")

    def in_yaml(self, text):
        try:
            import yaml
        except ImportError:
            raise Wrong("Python's module yaml is not installed, which checks this language") from None
        try:
            list(yaml.safe_load_all(text))
        except yaml.YAMLError as error:
            raise Wrong(str(error)) from None

    in_yml = in_yaml

    def in_nginx(self, text):
        around = ["{}", "events {{}}\n{}", "events {{}}\nhttp {{ {} }}", "events {{}}\nhttp {{ server {{ {} }} }}",
                  "events {{}}\nhttp {{ server {{ location / {{ {} }} }} }}"]
        said = []
        for each in around:
            # Another user's folders could not be prepared where this machine's users are not known.
            head = f"user root;\npid {self.scratch}/nginx.pid;\nerror_log stderr;\n"
            file = self.file(".conf", head + each.format(text))
            try:
                return self.ask("nginx", "-t", "-q", "-p", self.scratch, "-c", file)
            except Wrong as wrong:
                said.append(str(wrong))
        raise Wrong(min(said, key=len))

    def in_haproxy(self, text):
        times = "defaults\n    timeout connect 1s\n    timeout client 1s\n    timeout server 1s\n"
        self.ask("haproxy", "-c", "-q", "-f", self.file(".cfg", times + text))

    def in_caddyfile(self, text):
        self.ask("caddy", "adapt", "--adapter", "caddyfile", "--config", self.file("", text))

    def in_promql(self, text):
        """Expressions with a blank line between them, each perhaps behind comments."""
        rules = ["groups:\n- name: documents\n  rules:\n"]
        for number, expression in enumerate(re.split(r"\n\s*\n", text.strip())):
            lines = [line for line in expression.split("\n") if not line.startswith("#")]
            rules.append(f"  - record: documents:{number}\n    expr: {json.dumps(' '.join(lines))}\n")
        self.ask("promtool", "check", "rules", self.file(".yml", "".join(rules)))

    def in_sysctl(self, text):
        """Each line is `name = value`, and this kernel knows the name."""
        for line in filter(None, (line.split("#")[0].strip() for line in text.split("\n"))):
            name, equals, value = (part.strip() for part in line.partition("="))
            if not equals or not value:
                raise Wrong(f"no `name = value`: {line}")
            if name not in KERNEL and not name.startswith("net.netfilter."):
                raise Wrong(f"this kernel has no {name}")

    def in_ini(self, text):
        try:
            configparser.ConfigParser(strict=False, interpolation=None).read_string(text)
        except configparser.Error as error:
            raise Wrong(str(error)) from None

    in_systemd = in_ini

    def in_http(self, text):
        head, _, _ = text.partition("\n\n")
        first, *fields = head.strip().split("\n")
        if not re.match(r"[A-Z]+ \S+( HTTP/[\d.]+)?$|HTTP/[\d.]+ \d{3}", first):
            raise Wrong(f"no request and no status line: {first}")
        for line in fields:
            if not re.match(r"[A-Za-z0-9-]+: ", line):
                raise Wrong(f"no header: {line}")


class Scripts(HTMLParser):
    """The texts of the scripts in a page."""

    def __init__(self):
        super().__init__()
        self.scripts, self.inside = [], False

    def handle_starttag(self, tag, attrs):
        self.inside = tag == "script"

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.scripts.append(data)


def flat(text):
    """Lines without their indentation, so that a quotation may stand further to the left."""
    return "\n".join(line.strip() for line in text.strip().split("\n") if line.strip())


# The names that this kernel knows, read before the namespaces hide some of them.
KERNEL = set()


def read_kernel(names=os.environ.get("DOCS_COMMANDS_KERNEL")):
    if names is None:
        done = subprocess.run(["sysctl", "--all", "--names"], capture_output=True, text=True)
        names = os.environ["DOCS_COMMANDS_KERNEL"] = done.stdout
    KERNEL.update(names.split())
