"""Draws the dashboard's panels where Grafana puts them, from what Prometheus answered."""

import math

import matplotlib
from matplotlib.ticker import FuncFormatter, MaxNLocator

matplotlib.use("Agg")
import matplotlib.pyplot as plot  # noqa: E402

BACKGROUND, CARD, TEXT, DIM, GRID = "#111217", "#181b1f", "#d8d9da", "#8e9299", "#2b2e34"
COLOURS = ["#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#e0b400", "#37872d"]
# A row of Grafana's grid is 38 pixels high; 24 columns are as wide as the window.
WIDTH, ROW = 1600, 34
PER_INCH = 100
NAMED = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c", "text": TEXT}


def draw(found, rows, began, ended, file):
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel, _ in found) * ROW
    figure = plot.figure(figsize=(WIDTH / PER_INCH, height / PER_INCH), dpi=PER_INCH, facecolor=BACKGROUND)
    for row in rows:
        middle = 1 - (row["gridPos"]["y"] + 0.5) * ROW / height
        figure.text(8 / WIDTH, middle, row["title"], color=TEXT, fontsize=10, va="center", weight="bold")
    for panel, answers in found:
        at = panel["gridPos"]
        left, width = at["x"] * WIDTH / 24 + 4, at["w"] * WIDTH / 24 - 8
        top, tall = at["y"] * ROW + 4, at["h"] * ROW - 8
        card = figure.add_axes((left / WIDTH, 1 - (top + tall) / height, width / WIDTH, tall / height))
        card.set_facecolor(CARD)
        card.set_xticks([])
        card.set_yticks([])
        for spine in card.spines.values():
            spine.set_color(GRID)
        card.text(10 / width, 1 - 16 / tall, panel["title"], color=TEXT, fontsize=8.5, va="center", weight="bold")
        unit = panel["fieldConfig"]["defaults"].get("unit", "short")
        if panel["type"] == "stat":
            _stat(card, panel, answers, unit)
            continue
        inner = (left + 52, top + 34, width - 64, tall - 34 - 52)
        axes = figure.add_axes(
            (inner[0] / WIDTH, 1 - (inner[1] + inner[3]) / height, inner[2] / WIDTH, inner[3] / height)
        )
        _lines(axes, card, panel, answers, unit, began, ended, (width, tall))
    figure.savefig(file, facecolor=BACKGROUND)


def _points(result):
    points = [(float(at), float(value)) for at, value in result["values"]]
    return [(at, value) for at, value in points if math.isfinite(value)]


def _stat(card, panel, answers, unit):
    values = [point[-1][1] for _, _, results in answers for result in results if (point := _points(result))]
    value = values[-1] if values else math.nan
    colour = "text"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    card.text(0.5, 0.42, _number(value, unit), color=NAMED[colour], fontsize=22, ha="center", va="center")


def _lines(axes, card, panel, answers, unit, began, ended, size):
    axes.set_facecolor(CARD)
    axes.tick_params(colors=DIM, labelsize=7, length=0)
    axes.grid(color=GRID, linewidth=0.6)
    for spine in axes.spines.values():
        spine.set_visible(False)
    stacked = "stacking" in panel["fieldConfig"]["defaults"].get("custom", {})
    named, base = [], {}
    drawn = [(target, result, _points(result)) for target, _, results in answers for result in results]
    # Where something is counted, names of what was not would only take room.
    some = any(value for _, _, points in drawn for _, value in points)
    for target, result, points in drawn:
        if points and (not some or any(value for _, value in points)):
            times = [at - began for at, _ in points]
            heights = [value + (base.get(at, 0) if stacked else 0) for at, value in points]
            feet = [base.get(at, 0) if stacked else 0 for at, _ in points]
            base.update(zip((at for at, _ in points), heights, strict=True))
            colour = COLOURS[len(named) % len(COLOURS)]
            axes.plot(times, heights, color=colour, linewidth=1)
            axes.fill_between(times, feet, heights, color=colour, alpha=0.25 if stacked else 0.08, linewidth=0)
            named.append((_legend(target["legendFormat"], result["metric"]), colour))
    axes.set_xlim(0, ended - began)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value, unit)))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} s"))
    width, tall = size
    at, shown = 12.0, set()
    for name, colour in named:
        if name in shown:
            continue
        shown.add(name)
        long = 16 + 5.6 * len(name)
        if at + long > width - 24:
            card.text(at / width, 14 / tall, "…", color=DIM, fontsize=7.5, va="center")
            break
        card.text(at / width, 14 / tall, "▬", color=colour, fontsize=8, va="center")
        card.text((at + 12) / width, 14 / tall, name, color=DIM, fontsize=7.5, va="center")
        at += long


def _legend(form, labels):
    if form == "__auto":
        return ""
    for name, value in labels.items():
        form = form.replace("{{" + name + "}}", _instance(value) if name == "instance" else value)
    return form


_instances = {}


def _instance(address):
    """A run's addresses are by chance, so the picture counts the gateways."""
    return _instances.setdefault(address, f"gateway-{len(_instances) + 1}")


def _number(value, unit):
    if not math.isfinite(value):
        return "–"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        if 0 < value < 1:
            return f"{1000 * value:.3g} ms"
        return f"{value:.3g} s"
    suffix = {"ops": "/s", "bytes": "B", "Bps": "B/s"}.get(unit, "")
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}{suffix}"
    return f"{value:.3g}{' ' if suffix.startswith('B') else ''}{suffix}"
