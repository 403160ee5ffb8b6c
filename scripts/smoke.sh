#!/usr/bin/env bash
# A few minutes with real clients, for CI: kcat, confluent-kafka and kafka-python; SIGTERM and a restart; kill -9 under load.
#   scripts/smoke.sh
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"
source "$SCRIPTS/lib/install.sh"
source "$SCRIPTS/lib/scenarios.sh"

install_kcat
install_python
build_broker
WORK="$(data_directory smoke)"
trap 'kill_broker; rm -rf "$WORK"' EXIT
PORT="$(free_port)"
BOOTSTRAP="127.0.0.1:$PORT"
with() {
  local client="$1"
  shift
  "$PYTHON" "$SCRIPTS/clients/python/with_$client.py" "$@"
}
start() { start_broker "$WORK/data" "$PORT" || die "the broker did not start"; }
exit_code_is_zero() { [[ $1 == 0 ]] || { echo "exit code $1" && return 1; }; }

start
scenario 60 "confluent-kafka writes lz4" with confluent produce "$BOOTSTRAP" first 3 30000 lz4 all full
scenario 60 "kcat reads it" with kcat consume "$BOOTSTRAP" first 3 30000 full
scenario 60 "kcat writes zstd" with kcat produce "$BOOTSTRAP" second 2 10000 zstd all nulls
scenario 60 "kafka-python reads it" with kafka_python consume "$BOOTSTRAP" second 2 10000 nulls
scenario 60 "kafka-python writes gzip" with kafka_python produce "$BOOTSTRAP" third 2 10000 gzip 1 plain
scenario 60 "confluent-kafka reads it, as a member of a group" with confluent group "$BOOTSTRAP" third 2 10000 plain readers
scenario 60 "topics, configs, partitions, offsets by time, record deletion" with confluent admin "$BOOTSTRAP" fourth

code=0
stop_broker || code=$?
scenario 5 "SIGTERM ends it with exit code 0" exit_code_is_zero "$code"
start
scenario 60 "after the restart everything is there" with confluent consume "$BOOTSTRAP" first 3 30000 full
scenario 60 "after the restart kcat reads too" with kcat consume "$BOOTSTRAP" second 2 10000 nulls

# An idempotent producer at work while the broker is killed: it goes on when the broker is back, and every record is
# acknowledged at the offset that its place demands, so nothing is lost and nothing is there twice.
with confluent produce "$BOOTSTRAP" killed 3 400000 none all full >"$WORK/producer.out" 2>&1 </dev/null &
producer=$!
until grep -qE 'killed' < <(kcat -L -b "$BOOTSTRAP" 2>/dev/null); do sleep 0.1; done
sleep 0.7
at_work=0
kill -0 "$producer" 2>/dev/null || at_work=1
kill_broker
start
produced() {
  [[ $1 == 0 ]] || { cat "$WORK/producer.out" && return 1; }
}
scenario 5 "kill -9 came while the producer was at work" exit_code_is_zero "$at_work"
code=0
wait_for_exit "$producer" 120 || code=$?
kill -KILL "$producer" 2>/dev/null || true
scenario 5 "kill -9 under load: the producer goes on, each record at its offset" produced "$code"
scenario 60 "after kill -9 everything is there" with confluent consume "$BOOTSTRAP" killed 3 400000 full
scenario 60 "after kill -9 what was there before is there" with kcat consume "$BOOTSTRAP" first 3 30000 full
code=0
stop_broker || code=$?
scenario 5 "SIGTERM ends it with exit code 0 again" exit_code_is_zero "$code"
finish_scenarios
