#!/usr/bin/env bash
# A cluster of several processes on this machine: for people who try things, and for scripts that test them. Each node has an
# address of its own, a data directory and a process, which live on when this script ends; and where that is allowed a network
# namespace, so that the network between nodes can be cut.
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"

usage() {
  cat <<'TEXT'
scripts/cluster.sh up [--nodes N] [--set key=value]... [--loopback]
                                          starts N nodes (3), prints the bootstrap list
scripts/cluster.sh add [--role broker]    starts one more node, which joins the cluster, as a voter or as a broker only;
                                          prints its number
scripts/cluster.sh start|stop|kill N      one node: the process, SIGTERM, SIGKILL
scripts/cluster.sh pause|resume N         SIGSTOP, SIGCONT
scripts/cluster.sh wipe N                 removes the data of a node that does not run
scripts/cluster.sh isolate N              drops all packets between N and the other nodes
scripts/cluster.sh cut N M [--one-way]    drops packets between N and M, or only those from N to M
scripts/cluster.sh heal                   drops no packets any more
scripts/cluster.sh status                 what runs, what each node says of the quorum, what is cut
scripts/cluster.sh bootstrap              the list for clients on one line, and nothing else
scripts/cluster.sh controller             the number of the node that leads the quorum
scripts/cluster.sh leader TOPIC PARTITION the number of the node that leads the partition
scripts/cluster.sh failover [--times N]   kills the node that leads the quorum, N times (20): how long until another node has
                                          created a topic
scripts/cluster.sh down                   ends all nodes, removes their data and their network
Each verb ends when what it says is so. Senders are not told that packets are dropped; clients on this machine reach every
node all the time, at port 9092 of its address; 9093 is for controllers, 9644 for metrics. To cut takes root and network
namespaces; where they cannot be had, or with --loopback, the addresses are 127.0.0.11, 127.0.0.12, ... and all else works.
The data lie in target/cluster, or in MILLSTREAM_CLUSTER: several clusters can be there at a time where there are namespaces.
MILLSTREAM_BINARY names a program that is already built.
TEXT
}

CLUSTER="${MILLSTREAM_CLUSTER:-$ROOT/target/cluster}"
PORT=9092
CONTROLLER_PORT=9093
HTTP_PORT=9644
source "$SCRIPTS/lib/network.sh"
UNTIL_SECONDS=30

pid_of() { cat "$CLUSTER/$1/pid" 2>/dev/null || true; }
nodes() { cat "$CLUSTER/nodes" 2>/dev/null || die "there is no cluster: scripts/cluster.sh up"; }
node_number() { [[ ${1:-} =~ ^[1-9]$ && $1 -le $(nodes) ]] || die "which node? 1 to $(nodes)"; }

# Field $2 of what the kernel says of process $1, counted from its state (0). Nothing when it is not there.
process_field() {
  local said fields
  said="$(cat "/proc/$1/stat" 2>/dev/null)" || return 0
  read -ra fields <<<"${said##*) }"
  printf '%s' "${fields[$2]}"
}
born() { process_field "$1" 19; }

# True when node $1 runs or is paused. The number of its process may be that of another one by now: its start counts too.
runs() {
  local pid state
  pid="$(pid_of "$1")"
  [[ -n $pid && "$(born "$pid")" == "$(cat "$CLUSTER/$1/born" 2>/dev/null)" ]] || return 1
  state="$(process_field "$pid" 0)"
  [[ -n $state && $state != Z ]]
}
paused() { [[ $(process_field "$(pid_of "$1")" 0) == T ]]; }

bootstrap() {
  local list=() node
  for ((node = 1; node <= $(nodes); node++)); do list+=("$(host "$node"):$PORT"); done
  (IFS=, && printf '%s\n' "${list[*]}")
}

