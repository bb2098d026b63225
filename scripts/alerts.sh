#!/bin/sh
# Checks the rules for alerts in docs/monitoring, on recorded samples too, and the queries of the dashboard.
# The library's tests check that all of them ask for metrics that there are.
set -eu
cd "$(dirname "$0")/../docs/monitoring"
if ! command -v promtool >/dev/null 2>&1; then
    echo "promtool is missing: run make tools, or install the package prometheus" >&2
    exit 1
fi
promtool check rules alerts.yml
promtool test rules alerts_test.yml
untested=$(sed -n 's/.* alert: *//p' alerts.yml | while read -r alert; do
    grep -A1 "alertname: $alert\$" alerts_test.yml | grep -q exp_alerts || echo "$alert"
done)
if [ -n "$untested" ]; then
    echo "alerts_test.yml makes none of these fire: $untested" >&2
    exit 1
fi
# The queries as rules, with values in place of the dashboard's variables.
queries=$(mktemp)
trap 'rm -f "$queries"' EXIT
python3 - >"$queries" <<'PYTHON'
import json
import re

dashboard = json.load(open("grafana.json"))
asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
asked += [note["expr"] for note in dashboard["annotations"]["list"] if "expr" in note]
rules = [
    {"record": f"query:{number}", "expr": re.sub(r"\$__\w+", "5m", query)}
    for number, query in enumerate(asked)
]
print(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
PYTHON
promtool check rules "$queries"
