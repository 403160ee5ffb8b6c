"""Asks a Prometheus that watches a broker for everything that the dashboard shows, and for the state of the alerts.

look.py PROMETHEUS-URL DASHBOARD
"""

import json
import sys
import time
import urllib.parse
import urllib.request

# How long the first samples may take, in seconds.
PATIENCE = 30
# What a healthy broker has nothing of.
MAY_BE_EMPTY = {"Held for over a millisecond"}


def get(url, path, **query):
    with urllib.request.urlopen(f"{url}{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
        body = json.load(answer)
    assert body["status"] == "success", body
    return body["data"]


def queries(dashboard):
    """Every query with its panel's title and what Grafana would put in place of the variables."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            for name, value in [("$job", "millstream"), ("$instance", ".*"), ("$__rate_interval", "5s")]:
                expression = expression.replace(name, value)
            yield panel["title"], expression


def main(url, path):
    with open(path, encoding="utf-8") as file:
        dashboard = json.load(file)
    asked = list(queries(dashboard))
    assert len(asked) > 40, "the dashboard has lost its queries"
    deadline = time.monotonic() + PATIENCE
    empty = asked
    while empty and time.monotonic() < deadline:
        empty = [(title, query) for title, query in empty if not get(url, "/api/v1/query", query=query)["result"]]
        empty = [(title, query) for title, query in empty if title not in MAY_BE_EMPTY]
        time.sleep(0.5)
    for title, query in empty:
        print(f"nothing is shown in {title!r} by {query}")
    rules = [rule for group in get(url, "/api/v1/rules")["groups"] for rule in group["rules"]]
    bad = [rule for rule in rules if rule["health"] != "ok" or rule["state"] == "firing"]
    for rule in bad:
        print(f"{rule['name']} is {rule['state']}, {rule['health']}: {rule.get('lastError', rule['alerts'])}")
    if empty or bad:
        return 1
    print(f"ok: {len(asked)} queries of the dashboard show something, {len(rules)} alerts do not fire")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
