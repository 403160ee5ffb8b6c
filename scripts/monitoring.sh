#!/usr/bin/env bash
# What operators watch by, tried: promtool checks the alert rules and runs their tests; a Prometheus watches a broker under a small
# load, and every query of the dashboard finds something there, and every alert is evaluated and does not fire.
#   scripts/monitoring.sh
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"
source "$SCRIPTS/lib/install.sh"

install_prometheus || {
  say "skip: Prometheus cannot be had"
  exit 0
}
HERE="$SCRIPTS/monitoring"
"$PROMTOOL" check config "$HERE/prometheus.yml"
"$PROMTOOL" test rules "$HERE/alerts.test.yml"

build_broker
WORK="$(data_directory monitoring)"
PROMETHEUS_PID=
cleanup() {
  kill_broker
  if [[ -n $PROMETHEUS_PID ]]; then
    kill -KILL "$PROMETHEUS_PID" 2>/dev/null || true
    wait "$PROMETHEUS_PID" 2>/dev/null || true
  fi
  rm -rf "$WORK"
}
trap cleanup EXIT
PORT="$(free_port)" HTTP="$(free_port)" WATCH="$(free_port)"
AT=(--bootstrap-server "127.0.0.1:$PORT")
start_broker "$WORK/data" "$PORT" --override "millstream.http.listener=127.0.0.1:$HTTP" || die "the broker did not start"

# As it is shipped, but for the address, and faster.
cp "$HERE/alerts.yml" "$WORK"
sed -e "s/127.0.0.1:9464/127.0.0.1:$HTTP/" -e 's/interval: 15s/interval: 1s/' "$HERE/prometheus.yml" >"$WORK/prometheus.yml"
"$PROMETHEUS" --config.file="$WORK/prometheus.yml" --storage.tsdb.path="$WORK/watched" --log.level=warn \
  --web.listen-address="127.0.0.1:$WATCH" >"$WORK/prometheus.out" 2>&1 </dev/null &
PROMETHEUS_PID=$!

"$BROKER" topic create watched "${AT[@]}" --partitions 3 >/dev/null
for _ in 1 2 3 4 5 6; do
  seq 1 2000 | "$BROKER" produce watched "${AT[@]}" >/dev/null
  "$BROKER" consume watched "${AT[@]}" --count 2000 >/dev/null
  sleep 1
done
python3 "$HERE/look.py" "http://127.0.0.1:$WATCH" "$HERE/dashboard.json" || {
  tail -5 "$WORK/prometheus.out"
  die "FAILED: what is watched is not what there is"
}
