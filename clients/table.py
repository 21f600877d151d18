"""Writes the outcomes and the texts of clients.toml between the markers of docs/clients.md."""

BEGIN, END = "<!-- written by make clients: begin -->", "<!-- written by make clients: end -->"

COLUMNS = [
    ("idle", "idle"),
    ("published", "published to"),
    ("long", "over 64 KB"),
    ("killed", "killed"),
    ("drained", "drained"),
    ("alone", "no replica"),
    ("redis", "Redis lost"),
]
# The scenario's cell and the paths that each column shows.
SOURCES = {name: (name, ["direct", "nginx"]) for name, _ in COLUMNS}
SOURCES["idle"] = ("idle", ["direct", "nginx", "comments"])
SOURCES["alone"] = ("killed", ["alone"])


def cell(client, column, outcomes):
    scenario, paths = SOURCES[column]
    words = []
    for path in paths:
        word = outcomes[client.name, scenario, path, False]
        word = word.replace("fine", "✓")
        if client.cured_in(scenario, path):
            word += " ▸ " + outcomes[client.name, scenario, path, True].replace("fine", "✓")
        words.append((path, word))
    if len({word for _, word in words}) == 1:
        return words[0][1]
    return "<br>".join(word if word == "✓" and path == "direct" else f"{path}: {word}" for path, word in words)


def rows(clients, outcomes, run):
    yield "| client | " + " | ".join(title for _, title in COLUMNS) + " |"
    yield "|---|" + "---|" * len(COLUMNS)
    for client in clients:
        cells = [cell(client, column, outcomes) for column, _ in COLUMNS]
        yield f"| {client.title} | " + " | ".join(cells) + " |"
    yield ""
    yield "| client | who comes back | position | `retry:` | reserved events | what to add ▸, and limits |"
    yield "|---|---|---|---|---|---|"
    for client in clients:
        position, retry = run.probed[client.name]
        reserved = ", ".join(f"`{kind}`" for kind in sorted(run.reserved[client.name], key="checkpoint alive gap".find))
        reserved = f"skip {reserved}" if client.one_handler else f"by type: {reserved}"
        words = [f"▸ {client.cure['words']}"] if client.cure else []
        words += [client.notes] if client.notes else []
        columns = [client.comes_back, position, retry, reserved, " ".join(words)]
        yield f"| {client.title} | " + " | ".join(columns) + " |"


def write(path, clients, outcomes, run):
    text = path.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    lines = "\n".join(rows(clients, outcomes, run))
    path.write_text(f"{before}{BEGIN}\n\n{lines}\n\n{END}{after}")
