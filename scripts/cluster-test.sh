#!/usr/bin/env bash
# Three nodes as three processes: what a cluster has to do whatever becomes of one of them. Needs nothing but the broker.
#   scripts/cluster-test.sh [--times N]   kills the node that leads the quorum N times (20)
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"

times=20
[[ ${1:-} != --times ]] || times="$2"
export MILLSTREAM_CLUSTER
MILLSTREAM_CLUSTER="$(data_directory cluster)/nodes"
build_broker
export MILLSTREAM_BINARY="$BROKER"
cluster() { "$SCRIPTS/cluster.sh" "$@"; }
finish() {
  cluster down >/dev/null 2>&1 || true
  rm -rf "$(dirname "$MILLSTREAM_CLUSTER")"
}
trap finish EXIT

at() { printf '127.0.0.1%d:9092' "$1"; }
create() { "$BROKER" topic create --bootstrap-server "$(at "$1")" --timeout 10 "${@:2}" >/dev/null; }
# How many partitions of topic $2 have a leader, as node $1 says.
led() { "$BROKER" topic describe --bootstrap-server "$(at "$1")" "$2" | awk '$1 ~ /^[0-9]+$/ && $2 != "-"' | wc -l; }
# Waits until $2... is so, 20 s at most; $1 says what it is.
until_so() {
  local what="$1" waited=0
  shift
  until "$@"; do
    ((waited++ < 200)) || die "not within 20 s: $what"
    sleep 0.1
  done
}
are_led() { [[ $(led "$1" "$2") == "$3" ]]; }
# The two nodes that are not node $1.
others() { for node in 1 2 3; do [[ $node == "$1" ]] || echo "$node"; done; }

started="$(date +%s%N)"
cluster up >/dev/null
say "three nodes are ready after $((($(date +%s%N) - started) / 1000000)) ms"

create 2 --partitions 12 spread
for node in 1 2 3; do until_so "node $node knows all leaders" are_led "$node" spread 12; done
leaders="$("$BROKER" topic describe --bootstrap-server "$(at 3)" spread | awk '$1 ~ /^[0-9]+$/ { print $2 }' | sort | uniq -c | awk '{ print $1 }' | tr '\n' ' ')"
[[ $leaders == "4 4 4 " ]] || die "12 partitions are spread as $leaders"
for ((number = 0; number < 3000; number++)); do echo "key$number:value$number"; done >"$MILLSTREAM_CLUSTER/records"
"$BROKER" produce --bootstrap-server "$(at 1)" --key-separator : spread <"$MILLSTREAM_CLUSTER/records" >/dev/null
read_all() { "$BROKER" consume --bootstrap-server "$(at "$1")" spread 2>/dev/null | sort -u | wc -l; }
for node in 1 2 3; do [[ $(read_all "$node") == 3000 ]] || die "node $node gives $(read_all "$node") of 3000 records"; done
say "12 partitions over three nodes, 3,000 records written through one and read through each"

cluster failover --times "$times"

led_by="$(cluster controller)"
read -r one two <<<"$(others "$led_by" | tr '\n' ' ')"
cluster kill "$one"
cluster kill "$two"
if create "$led_by" --partitions 1 alone 2>/dev/null; then die "one of three decides by itself"; fi
cluster start "$one"
until_so "two of three decide" create "$one" --if-not-exists --partitions 1 two-of-three
cluster start "$two"
for node in 1 2 3; do until_so "all partitions are led again" are_led "$node" spread 12; done
say "one of three decides nothing; two do; with all three every partition is led"

led_by="$(cluster controller)"
read -r one two <<<"$(others "$led_by" | tr '\n' ' ')"
cluster pause "$led_by"
until_so "the others decide" create "$one" --if-not-exists --partitions 1 paused
until_so "what the paused node leads has no leader" are_led "$two" spread 8
cluster resume "$led_by"
for node in 1 2 3; do until_so "all partitions are led again" are_led "$node" spread 12; done
say "a paused controller is replaced and fenced, and comes back"

cluster stop "$one"
cluster start "$one"
for node in 1 2 3; do until_so "all partitions are led again" are_led "$node" spread 12; done
for node in 1 2 3; do [[ $(read_all "$node") == 3000 ]] || die "node $node gives $(read_all "$node") of 3000 records"; done
say "a node is stopped and started; all 3,000 records are there"
