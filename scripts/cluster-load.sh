#!/usr/bin/env bash
# What must not cost a cluster its controller or one of its brokers: a node whose shards stand still for half a second, attacks on a
# node's port for clients, and a load that fills its memory. No broker is fenced and no term begins.
#   scripts/cluster-load.sh [--seconds 30] [--memory-mib 512] [--little-mib 192] [PART...]
# PART: hold (needs the right to trace processes), hostile, memory. Without any: all of them. --seconds: how long a node is attacked;
# --memory-mib: millstream.memory.bytes of each node then; --little-mib: in `memory`.
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"
source "$SCRIPTS/lib/install.sh"
source "$SCRIPTS/lib/scenarios.sh"

SECONDS_ATTACKED=30 MEMORY_MIB=512 LITTLE_MIB=192 PARTS=()
while (($#)); do
  case "$1" in
    --seconds) SECONDS_ATTACKED="$2" && shift ;;
    --memory-mib) MEMORY_MIB="$2" && shift ;;
    --little-mib) LITTLE_MIB="$2" && shift ;;
    hold | hostile | memory) PARTS+=("$1") ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0" && exit 2 ;;
  esac
  shift
done
((${#PARTS[@]})) || PARTS=(hold hostile memory)
wanted() { [[ " ${PARTS[*]} " == *" $1 "* ]]; }

build_broker
install_python
# Attackers and clients are on one machine: hundreds of connections need as many descriptors.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
export MILLSTREAM_BINARY="$BROKER" MILLSTREAM_CLUSTER
WORK="$(data_directory cluster-load)"
MILLSTREAM_CLUSTER="$WORK/nodes"
cluster() { "$SCRIPTS/cluster.sh" "$@"; }
finish() {
  cluster down >/dev/null 2>&1 || true
  rm -rf "$WORK"
}
trap finish EXIT
of_cluster() { "$PYTHON" "$SCRIPTS/clients/python/cluster_load.py" "$@"; }
pid_of() { cat "$MILLSTREAM_CLUSTER/$1/pid"; }

# begin MIB: a cluster whose nodes have so much memory, with a topic by which it is seen that nobody was fenced.
begin() {
  ! [[ -e $MILLSTREAM_CLUSTER/nodes ]] || cluster down
  IFS=, read -ra NODES <<<"$(cluster up --set "millstream.memory.bytes=$(($1 << 20))")"
  "$BROKER" topic create --bootstrap-server "${NODES[0]}" --partitions 12 canary >/dev/null
  # The quorum has settled, and all nodes know the topic.
  sleep 1
}
state() { of_cluster state canary "${NODES[@]}"; }
# undisturbed COMMAND...: no broker is fenced and no term begins while it runs.
undisturbed() {
  local before after
  before="$(state)"
  "$@"
  after="$(state)"
  echo "before: $before"
  echo "after:  $after"
  [[ $before == "$after" ]] || { echo "a term has begun, or a broker was fenced:" && cat "$MILLSTREAM_CLUSTER"/*/output && return 1; }
}
# Writes and reads beside what happens: as much as it is, each record at its offset. $1 names the topic.
beside() {
  client confluent-kafka produce "${NODES[0]}" "$1" 12 10000 lz4 all full 1000
  client confluent-kafka consume "${NODES[1]}" "$1" 12 10000 full
}

hold_shards() {
  local node round writer code=0
  beside held &
  writer=$!
  sleep 2
  for round in 1 2; do
    for node in 1 2 3; do of_cluster hold "$(pid_of "$node")" 0.5; done
  done
  wait "$writer" || code=$?
  return "$code"
}

besiege() {
  "$PYTHON" -u "$SCRIPTS/clients/python/siege.py" "${NODES[$1 - 1]}" 9644 "$(pid_of "$1")" "$WORK/requests" --node "$1" \
    --seconds "$SECONDS_ATTACKED" --memory-mib "$MEMORY_MIB"
}

# Producers that write as fast as it goes, beside connections that take what memory they can get.
fill_memory() {
  local writers=() number code=0
  of_cluster squeeze canary 20 "${NODES[@]}" &
  writers+=($!)
  for number in 1 2 3 4; do
    client confluent-kafka produce "${NODES[number % 3]}" "full-$number" 12 120000 none all full &
    writers+=($!)
  done
  for pid in "${writers[@]}"; do wait "$pid" || code=1; done
  ((code == 0)) || { echo "a client has failed" && return 1; }
  for number in 1 2 3 4; do client confluent-kafka consume "${NODES[number % 3]}" "full-$number" 12 120000 full; done
  for number in 1 2 3; do
    awk -v node="$number" '/^VmHWM/ { printf "node %d: %d MiB at most\n", node, $2 / 1024 }' "/proc/$(pid_of "$number")/status"
  done
}

fill_memory_said() {
  fill_memory | tee "$WORK/memory"
}

if wanted hold || wanted hostile; then begin "$MEMORY_MIB"; fi
if wanted hold; then
  if of_cluster hold "$(pid_of 1)" 0.01 >/dev/null 2>&1; then
    scenario 120 "the shards of each node stand still for 500 ms, twice" strict undisturbed hold_shards
  else
    skip "the shards of a node stand still: no right to trace its threads"
  fi
fi
if wanted hostile; then
  write_requests "$WORK/requests"
  led_by="$(cluster controller)"
  scenario $((SECONDS_ATTACKED + 180)) "node $led_by, which leads the quorum, is attacked for $SECONDS_ATTACKED s" strict undisturbed besiege "$led_by"
  scenario $((SECONDS_ATTACKED + 180)) "node $((led_by % 3 + 1)) is attacked for $SECONDS_ATTACKED s" strict undisturbed besiege "$((led_by % 3 + 1))"
fi
if wanted memory; then
  begin "$LITTLE_MIB"
  scenario 300 "producers and connections that take memory fill nodes of $LITTLE_MIB MiB" strict undisturbed fill_memory_said
  if [[ -e $WORK/memory ]]; then sed 's/^/     /' "$WORK/memory"; fi
fi
finish_scenarios
