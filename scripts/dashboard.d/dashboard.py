#!/usr/bin/env python3
"""Runs every query of the Grafana dashboard against a real Prometheus that scrapes real gateways:

    dashboard.py --gateway PROGRAM [--seconds N] [--outage N] [--picture FILE]

Clients listen and publish for N seconds; Redis is killed for the seconds of the outage in between.
A query that finds no data in the whole run is an error. The exit status is then 1, else 0. With
--picture, the panels are drawn into a PNG file; that needs matplotlib.
"""

import argparse
import json
import pathlib
import shutil
import sys
import tempfile
import time

from stage import ROOT, SCRAPE, Stage

DASHBOARD = ROOT / "deploy/grafana/dashboards/sse-gateway.json"


def panels(rows=False):
    """The dashboard's panels, or its rows' headings."""
    all_of_them = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in all_of_them if (panel["type"] == "row") == rows]


def expanded(expression, instances):
    """Fills in what Grafana fills in."""
    # Grafana takes four scrapes for the interval of a rate, so that one may fail.
    text = expression.replace("$__rate_interval", f"{4 * SCRAPE}s")
    return text.replace("$instance", "|".join(instance.replace(".", r"\\.") for instance in instances))


def run(stage, seconds, outage):
    """Lets the clients do their work. Returns when it began and ended, and what /readyz said in between."""
    began = time.time()
    said = []

    def work(until):
        while time.time() < until:
            stage.disturb()
            time.sleep(1)

    work(began + seconds / 2)
    stage.redis.kill()
    killed = time.time()
    while time.time() < killed + outage:
        answer = stage.readyz()
        if not said or said[-1][1][0] != answer[0]:
            said.append((time.time() - killed, answer))
        time.sleep(0.25)
    stage.redis.start()
    while (answer := stage.readyz())[0] != 200:
        time.sleep(0.1)
    said.append((time.time() - killed, answer))
    work(time.time() + seconds / 2)
    # The last scrape must have seen the last second.
    time.sleep(2 * SCRAPE)
    return began, time.time(), said


def series(stage, began, ended):
    """Returns each panel with what Prometheus has for each of its queries."""
    instances = stage.ask("label/instance/values")
    found = []
    for panel in panels():
        answers = []
        for target in panel["targets"]:
            query = expanded(target["expr"], instances)
            answer = stage.ask("query_range", query=query, start=began, end=ended, step=SCRAPE)
            answers.append((target, query, answer["result"]))
        found.append((panel, answers))
    return found


def has_data(results):
    return any(value not in ("NaN", "+Inf", "-Inf") for result in results for _, value in result["values"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--seconds", type=float, default=16)
    parser.add_argument("--outage", type=float, default=4)
    parser.add_argument("--picture", type=pathlib.Path)
    parser.add_argument("--logs", type=pathlib.Path, help="copy the gateways' logs here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sse-dashboard-") as name:
        directory = pathlib.Path(name)
        with Stage(arguments.gateway, directory) as stage:
            began, ended, said = run(stage, arguments.seconds, arguments.outage)
            found = series(stage, began, ended)
            firing = stage.ask("query_range", query='ALERTS{alertstate="firing"}', start=began, end=ended, step=SCRAPE)
        if arguments.logs:
            arguments.logs.mkdir(parents=True, exist_ok=True)
            for log in directory.glob("gateway-*.log"):
                shutil.copy(log, arguments.logs)
    for after, (status, body) in said:
        print(f"/readyz {after:.1f} s after the kill of Redis: {status} {body}")
    for alert in firing["result"]:
        print(f"fired: {alert['metric']['alertname']} {alert['metric'].get('instance', '')}")
    empty = 0
    for panel, answers in found:
        for target, query, results in answers:
            if not has_data(results):
                empty += 1
                print(f"no data: panel {panel['title']!r}, query {target['refId']}: {query}", file=sys.stderr)
    if arguments.picture:
        import picture

        picture.draw(found, panels(rows=True), began, ended, arguments.picture)
        print(f"drawn: {arguments.picture}")
    queries = sum(len(answers) for _, answers in found)
    print(f"{queries - empty} passed, {empty} failed")
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main())
