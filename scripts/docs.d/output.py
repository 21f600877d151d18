"""Compares what a page shows with what a command printed.

Ids, times, durations, sizes of hashes and keys differ from run to run, so any value of the same kind
will do in their place. `…` stands for the rest of a word, or for any text of its line, and alone on
a line for any lines.
Everything else must be equal.

Where numbers vary, as in the report of a load test, a shown zero must be a zero, and any other number
will do. A busy machine may also add remarks there: text behind a shown line, and further lines.
"""

import re

KINDS = [
    ("id", r"\d{13}-\d+"),
    ("retry", r"(?<=retry: )\d+"),
    ("moment", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z"),
    ("duration", r"\b\d+(?:\.\d+)? ?(?:ms|µs|s|m|h)\b(?: \d+[smh]\b)*"),
    ("hex", r"\b[0-9a-f]{16,}\b"),
    ("key", r"\b(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{24,}(?:\.[A-Za-z0-9_-]+)*"),
]
ANY = {
    "id": r"\d{13}-\d+",
    "retry": r"\d+",
    "moment": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z",
    "duration": r"\d+(?:\.\d+)? ?(?:ms|µs|s|m|h)(?: \d+[smh])*",
    "hex": r"[0-9a-f]{8,}",
    "key": r"[A-Za-z0-9_.-]{16,}",
    "number": r"[1-9][\d.,]*|0\.\d+",
    "any": r".*?",
}


def pattern(shown, numbers_vary=False):
    """The regular expression of one shown line."""
    kinds = [("any", r"[\w.-]*…"), *KINDS]
    if numbers_vary:
        kinds.append(("number", r"(?<![\w.])(?:[1-9][\d.,]*\d|[1-9]|0\.\d+)"))
    either = re.compile("|".join(f"(?P<{name}>{of})" for name, of in kinds))
    made, at = [], 0
    for found in either.finditer(shown):
        made.append(escaped(shown[at : found.start()]))
        made.append(f"(?:{ANY[found.lastgroup]})")
        at = found.end()
    made.append(escaped(shown[at:]))
    return "".join(made)


def escaped(text):
    """Columns may be wider or narrower than shown, so two spaces or more match any number of them."""
    return re.sub(r"(?:\\ ){2,}", r" +", re.escape(text))


def differs(shown, printed, numbers_vary=False, beginning=False):
    """None if they agree, else the first shown line that is not there.

    With `beginning` the shown lines need only be the first ones that were printed.
    """
    shown = [line.rstrip() for line in shown.rstrip().split("\n")]
    printed = [line.rstrip() for line in printed.rstrip().split("\n")]
    at, anywhere = 0, False
    for line in shown:
        if line.strip() == "…":
            anywhere = True
            continue
        wanted = re.compile(pattern(line, numbers_vary) + (r"(?![\d.]).*" if numbers_vary else r"\Z"))
        anywhere = anywhere or numbers_vary
        while anywhere and at < len(printed) and not wanted.match(printed[at]):
            at += 1
        if at >= len(printed) or not wanted.match(printed[at]):
            got = printed[at] if at < len(printed) else "nothing more"
            if anywhere:
                got = "no such line: " + " / ".join(printed)
            return f"the page shows: {line}\n    it printed:     {got}"
        at, anywhere = at + 1, False
    if at < len(printed) and not (anywhere or beginning or numbers_vary):
        return f"the page shows nothing more, and it printed: {printed[at]}"
    return None
