#!/usr/bin/env bash
# Millstream beside Apache Kafka and beside what this machine could do at best, in one command: builds and installs what
# it needs, runs `millstream-bench compare`, cleans up. Takes 25 minutes; --tiny tries everything in 1 or 2.
#   scripts/peers/compare.sh [--cluster] [--only-millstream] [OPTION OF millstream-bench compare ...]
# With --cluster three processes of each, three replicas of which two have to be in sync, acks=all: throughput, latency,
# processor time and memory of each process, beside three durable writers. Takes 25 minutes; --tiny 3.
# For example: scripts/peers/compare.sh --workloads bulk,single --rounds 5 --markdown figures.md
set -euo pipefail
source "$(dirname "$0")/../lib/common.sh"

cluster= with_kafka=1
options=()
for argument in "$@"; do
  case "$argument" in
    --cluster) cluster=1 ;;
    --only-millstream) with_kafka= ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0" && exit ;;
    *) options+=("$argument") ;;
  esac
done

build_broker
export MILLSTREAM_BINARY="$BROKER"
if [[ -n ${MILLSTREAM_BENCH:-} ]]; then
  BENCH="$MILLSTREAM_BENCH"
else
  (cd "$ROOT" && cargo build --release -p millstream-bench)
  BENCH="${CARGO_TARGET_DIR:-$ROOT/target}/release/millstream-bench"
fi
[[ -x $BENCH ]] || die "no millstream-bench at $BENCH"
[[ -z $with_kafka ]] || "$SCRIPTS/peers/kafka.sh" install
parent="${MILLSTREAM_DATA_PARENT:-$ROOT/target}"
mkdir -p "$parent"
[[ -z ${MILLSTREAM_PORTS:-} ]] || options+=(--ports "$MILLSTREAM_PORTS")

# What is not given.
default() { [[ " ${options[*]}" == *" $1"* ]] || options+=("$1" "$2"); }
run=(run "{data}" "{port}") millstream_run=(run "{data}" "{port}" "{metrics}")
if [[ -n $cluster ]]; then
  run=(node "{data}" "{port}" "{node}" "{voters}") millstream_run=(node "{data}" "{port}" "{metrics}" "{node}" "{voters}")
  options=(--nodes 3 --topic-config min.insync.replicas=2 "${options[@]}")
  # Where nothing else is asked for: what several processes and copies change most.
  default --workloads bulk-4,single-1,single-8,small-1000,half-rate,tail-1
  # Three virtual machines on the processors of one take three times as long to compile what they use.
  default --first-load 120
fi
brokers=(--broker "millstream=$SCRIPTS/peers/millstream.sh ${millstream_run[*]}")
[[ -z $with_kafka ]] ||
  brokers+=(--broker "kafka=$SCRIPTS/peers/kafka.sh ${run[*]}" --variant "kafka flush=kafka flush.messages=1")
default --commit "$(git -C "$ROOT" describe --always --dirty 2>/dev/null || echo unknown)"
# Deleted topics leave the disk at once, not after a minute.
exec "$BENCH" compare --data-parent "$parent" --topic-config file.delete.delay.ms=1000 "${brokers[@]}" "${options[@]}"
