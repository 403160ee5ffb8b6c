#!/usr/bin/env bash
# Millstream beside Apache Kafka and beside what this machine could do at best, in one command: builds and installs what
# it needs, runs `millstream-bench compare`, cleans up. Takes 25 minutes; --tiny tries everything in 1 or 2.
#   scripts/peers/compare.sh [--only-millstream] [OPTION OF millstream-bench compare ...]
# For example: scripts/peers/compare.sh --workloads bulk,single --rounds 5 --markdown figures.md
set -euo pipefail
source "$(dirname "$0")/../lib/common.sh"

kafka=(--broker "kafka=$SCRIPTS/peers/kafka.sh run {data} {port}" --variant "kafka flush=kafka flush.messages=1")
options=()
for argument in "$@"; do
  if [[ $argument == --only-millstream ]]; then kafka=(); else options+=("$argument"); fi
done

build_broker
export MILLSTREAM_BINARY="$BROKER"
if [[ -n ${MILLSTREAM_BENCH:-} ]]; then
  BENCH="$MILLSTREAM_BENCH"
else
  (cd "$ROOT" && cargo build --release -p millstream-bench)
  BENCH="${CARGO_TARGET_DIR:-$ROOT/target}/release/millstream-bench"
fi
((${#kafka[@]} == 0)) || "$SCRIPTS/peers/kafka.sh" install
parent="${MILLSTREAM_DATA_PARENT:-$ROOT/target}"
mkdir -p "$parent"
[[ -z ${MILLSTREAM_PORTS:-} ]] || options+=(--ports "$MILLSTREAM_PORTS")
# Deleted topics leave the disk at once, not after a minute.
exec "$BENCH" compare --data-parent "$parent" --topic-config file.delete.delay.ms=1000 \
  --commit "$(git -C "$ROOT" describe --always --dirty 2>/dev/null || echo unknown)" \
  --broker "millstream=$SCRIPTS/peers/millstream.sh run {data} {port} {metrics}" "${kafka[@]}" "${options[@]}"
