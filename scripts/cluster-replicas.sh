#!/usr/bin/env bash
# Three replicas while nodes go and come back: idempotent producers of each client write with acks=all to topics of 24 partitions,
# three replicas each, two of which have to be in sync, while nodes are killed, paused, cut off and stopped in turn, and the leader
# of partition 0 again and again. Then every record is read, once and in order; a node loses its disk; and what the replicas hold is
# compared byte by byte.
#   scripts/cluster-replicas.sh [--quick] [--seconds 60] [--pace 4000] [--set key=value]... [--keep]
# --quick: 20 s, franz-go only. --pace: records a second of franz-go; each of the others writes a quarter of that. --set: of all
# nodes, such as millstream.memory.bytes=268435456. --keep: leaves the directory with the data of the nodes and what they have said,
# and says where it is; it is left, too, when something does not hold.
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"
source "$SCRIPTS/lib/install.sh"
source "$SCRIPTS/lib/scenarios.sh"

SECONDS_WRITTEN=60 PACE=4000 CLIENTS=(franz-go confluent-kafka java) KEEP= SETTINGS=()
while (($#)); do
  case "$1" in
    --quick) SECONDS_WRITTEN=20 CLIENTS=(franz-go) ;;
    --seconds) SECONDS_WRITTEN="$2" && shift ;;
    --pace) PACE="$2" && shift ;;
    --set) SETTINGS+=(--set "$2") && shift ;;
    --keep) KEEP=1 ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0" && exit 2 ;;
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

# Node $1's page of metrics.
metrics() {
  {
    exec 3<>"/dev/tcp/${NODES[$1 - 1]%:*}/9644" || return 0
    printf 'GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n' >&3
    timeout 5 cat <&3
  } 2>/dev/null
}
# What nodes have counted until now, those too that have ended: bytes sent to followers, those of them that were read from files,
# logs that were cut, and followers whose log was cut below what was committed. Counters end with a process: pages of metrics are
# kept from the moment before. What it sends after that, tens of milliseconds long, is missing.
count() {
  local node
  { for node in 1 2 3; do metrics "$node"; done && cat "$WORK"/metrics-of-* 2>/dev/null; } | awk '
    { split($1, of, "{"); sum[of[1]] += $2 }
    END {
      printf "%d %d %d %d\n", sum["millstream_replica_bytes_out_total"], sum["millstream_replica_catch_up_bytes_out_total"],
        sum["millstream_replica_restarts_total"], sum["millstream_replica_lost_total"]
    }'
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
  local pid signal=KILL
  [[ $1 == kill ]] || signal=TERM
  pid="$(pid_of "$2")"
  metrics "$2" >"$WORK/metrics-of-$2-until-$(now_ms)"
  kill "-$signal" "$pid"
  cluster "$1" "$2"
  echo "-- $1 at $(date +%T.%3N)" >>"$MILLSTREAM_CLUSTER/$2/output"
  keep_said "$2"
}

# for_all COMMAND...: with each node, at once.
for_all() {
  local node pid pids=()
  for node in 1 2 3; do
    "$@" "$node" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || die "$*: not with every node"; done
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
    cut)
      # From the node behind it, in one direction every other time: it may be one that it leads, or follows.
      local way=()
      ((ROUND % 2)) || way=(--one-way)
      cluster cut "$2" $(($2 % 3 + 1)) "${way[@]}"
      sleep $((2 + ROUND % 4))
      cluster heal
      ;;
    all)
      for_all end_node kill
      for_all cluster start
      ;;
  esac
}