# Starts the process of node $1, which lives on when this script ends.
spawn() {
  local node="$1" voters=() within=() quorum=() listeners other processors
  listeners="PLAINTEXT://$(host "$node"):$PORT"
  for ((other = 1; other <= $(cat "$CLUSTER/founders"); other++)); do voters+=("$other@$(host "$other"):$CONTROLLER_PORT"); done
  mkdir -p "$CLUSTER/$node"
  if [[ -e $CLUSTER/$node/joins ]]; then
    local servers=("${voters[@]#*@}")
    quorum=(--override "controller.quorum.bootstrap.servers=$(IFS=, && printf '%s' "${servers[*]}")")
    quorum+=(--override controller.quorum.auto.join.enable=true)
  else
    quorum=(--override "controller.quorum.voters=$(IFS=, && printf '%s' "${voters[*]}")")
  fi
  if [[ $(cat "$CLUSTER/$node/joins" 2>/dev/null) == broker ]]; then
    quorum+=(--override process.roles=broker)
  else
    listeners+=",CONTROLLER://$(host "$node"):$CONTROLLER_PORT"
  fi
  processors="$(nproc)"
  # Each node its own processor, in turn: three that poll on one would keep each other from running.
  local processor=$(((node - 1) % processors))
  local set_file="$CLUSTER/set" overrides=()
  while IFS= read -r line; do [[ -z $line ]] || overrides+=(--override "$line"); done <"$set_file"
  # Only the network is another one: `ip netns exec` would also hide control groups.
  [[ -n $NO_CUTS ]] || within=(nsenter "--net=/run/netns/$NETWORK-$node")
  : >"$CLUSTER/$node/output"
  setsid nohup taskset -c "$processor" "${within[@]}" "$BROKER" serve --override "node.id=$node" \
    --override "listeners=$listeners" --override controller.listener.names=CONTROLLER "${quorum[@]}" \
    --override "log.dirs=$CLUSTER/$node/data" --override "millstream.http.listener=$(host "$node"):$HTTP_PORT" \
    --override millstream.poll.us=0 "${overrides[@]}" >"$CLUSTER/$node/output" 2>&1 </dev/null &
  born $! >"$CLUSTER/$node/born"
  echo $! >"$CLUSTER/$node/pid"
  disown
}

# Waits until node $1 is ready, 30 s at most.
ready() {
  local node="$1" waited=0
  until grep -q ' ready: ' "$CLUSTER/$node/output"; do
    if ! runs "$node"; then
      sed "s/^/  node $node: /" "$CLUSTER/$node/output" | tail -20 >&2
      die "node $node has ended"
    fi
    ((waited++ < 600)) || die "node $node is not ready after 30 s: $(tail -3 "$CLUSTER/$node/output")"
    sleep 0.05
  done
}

not() { ! "$@"; }

# Waits until the process of node $1 has ended.
ended() {
  until_so "node $1 has ended" not runs "$1"
  rm -f "$CLUSTER/$1/pid" "$CLUSTER/$1/born"
}

stop_node() {
  local pid
  runs "$1" || return 0
  pid="$(pid_of "$1")"
  kill -TERM "$pid"
  # One that is paused takes the signal when it goes on; another one may have ended.
  kill -CONT "$pid" 2>/dev/null || true
  ended "$1"
}

each_node() { local node && for ((node = 1; node <= $(nodes); node++)); do "$@" "$node"; done; }
kill_node() {
  if runs "$1"; then
    kill -KILL "$(pid_of "$1")"
    ended "$1"
  fi
}

up() {
  local count=3 settings=() loopback=
  while (($#)); do
    case "$1" in
      --nodes) count="$2" && shift 2 ;;
      --set) settings+=("$2") && shift 2 ;;
      --loopback) loopback="the cluster was started with --loopback" && shift ;;
      *) usage >&2 && exit 2 ;;
    esac
  done
  [[ $count =~ ^[1-9]$ ]] || die "--nodes takes 1 to 9"
  [[ ! -e $CLUSTER/nodes ]] || die "there is a cluster already: scripts/cluster.sh down"
  build_broker >&2
  mkdir -p "$CLUSTER"
  echo "$count" >"$CLUSTER/nodes"
  echo "$count" >"$CLUSTER/founders"
  echo "$BROKER" >"$CLUSTER/program"
  printf '%s\n' "${settings[@]}" >"$CLUSTER/set"
  network_up "$count" "$loopback"
  each_node spawn
  each_node ready
  bootstrap
}

