"""The check must see each kind of mistake. Each test gives it a page with one."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import markdown
from inline import commands as subcommands
from languages import KERNEL, Languages, Wrong
from output import differs
from session import Failed, Session, commands


def block(language, text, **notes):
    return markdown.Block("page.md", 1, language, text, 0, notes)


class Pages(unittest.TestCase):
    def read(self, text):
        with tempfile.TemporaryDirectory() as root:
            Path(root, "page.md").write_text(text)
            return markdown.read(root, "page.md")

    def test_blocks_notes_and_tables_are_found_with_their_lines(self):
        page = self.read("# A\n\n<!-- run with: redis -->\n```sh\necho\n```\n\n<!-- run with: gateway -->\n\n| a |\n|---|\n| `b \\| c` |\n")
        self.assertEqual([(b.language, b.line, b.notes) for b in page.blocks],
                         [("sh", 4, {"run with": "redis"}), ("table", 10, {"run with": "gateway"})])
        self.assertEqual(page.inline, [(12, "b | c")])

    def test_a_misspelt_note_is_refused(self):
        with self.assertRaisesRegex(markdown.BadPage, "page.md:1: no note `not rum`"):
            self.read("<!-- not rum: needs Docker -->\n```sh\n```\n")

    def test_a_note_without_a_block_is_refused(self):
        with self.assertRaisesRegex(markdown.BadPage, "page.md:2"):
            self.read("<!-- not run: needs Docker -->\nwords\n")

    def test_a_block_without_an_end_is_refused(self):
        with self.assertRaisesRegex(markdown.BadPage, "page.md:1: the block has no end"):
            self.read("```sh\necho\n")

    def test_a_comment_of_another_purpose_is_left_alone(self):
        self.assertEqual(self.read("<!-- written by make clients: begin -->\nwords\n").blocks, [])


class Outputs(unittest.TestCase):
    def test_what_differs_by_nature_may_differ(self):
        shown = "id: 1795412349206-885044477952\nafter 59m 58s, 2026-11-26T12:19:20Z, key 4lGz…"
        printed = "id: 1795727932961-8987825274880\nafter 1m 2s, 2027-01-01T00:00:00Z, key KKMxjtjR6z.tg-gwHE79"
        self.assertIsNone(differs(shown, printed))

    def test_any_other_text_must_be_equal(self):
        self.assertIn("the page shows: It is 42.", differs("It is 42.", "It is 43."))
        self.assertIn("nothing more", differs("one\ntwo", "one"))
        self.assertIn("it printed: two", differs("one", "one\ntwo"))
        self.assertIsNone(differs("one", "one\ntwo", beginning=True))
        self.assertIsNone(differs("one\n…\nfour", "one\ntwo\nthree\nfour"))

    def test_of_varying_numbers_a_zero_is_a_zero(self):
        self.assertIsNone(differs("lost 0, 12.6 MB", "lost 0, 3.4 MB", numbers_vary=True))
        self.assertIn("lost 0", differs("lost 0", "lost 3", numbers_vary=True))
        self.assertIn("got 5", differs("got 5", "got 0", numbers_vary=True))
        self.assertIsNone(differs("got 5\nlost 0", "got 4, behind\nslow\nlost 0\nnote", numbers_vary=True))


class Commands(unittest.TestCase):
    def run_all(self, text):
        with tempfile.TemporaryDirectory() as folder:
            session = Session(Path(folder), {"PATH": os.environ["PATH"]})
            try:
                for _, command in commands(text):
                    session.run(command)
                return session.out(len(session.ran) - 1)
            finally:
                session.end()

    def test_lines_are_joined_to_whole_commands(self):
        text = "a=1\n# a comment\necho \\\n  one\nfor n in 1 2; do\n  echo $n\ndone\necho 'x\ny'\ncat <<E\nz\nE\n"
        self.assertEqual([line for line, _ in commands(text)], [0, 2, 4, 7, 9])

    def test_a_command_without_an_end_is_refused(self):
        with self.assertRaisesRegex(Failed, "no end of the command"):
            list(commands("echo 'one\n"))

    def test_variables_stay_for_the_next_command(self):
        self.assertEqual(self.run_all("export A=1\ncd /\necho $A $PWD\n".replace("cd /", "true")).split()[0], "1")

    def test_a_command_that_fails_is_told_with_what_it_printed(self):
        with self.assertRaisesRegex(Failed, "it ended with 3; it printed:\n(?s:.*)oh"):
            self.run_all("(echo oh >&2; exit 3)\n")


class OtherLanguages(unittest.TestCase):
    def check(self, language, text, **notes):
        with tempfile.TemporaryDirectory() as root:
            Path(root, "examples").mkdir()
            Path(root, "examples/a.py").write_text("def f():\n    a = 1\n    return a\n")
            return Languages(root, root, {"PATH": os.environ["PATH"]}).check(block(language, text, **notes))

    def test_broken_code_is_seen(self):
        broken = {"js": "let = ;", "html": "<script>let = ;</script>", "python": "def f(:", "json": "{", "yaml": "a: [",
                  "toml": "a = ", "nginx": "location / { proxy_pas x; }", "promql": "sum(", "http": "GETS",
                  "sysctl": "net.no.such = 1", "": "x", "cobol": "x", "go": "func {"}
        KERNEL.add("net.core.somaxconn")
        for language, text in broken.items():
            with self.subTest(language), self.assertRaises(Wrong):
                self.check(language, text)

    def test_right_code_is_taken(self):
        right = {"js": "const a = await f();\n", "python": "a = 1\n", "json": "{}", "yaml": "a: 1", "http": "GET / HTTP/1.1\nA: b\n",
                 "nginx": "location / { return 204; }", "promql": "# why\nsum(a) > 0\n\nb", "sysctl": "net.core.somaxconn = 1"}
        for language, text in right.items():
            with self.subTest(language):
                self.assertIn("parsed", self.check(language, text))

    def test_a_piece_of_an_example_is_a_quotation(self):
        self.assertEqual(self.check("java", "a = 1\nreturn a\n"), "quoted from examples/a.py")
        self.assertEqual(self.check("java", "def f():\n…\nreturn a\n"), "quoted from examples/a.py")
        with self.assertRaises(Wrong):
            self.check("java", "a = 2\nreturn a\n")

    def test_a_named_test_must_be_there(self):
        note = {"tested by": "examples/a.py::f"}
        self.assertEqual(self.check("java", "x", **note), "tested by examples/a.py::f")
        with self.assertRaisesRegex(Wrong, "has no test g"):
            self.check("java", "x", **{"tested by": "examples/a.py::g"})


PAGE = """# A page with mistakes