declare -A HAPPENED=()
KINDS=(kill leader isolate all pause cut leader stop)
# Faults in turn, each of another node. After two of three the replicas get the time to be in sync again.
faults() {
  local until node kind worst=0 started
  started="$(now_ms)"
  until=$((started + SECONDS_WRITTEN * 1000))
  for ((ROUND = 0; $(now_ms) < until; ROUND++)); do
    kind="${KINDS[ROUND % ${#KINDS[@]}]}"
    node=$(((ROUND + ROUND / ${#KINDS[@]}) % 3 + 1))
    if [[ $kind == leader ]]; then
      # While nobody leads it, one node is as good as the other.
      node="$(cluster leader "${TOPICS[ROUND % ${#TOPICS[@]}]}" 0 2>/dev/null)" || node=1
      fault kill "$node"
    elif [[ ($kind != isolate && $kind != cut) || -n $CAN_CUT ]]; then
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
    "${HAPPENED[leader]:-0} leaders of partition 0 killed, ${HAPPENED[pause]:-0} paused, ${HAPPENED[isolate]:-0} cut off, ${HAPPENED[stop]:-0} stopped," \
    "${HAPPENED[cut]:-0} times two cut from each other, ${HAPPENED[all]:-0} times all killed"
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
    for index in "${!COUNTS[@]}"; do
      client "$reader" consume "$BOOTSTRAP" "${TOPICS[index]}" "$PARTITIONS" "${COUNTS[index]}" full || { echo "$reader reads ${TOPICS[index]}: exit code $?" && return 1; }
    done
  done
}
# check_all WHAT READER...
check_all() {
  local what="$1" index sum=0
  shift
  for index in "${!COUNTS[@]}"; do sum=$((sum + COUNTS[index])); done
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
  local active node other before first failed="$FAILED" not_before=
  active="$(cluster controller)"
  node=$((active % 3 + 1)) other=$(((active + 1) % 3 + 1))
  TOPICS=("${TOPICS[@]:0:${#COUNTS[@]}}" disk-lost "${TOPICS[@]:${#COUNTS[@]}}") COUNTS+=($((PACE * 10)))
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
  read -r _ from_files_by_now _ _ <<<"$(count)"
  ((FAILED == failed)) || return 0
  [[ -z $CAN_CUT ]] || not_before=", what node $other leads not before it can reach that"
  holds "node $node has lost its disk: what node $active leads it is in sync for $first ms after its start$not_before," \
    "and $TOOK ms later for all; it was sent $((from_files_by_now - from_files)) bytes from files"
}

# ---

BOOTSTRAP="$(cluster up --set default.replication.factor=3 --set min.insync.replicas=2 --set replica.lag.time.max.ms=4000 "${SETTINGS[@]}")"
IFS=, read -ra NODES <<<"$BOOTSTRAP"
say "== nodes at $BOOTSTRAP"
if cluster status | grep -q '^nothing can be cut'; then skip "no node is cut off: $(cluster status | sed -n 's/^nothing can be cut: //p')"; else CAN_CUT=1; fi

# The topics, and how many records those have that clients read: the first of them.
TOPICS=() COUNTS=()
for name in "${CLIENTS[@]}"; do
  pace="$PACE"
  [[ $name == franz-go ]] || pace=$((PACE / 4))
  TOPICS+=("by-$name") COUNTS+=($((pace * SECONDS_WRITTEN)))
  write "$name" "by-$name" $((pace * SECONDS_WRITTEN)) "$pace"
done
# Several producers to each partition, and with little patience; what this program has written it verifies itself.
NAMES=("${CLIENTS[@]}" load)
TOPICS+=(killed)
set -m
"$FRANZ" load --bootstrap "$BOOTSTRAP" --partitions "$PARTITIONS" --seconds "$SECONDS_WRITTEN" --pace "$PACE" >"$WORK/by-load.said" 2>&1 </dev/null &
WRITERS+=($!)
set +m
until_so "there are all topics" all_in_sync
faults || true
if written; then
  # Beside these lines the clients tell of what they have tried again.
  holds "four producers to each partition: $(tail -1 "$WORK/by-load.said"), each there once, at its offset, in the order of its producer"
  holds "no client had an error but those that it tries again; longest pauses of acknowledgements in ms: $(for name in "${CLIENTS[@]}"; do
    sed -n "s/^longest pause.*of all \([0-9]*\), of a partition .* to /$name \1, of a partition /p" "$WORK/by-$name.said"
  done | paste -sd';' | sed 's/;/; /g')"
else
  broken "a client had an error, or has not read what it has written"
  for name in "${NAMES[@]}"; do tail -10 "$WORK/by-$name.said" | sed "s/^/$name: /"; done | shown
fi
check_all "after the faults" "${CLIENTS[@]}"
read -r sent from_files cut lost <<<"$(count)"
before=("${TOPICS[@]}")

lose_disk
if ! written; then
  broken "the producer had an error while a disk was lost"
  shown <"$WORK/disk-lost.said"
fi

for_all end_node stop
for_all cluster start
in_sync_again "all nodes were stopped and started" || true
check_all "after all nodes were stopped and started" franz-go
# What was in a journal only is in the segments since that start.
for_all end_node stop
if "$(command -v python3)" "$SCRIPTS/lib/compare_replicas.py" "$MILLSTREAM_CLUSTER"/{1,2,3}/data -- "${TOPICS[@]}" >"$WORK/compared"; then
  holds "the replicas hold the same: $(paste -sd';' "$WORK/compared" | sed 's/;/; /g')"
else
  broken "the replicas differ"
  shown <"$WORK/compared"
fi
awk -v sent="$sent" -v from_files="$from_files" -v cut="$cut" -v lost="$lost" -v topics=" ${before[*]} " '
  { topic = $1; sub(/:$/, "", topic) } index(topics, " " topic " ") { written += $(NF - 1) }
  END {
    printf "     before the disk was lost %d bytes were written, twice that is %d; %d were sent to followers (%+.1f %%), %d of them from files; %d logs were cut, %d below what was committed\n",
      written, 2 * written, sent, written ? (sent / written / 2 - 1) * 100 : 0, from_files, cut, lost
  }' "$WORK/compared"
if ((lost > 0)); then broken "$lost logs were cut below what was committed"; fi
if grep -n panicked "$WORK"/said-* >"$WORK/panics"; then
  broken "a node has panicked"
  shown <"$WORK/panics"
else
  holds "no node has panicked"
fi
ENDED=1
finish_scenarios