# What node $1 measures: its page of metrics.
metrics() {
  exec 3<>"/dev/tcp/$(host "$1")/$HTTP_PORT" || return 1
  printf 'GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n' >&3
  timeout 2 cat <&3
  exec 3<&- 3>&-
}

# The number of the node that says of itself that it leads the quorum. One that is cut off may say so for a while after it has
# lost the lead: the latest term counts.
controller() {
  local node said term latest=-1 led=
  for ((node = 1; node <= $(nodes); node++)); do
    said="$( (metrics "$node") 2>/dev/null | tr -d '\r')" || true
    grep -qx 'millstream_controller_is_active 1' <<<"$said" || continue
    term="$(sed -n 's/^millstream_quorum_term //p' <<<"$said")"
    ((term <= latest)) || { latest="$term" && led="$node"; }
  done
  [[ -n $led ]] && echo "$led"
}

# The number of the node that leads partition $2 of topic $1, as the controller has it.
leader() {
  local led said
  [[ -n ${1:-} && ${2:-} =~ ^[0-9]+$ ]] || die "which topic and partition?"
  led="$(controller)" || die "no node leads the quorum"
  said="$("$BROKER" topic describe --bootstrap-server "$(host "$led"):$PORT" --timeout 5 "$1")" || die "$1 cannot be described"
  said="$(awk -v partition="$2" '$1 == partition { print $2 }' <<<"$said")"
  [[ $said =~ ^[0-9]+$ ]] || die "$1 has no partition $2, or that has no leader"
  echo "$said"
}

# Runs $@ with each two nodes.
each_two() {
  local one other
  for ((one = 1; one <= $(nodes); one++)); do
    for ((other = 1; other <= $(nodes); other++)); do ((one == other)) || "$@" "$one" "$other"; done
  done
}

cut_off() {
  local other
  for ((other = 1; other <= $(nodes); other++)); do
    ((other == $1)) || { network_cut "$1" "$other" && network_cut "$other" "$1"; }
  done
}

all_flows() { node_flows "$@" || die "packets from node $1 to node $2 are still dropped"; }
say_cut() { node_flows "$@" || say "cut: packets from node $1 to node $2 are dropped"; }

# What node $1 says of the quorum.
standing() {
  local said
  said="$( (metrics "$1") 2>/dev/null | tr -d '\r')" || true
  awk '{ value[$1] = $2 }
    END {
      leader = value["millstream_quorum_leader"]
      if (leader == "") { print "says nothing"; exit }
      if (value["millstream_controller_is_active"] == 1) standing = "leads the quorum"
      else if (leader < 0) standing = "knows no leader"
      else standing = "follows node " leader
      print standing ", term " value["millstream_quorum_term"] ", metadata offset " value["millstream_metadata_offset"]
    }' <<<"$said"
}

status() {
  local node process
  for ((node = 1; node <= $(nodes); node++)); do
    if runs "$node"; then
      process="process $(pid_of "$node")"
      ! paused "$node" || process+=" (paused)"
      say "node $node: $(host "$node"):$PORT, $process, $(standing "$node")"
    else
      say "node $node: $(host "$node"):$PORT, not running"
    fi
  done
  if [[ -n $NO_CUTS ]]; then say "nothing can be cut: $NO_CUTS"; else each_two say_cut; fi
}

