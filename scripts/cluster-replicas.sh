#!/usr/bin/env bash
# Three replicas while nodes go and come back: idempotent producers of each client write with acks=all to topics of 24 partitions,
# three replicas each, two of which have to be in sync, while nodes are killed, paused, cut off and stopped in turn, and the leader
# of partition 0 again and again. Then every record is read, once and in order; a node loses its disk; and what the replicas hold is
# compared byte by byte.
#   scripts/cluster-replicas.sh [--quick] [--seconds 60] [--pace 4000] [--keep]
# --quick: 20 s, franz-go only. --pace: records a second of franz-go; each of the others writes a quarter of that. --keep: leaves the
# directory with the data of the nodes and what they have said, and says where it is; it is left, too, when something does not hold.
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"
source "$SCRIPTS/lib/install.sh"
source "$SCRIPTS/lib/scenarios.sh"

SECONDS_WRITTEN=60 PACE=4000 CLIENTS=(franz-go confluent-kafka java) KEEP=
while (($#)); do
  case "$1" in
    --quick) SECONDS_WRITTEN=20 CLIENTS=(franz-go) ;;
    --seconds) SECONDS_WRITTEN="$2" && shift ;;
    --pace) PACE="$2" && shift ;;
    --keep) KEEP=1 ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" && exit 2 ;;
  esac
  shift
done

PARTITIONS=24
# How long after a fault all replicas may take to be in sync, and clients to end.
IN_SYNC_MS_MAX=30000
PATIENCE_SECONDS=120

install_franz
[[ " ${CLIENTS[*]} " != *" confluent-kafka "* ]] || install_python || { skip "confluent-kafka: Python is not on this machine" && CLIENTS=("${CLIENTS[@]/confluent-kafka/}"); }
[[ " ${CLIENTS[*]} " != *" java "* ]] || install_java || { skip "the Java client: Java or Maven is not on this machine" && CLIENTS=("${CLIENTS[@]/java/}"); }
read -ra CLIENTS <<<"${CLIENTS[*]}"
build_broker
export MILLSTREAM_BINARY="$BROKER" MILLSTREAM_CLUSTER
WORK="$(data_directory cluster-replicas)"
MILLSTREAM_CLUSTER="$WORK/nodes"
cluster() { "$SCRIPTS/cluster.sh" "$@"; }
WRITERS=()
finish() {
  local pid node
  for pid in "${WRITERS[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
  if [[ -n $KEEP || $FAILED -gt 0 || -z ${ENDED:-} ]]; then
    for node in 1 2 3; do cluster kill "$node" >/dev/null 2>&1 || true; done
    # Only the network goes: another run would not find it by its name.
    (CLUSTER="$MILLSTREAM_CLUSTER" && source "$SCRIPTS/lib/network.sh" && network_down) >/dev/null 2>&1 || true
    say "what nodes and clients have said and written is in $WORK"
  else
    cluster down >/dev/null 2>&1 || true
    rm -rf "$WORK"
  fi
}
trap finish EXIT

holds() {
  PASSED=$((PASSED + 1))
  say "ok   $*"
}
broken() {
  FAILED=$((FAILED + 1))
  say "FAIL $*"
}
shown() { sed 's/^/     | /' | tail -40; }

# --- what nodes and the cluster say

pid_of() { cat "$MILLSTREAM_CLUSTER/$1/pid" 2>/dev/null; }
# A node that should run does: nobody but this script ends one.
must_run() { kill -0 "$(pid_of "$1")" 2>/dev/null || { tail -20 "$MILLSTREAM_CLUSTER/$1/output" | shown && die "node $1 has ended by itself"; }; }

# metric N NAME: of all its shards.
metric() {
  {
    exec 3<>"/dev/tcp/${NODES[$1 - 1]%:*}/9644"
    printf 'GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n' >&3
    timeout 5 cat <&3
  } 2>/dev/null | awk -v name="$2" '{ split($1, of, "{") } of[1] == name { sum += $2 } END { printf "%d\n", sum }'
}

