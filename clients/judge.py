"""Judges one client in one scenario: `fine`, or a word for what an application would have suffered.

It compares what was published with what the client's program printed. docs/clients.md has the words.
"""

import json

RESERVED = {"checkpoint", "gap", "alive"}


def kind(line):
    return line.get("type") or "message"


def events(lines):
    return [line for line in lines if line["what"] == "event" and kind(line) not in RESERVED]


def reserved(lines):
    """Returns the reserved types that reached the application."""
    return {kind(line) for line in lines if line["what"] == "event"} & RESERVED


def gaps(lines):
    """Returns the reasons of the client's gaps, each once."""
    told = [line["data"] for line in lines if line["what"] == "event" and kind(line) == "gap"]
    return dict.fromkeys(json.loads(data).get("reason", "") for data in told)


def openings(lines):
    """Returns the data of the opening checkpoints, one for each time that the client connected."""
    return [line["data"] for line in lines if line["what"] == "event" and kind(line) == "checkpoint" and line["data"]]


class Heard:
    """Compares what a client heard with what was published, a list of (id, type, data, label)."""

    def __init__(self, published, lines):
        self.lost, self.garbled, self.doubled = [], [], []
        self.empty = 0
        by_id = {id: (kind_, data, label) for id, kind_, data, label in published}
        seen = set()
        for line in events(lines):
            id = line.get("id")
            if id in by_id and id not in seen:
                seen.add(id)
                kind_, data, label = by_id[id]
                if (kind(line), line["data"]) != (kind_, data):
                    self.garbled.append(label)
            elif not line["data"] and kind(line) == "message":
                # Some libraries pass on a block without data, with the last id that they know.
                self.empty += 1
            elif id in by_id:
                self.doubled.append(by_id[id][2])
            else:
                self.garbled.append("others")
        self.lost = [label for id, (_, _, label) in by_id.items() if id not in seen]
        self.last = bool(published) and published[-1][0] in seen


def judge(published, lines, over):
    """For scenarios after which a client should have heard all events."""
    heard = Heard(published, lines)
    if not heard.last:
        if over:
            return "ends"
        # A client that loops reconnects and breaks off at the same event again and again.
        return "loops" if len(openings(lines)) >= 3 else "deaf"
    words = []
    if heard.doubled:
        words.append("doubles " + _list(heard.doubled))
    if heard.lost:
        words.append("loses " + _list(heard.lost))
    if heard.garbled:
        words.append("garbles " + _list(heard.garbled))
    if heard.empty:
        words.append("empty messages")
    words += [f"gap {reason}".strip() for reason in gaps(lines)]
    return "; ".join(words) or "fine"


def judge_idle(published, lines, over):
    """The stream should stay open with nothing but checkpoints, until the last event arrives."""
    outcome = judge(published, lines, over)
    if outcome in ("fine", "empty messages") and came_back(lines):
        return "reopens" if outcome == "fine" else "reopens; empty messages"
    return outcome


def judge_redis(published, lines, over):
    """The stream should stay open, and a gap should say that Redis was restarted."""
    outcome = judge(published, lines, over)
    if outcome == "fine":
        return "no gap"
    words = [word for word in outcome.split("; ") if word != "gap reset"]
    if came_back(lines):
        words.append("reopens")
    return "; ".join(words) or "fine"


def came_back(lines):
    return len(openings(lines)) > 1 or any(line["what"] in ("error", "end") for line in lines)


def _list(labels):
    return ", ".join(dict.fromkeys(labels))