# Kills the node that leads the quorum and waits until another one has created a topic; then starts it again.
failover() {
  local times=20 round led other started took all=()
  [[ ${1:-} != --times ]] || times="$2"
  for ((round = 1; round <= times; round++)); do
    led="$(controller)" || die "no node leads the quorum"
    other=$((led % $(nodes) + 1))
    kill -KILL "$(pid_of "$led")"
    started="$(now_ms)"
    until "$BROKER" topic create --bootstrap-server "$(host "$other"):$PORT" --partitions 3 "failover-$started" >/dev/null 2>&1; do
      (($(now_ms) - started < 30000)) || die "round $round: node $other creates no topic 30 s after node $led was killed"
    done
    took=$(($(now_ms) - started))
    all+=("$took")
    ended "$led"
    say "round $round: node $led killed, node $other creates a topic after $took ms"
    spawn "$led"
    ready "$led"
  done
  printf '%s\n' "${all[@]}" | sort -n |
    awk '{ took[NR] = $1 } END { printf "median %d ms, worst %d ms, %d times\n", took[int((NR + 1) / 2)], took[NR], NR }'
}

# Starts one more node.
add() {
  local role=voter node
  if [[ ${1:-} == --role ]]; then role="${2:-}"; fi
  [[ $role == voter || $role == broker ]] || { usage >&2 && exit 2; }
  node=$(($(nodes) + 1))
  ((node <= 9)) || die "there are 9 nodes already"
  [[ -n $NO_CUTS ]] || network_of_node "$node" || die "node $node gets no network"
  mkdir -p "$CLUSTER/$node"
  echo "$role" >"$CLUSTER/$node/joins"
  echo "$node" >"$CLUSTER/nodes"
  spawn "$node"
  ready "$node"
  echo "$node"
}

down() {
  if [[ -e $CLUSTER/nodes ]]; then each_node kill_node; fi
  network_down
  rm -rf "${CLUSTER:?}"
}

main() {
  local verb="${1:-}"
  [[ $# -eq 0 ]] || shift
  case "$verb" in
    up) up "$@" && return ;;
    down) down && return ;;
    -h | --help) usage && return ;;
  esac
  nodes >/dev/null
  [[ -e $CLUSTER/network ]] || die "the cluster did not come up: scripts/cluster.sh down"
  network_load
  BROKER="$(cat "$CLUSTER/program")"
  case "$verb" in
    start)
      node_number "${1:-}"
      runs "$1" || spawn "$1"
      ready "$1"
      ;;
    stop) node_number "${1:-}" && stop_node "$1" ;;
    kill) node_number "${1:-}" && kill_node "$1" ;;
    pause | resume)
      node_number "${1:-}"
      runs "$1" || die "node $1 does not run"
      if [[ $verb == pause ]]; then
        kill -STOP "$(pid_of "$1")"
        until_so "node $1 is paused" paused "$1"
      else
        kill -CONT "$(pid_of "$1")"
        until_so "node $1 runs" not paused "$1"
      fi
      ;;
    wipe)
      node_number "${1:-}"
      ! runs "$1" || die "node $1 runs"
      rm -rf "${CLUSTER:?}/$1/data"
      ;;
    isolate) node_number "${1:-}" && can_cut && cut_off "$1" ;;
    cut)
      node_number "${1:-}" && node_number "${2:-}" && can_cut
      [[ $1 != "$2" ]] || die "a node cannot be cut from itself"
      [[ -z ${3:-} || $3 == --one-way ]] || { usage >&2 && exit 2; }
      network_cut "$1" "$2"
      [[ -n ${3:-} ]] || network_cut "$2" "$1"
      ;;
    heal)
      can_cut && network_heal
      each_two all_flows
      ;;
    status) status ;;
    bootstrap) bootstrap ;;
    controller) controller || die "no node leads the quorum" ;;
    leader) leader "$@" ;;
    failover) failover "$@" ;;
    add) add "$@" ;;
    *) usage >&2 && exit 2 ;;
  esac
}

main "$@"