COUNTED=(millstream_replica_bytes_out_total millstream_replica_catch_up_bytes_out_total millstream_replica_restarts_total millstream_replica_lost_total)
declare -A COUNT_OF=()
# Adds up what node $1 has counted: before its process ends, for its counters end with it.
count_node() {
  local name
  for name in "${COUNTED[@]}"; do COUNT_OF[$name]=$((${COUNT_OF[$name]:-0} + $(metric "$1" "$name"))); done
}
# What all nodes have counted until now, of the processes that have ended, too.
counted() {
  local node sum="${COUNT_OF[$1]:-0}"
  for node in 1 2 3; do sum=$((sum + $(metric "$node" "$1"))); done
  echo "$sum"
}

topics() { "$BROKER" topic describe --bootstrap-server "$BOOTSTRAP" --timeout 2 "${TOPICS[@]}" 2>/dev/null; }
# The partitions that do not have three replicas in sync, of all topics; fails when it is not known.
lagging() {
  local said
  said="$(topics)" && awk '/^[^ ].*: [0-9]+ partitions,/ { topic = $1 } $1 ~ /^[0-9]+$/ && (split($4, nodes, ",") != 3 || $2 == "-") { print topic $1 " is led by " $2 ", in sync " $4 }' <<<"$said"
}
all_in_sync() {
  local said
  said="$(lagging)" && [[ -z $said ]]
}
# in_sync_again WHAT: waits until all partitions have three replicas in sync; sets TOOK.
in_sync_again() {
  local before
  before="$(now_ms)"
  until all_in_sync; do
    if (($(now_ms) - before > IN_SYNC_MS_MAX)); then
      broken "not all replicas are in sync $IN_SYNC_MS_MAX ms after $1: $(lagging | wc -l) partitions"
      lagging | head -20 | shown
      return 1
    fi
    sleep 0.05
  done
  TOOK=$(($(now_ms) - before))
}

# Puts away what node $1 has said: a start begins its file anew.
keep_said() { cat "$MILLSTREAM_CLUSTER/$1/output" >>"$WORK/said-$1"; }
end_node() {
  must_run "$2"
  count_node "$2"
  cluster "$1" "$2"
  echo "-- $1 at $(date +%T.%3N)" >>"$MILLSTREAM_CLUSTER/$2/output"
  keep_said "$2"
}

# --- faults

CAN_CUT=
# fault KIND NODE: comes and goes.
fault() {
  echo "$(date +%T.%3N) $*" >>"$WORK/faults"
  case "$1" in
    kill | stop)
      end_node "$1" "$2"
      sleep $((ROUND % 3))
      cluster start "$2"
      ;;
    pause)
      must_run "$2"
      cluster pause "$2"
      sleep $((2 + ROUND % 2))
      cluster resume "$2"
      ;;
    isolate)
      must_run "$2"
      cluster isolate "$2"
      sleep $((2 + ROUND % 3))
      cluster heal
      ;;
  esac
}