<!-- commands run with: redis, gateway -->

`sse-publish --no-such demo`, `make nothing`

<!-- run with: redis, gateway -->
```sh
curl -d hello 127.0.0.1:8080/channels/demo
redis-cli FCALL sse_publish 2 sse:state sse:history:demo hello
curl -N '127.0.0.1:8080/events?channel=demo&last_event_id=0'
```

<!-- output of: curl -N -->
```text
retry: 1
event: checkpoint
data: {"from":"somewhere"}
```

## A refusal of the gateway, and what is behind it is not run

```sh
curl -d hello '127.0.0.1:8080/channels/a%20b'
touch never
```

## A server that does not start

```sh
sse-gateway --set stream.heartbeat=never
```

<!-- not run: no time -->
```sh
true
```
"""


class WholePages(unittest.TestCase):
    """Runs check.py itself, with the programs that scripts/docs-commands names."""

    def test_each_mistake_is_told_with_its_place_and_what_was_printed(self):
        here = Path(__file__).parent
        built = Path(os.environ.get("CARGO_TARGET_DIR", here.parent.parent / "target"), "debug")
        programs = ["--gateway", os.environ.get("GATEWAY_PROGRAM", built / "sse-gateway"),
                    "--publish", os.environ.get("PUBLISH_PROGRAM", built / "sse-publish")]
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder, "page.md")
            page.write_text(PAGE)
            done = subprocess.run([sys.executable, "-B", here / "check.py", *programs, page], capture_output=True, text=True)
        self.assertEqual(done.returncode, 1, done.stderr)
        told = done.stdout.split("failed:\n")[1]
        for wanted in (r"page.md:5: `sse-publish --no-such demo`: sse-publish has no option --no-such",
                       r"page.md:5: `make nothing`: the Makefile has no target nothing",
                       r"page.md:15: `curl -N .*`: the page shows: data: {\"from\":\"somewhere\"}",
                       r"page.md:24: `curl -d hello .*a%20b'`: it ended with 22; it printed:\n(.*\n)*.*invalid-channel",
                       r"page.md:31: `sse-gateway --set .*`: the gateway does not start; it printed:\n.*stream.heartbeat",
                       r"page.md:35: `not run: no time` is none of"):
            self.assertRegex(told, wanted)
        self.assertEqual(told.count("page.md:"), 6, told)


class Help(unittest.TestCase):
    def test_subcommands_are_those_that_the_help_lists(self):
        self.assertEqual(subcommands("Commands:\n  tail  Follow\n  key   Make\n\nOptions:\n  --x\n"), {"tail", "key"})


if __name__ == "__main__":
    unittest.main()