declare -A HAPPENED=()
KINDS=(kill pause leader isolate stop leader)
# Faults in turn, each of another node. After two of three the replicas get the time to be in sync again.
faults() {
  local until node kind worst=0 started
  started="$(now_ms)"
  until=$((started + SECONDS_WRITTEN * 1000))
  for ((ROUND = 1; $(now_ms) < until; ROUND++)); do
    kind="${KINDS[ROUND % ${#KINDS[@]}]}"
    node=$(((ROUND + ROUND / ${#KINDS[@]}) % 3 + 1))
    if [[ $kind == leader ]]; then
      # While nobody leads it, one node is as good as the other.
      node="$(cluster leader "${TOPICS[ROUND % ${#TOPICS[@]}]}" 0 2>/dev/null)" || node=1
      fault kill "$node"
    elif [[ $kind != isolate || -n $CAN_CUT ]]; then
      fault "$kind" "$node"
    else
      continue
    fi
    HAPPENED[$kind]=$((${HAPPENED[$kind]:-0} + 1))
    if ((ROUND % 3)); then
      in_sync_again "$kind of node $node" || return 1
      ((TOOK <= worst)) || worst="$TOOK"
    fi
  done
  in_sync_again "the last fault" || return 1
  ((TOOK <= worst)) || worst="$TOOK"
  holds "all $((${#TOPICS[@]} * PARTITIONS)) partitions have three replicas in sync again within $worst ms after each fault: ${HAPPENED[kill]:-0} nodes killed," \
    "${HAPPENED[leader]:-0} leaders of partition 0 killed, ${HAPPENED[pause]:-0} paused, ${HAPPENED[isolate]:-0} cut off, ${HAPPENED[stop]:-0} stopped"
}

# --- producers and what they have written

# write CLIENT TOPIC COUNT PACE, in the background, in a process group of its own.
write() {
  set -m
  client "$1" produce "$BOOTSTRAP" "$2" "$PARTITIONS" "$3" lz4 all full "$4" >"$WORK/$2.said" 2>&1 </dev/null &
  WRITERS+=($!)
  set +m
}
# Waits until the producers have ended; each must have had every record acknowledged, at its offset.
written() {
  local pid code failed=0
  for pid in "${WRITERS[@]}"; do
    code=0
    wait_for_exit "$pid" "$PATIENCE_SECONDS" || code=$?
    ((code == 0)) || { failed=1 && echo "exit code $code"; }
  done
  WRITERS=()
  return "$failed"
}
# read_all READER...: each topic, by each of the clients.
read_all() {
  local reader index
  for reader in "$@"; do
    for index in "${!TOPICS[@]}"; do
      client "$reader" consume "$BOOTSTRAP" "${TOPICS[index]}" "$PARTITIONS" "${COUNTS[index]}" full || { echo "$reader reads ${TOPICS[index]}: exit code $?" && return 1; }
    done
  done
}
# check_all WHAT READER...
check_all() {
  local what="$1" index sum=0
  shift
  for index in "${!TOPICS[@]}"; do sum=$((sum + COUNTS[index])); done
  if read_all "$@" >"$WORK/read" 2>&1; then
    holds "$what: each of $sum acknowledged records is there once, at its offset, as it was written; read by $*"
  else
    broken "$what: what is read is not what was written"
    shown <"$WORK/read"
  fi
}

# --- a disk is lost

in_sync_of() { topics | awk -v leader="$1" -v node="$2" '$1 ~ /^[0-9]+$/ && $2 == leader { led++; if ("," $4 "," ~ "," node ",") in_sync++ } END { print led + 0, in_sync + 0 }'; }
# Node $1 is in sync for all that node $2 leads; fails at once where it is for anything that node $3 leads, which it is cut off from.
caught_up_from() {
  local led in_sync of_other
  if [[ -n $CAN_CUT ]]; then
    read -r led of_other <<<"$(in_sync_of "$3" "$1")"
    if ((of_other > 0)); then
      broken "node $1, whose disk is empty, is in sync for $of_other of $led partitions of node $3, which it is cut off from"
      topics | shown
      return 0
    fi
  fi
  read -r led in_sync <<<"$(in_sync_of "$2" "$1")"
  ((led > 0 && in_sync == led))
}
# A node that is no controller's leader loses its disk while records are written. It may talk to the node that leads the quorum only,
# so it cannot have caught up with what the third one leads.
lose_disk() {
  local active node other before first
  active="$(cluster controller)"
  node=$((active % 3 + 1)) other=$(((active + 1) % 3 + 1))
  TOPICS+=(disk-lost) COUNTS+=($((PACE * 10)))
  write franz-go disk-lost $((PACE * 10)) "$PACE"
  until_so "there is a topic more" all_in_sync
  end_node stop "$node"
  cluster wipe "$node"
  [[ -z $CAN_CUT ]] || cluster cut "$node" "$other"
  before="$(now_ms)"
  cluster start "$node"
  UNTIL_SECONDS=30 until_so "node $node is in sync with what node $active leads" caught_up_from "$node" "$active" "$other"
  first=$(($(now_ms) - before))
  [[ -z $CAN_CUT ]] || cluster heal
  in_sync_again "node $node, which has lost its disk, was started" || return 0
  holds "node $node has lost its disk: for what it may catch up with it is in sync $first ms after its start, for nothing else" \
    "before it can reach node $other, and for all $TOOK ms later"
}

# --- what is on the disks

stop_all() { local node && for node in 1 2 3; do end_node stop "$node"; done; }
start_all() {
  local node pids=()
  for node in 1 2 3; do
    cluster start "$node" &
    pids+=($!)
  done
  for node in "${pids[@]}"; do wait "$node" || die "not all nodes start"; done
}

# ---

BOOTSTRAP="$(cluster up --set default.replication.factor=3 --set min.insync.replicas=2)"
IFS=, read -ra NODES <<<"$BOOTSTRAP"
say "== nodes at $BOOTSTRAP"
if cluster status | grep -q '^nothing can be cut'; then skip "no node is cut off: $(cluster status | sed -n 's/^nothing can be cut: //p')"; else CAN_CUT=1; fi

TOPICS=() COUNTS=()
for name in "${CLIENTS[@]}"; do
  pace="$PACE"
  [[ $name == franz-go ]] || pace=$((PACE / 4))
  TOPICS+=("by-$name") COUNTS+=($((pace * SECONDS_WRITTEN)))
  write "$name" "by-$name" $((pace * SECONDS_WRITTEN)) "$pace"
done
until_so "there are all topics" all_in_sync
faults || true
if written; then
  holds "no client had an error: $(for name in "${CLIENTS[@]}"; do sed "s/^/$name: /" "$WORK/by-$name.said"; done | paste -sd';' | sed 's/;/; /g')"
else
  broken "a client had an error"
  for name in "${CLIENTS[@]}"; do sed "s/^/$name: /" "$WORK/by-$name.said"; done | shown
fi
check_all "after the faults" "${CLIENTS[@]}"
sent="$(counted millstream_replica_bytes_out_total)"
caught_up="$(counted millstream_replica_catch_up_bytes_out_total)"
restarts="$(counted millstream_replica_restarts_total)"
lost="$(counted millstream_replica_lost_total)"
before=("${TOPICS[@]}")

lose_disk
if ! written; then
  broken "the producer had an error while a disk was lost"
  shown <"$WORK/disk-lost.said"
fi

stop_all
start_all
in_sync_again "all nodes were stopped and started" || true
check_all "after all nodes were stopped and started" franz-go
# What was in a journal only is in the segments since that start.
stop_all
if "$(command -v python3)" "$SCRIPTS/lib/compare_replicas.py" "$MILLSTREAM_CLUSTER"/{1,2,3}/data -- "${TOPICS[@]}" >"$WORK/compared"; then
  holds "the replicas hold the same: $(paste -sd';' "$WORK/compared" | sed 's/;/; /g')"
else
  broken "the replicas differ"
  shown <"$WORK/compared"
fi
awk -v sent="$sent" -v caught_up="$caught_up" -v restarts="$restarts" -v lost="$lost" -v topics=" ${before[*]} " '
  { topic = $1; sub(/:$/, "", topic) } index(topics, " " topic " ") { written += $(NF - 1) }
  END {
    printf "     before the disk was lost %d bytes were written, twice that is %d; %d were sent to followers (%.1f %% more), %d of them to catch up; %d logs were cut, %d followers lost\n",
      written, 2 * written, sent, written ? (sent / written / 2 - 1) * 100 : 0, caught_up, restarts, lost
  }' "$WORK/compared"
if grep -n panicked "$WORK"/said-* >"$WORK/panics"; then
  broken "a node has panicked"
  shown <"$WORK/panics"
else
  holds "no node has panicked"
fi
ENDED=1
finish_scenarios
