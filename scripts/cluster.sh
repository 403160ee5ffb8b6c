#!/usr/bin/env bash
# A cluster of several processes on this machine: for people who try things, and for scripts that test them. Each node has an
# address of its own (127.0.0.11, 127.0.0.12, ...), a data directory and a process, which live on when this script ends.
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"

usage() {
  cat <<'TEXT'
scripts/cluster.sh up [--nodes N] [--set key=value]...   starts N nodes (3), prints the bootstrap list
scripts/cluster.sh start|stop|kill|pause|resume N        one node: SIGTERM, SIGKILL, SIGSTOP, SIGCONT
scripts/cluster.sh wipe N                                removes the data of a node that does not run
scripts/cluster.sh status                                what runs, and what every node says of the cluster
scripts/cluster.sh bootstrap                             the list for clients on one line, and nothing else
scripts/cluster.sh controller                            the number of the node that leads the quorum
scripts/cluster.sh failover [--times N]                  kills the node that leads the quorum, N times (20): how long until
                                                         another node has created a topic
scripts/cluster.sh down                                  ends all nodes and removes their data
Clients find the nodes at 127.0.0.1N:9092, controllers each other at 127.0.0.1N:9093. The data lie in target/cluster, or in
MILLSTREAM_CLUSTER. MILLSTREAM_BINARY names a program that is already built.
TEXT
}

CLUSTER="${MILLSTREAM_CLUSTER:-$ROOT/target/cluster}"
PORT=9092
CONTROLLER_PORT=9093

host() { printf '127.0.0.1%d' "$1"; }
pid_of() { cat "$CLUSTER/$1/pid" 2>/dev/null || true; }
runs() { local pid && pid="$(pid_of "$1")" && [[ -n $pid ]] && kill -0 "$pid" 2>/dev/null; }
nodes() { cat "$CLUSTER/nodes" 2>/dev/null || die "there is no cluster: scripts/cluster.sh up"; }
node_number() { [[ ${1:-} =~ ^[1-9]$ && $1 -le $(nodes) ]] || die "which node? 1 to $(nodes)"; }

bootstrap() {
  local list=() node
  for ((node = 1; node <= $(nodes); node++)); do list+=("$(host "$node"):$PORT"); done
  (IFS=, && printf '%s\n' "${list[*]}")
}

# Starts the process of node $1, which lives on when this script ends.
spawn() {
  local node="$1" voters=() other processors
  for ((other = 1; other <= $(nodes); other++)); do voters+=("$other@$(host "$other"):$CONTROLLER_PORT"); done
  mkdir -p "$CLUSTER/$node"
  processors="$(nproc)"
  # Each node its own processor, in turn: three that poll on one would keep each other from running.
  local processor=$(((node - 1) % processors))
  local set_file="$CLUSTER/set" overrides=()
  while IFS= read -r line; do [[ -z $line ]] || overrides+=(--override "$line"); done <"$set_file"
  : >"$CLUSTER/$node/output"
  setsid nohup taskset -c "$processor" "$BROKER" serve --override "node.id=$node" \
    --override "listeners=PLAINTEXT://$(host "$node"):$PORT,CONTROLLER://$(host "$node"):$CONTROLLER_PORT" \
    --override controller.listener.names=CONTROLLER \
    --override "controller.quorum.voters=$(IFS=, && printf '%s' "${voters[*]}")" \
    --override "log.dirs=$CLUSTER/$node/data" --override "millstream.http.listener=$(host "$node"):9644" \
    --override millstream.poll.us=0 "${overrides[@]}" >"$CLUSTER/$node/output" 2>&1 </dev/null &
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

# Waits until the process of node $1 has ended, 30 s at most.
ended() {
  local waited=0
  while runs "$1"; do
    ((waited++ < 600)) || die "node $1 has not ended after 30 s"
    sleep 0.05
  done
  rm -f "$CLUSTER/$1/pid"
}

each_node() { local node && for ((node = 1; node <= $(nodes); node++)); do "$@" "$node"; done; }
kill_node() {
  if runs "$1"; then
    kill -KILL "$(pid_of "$1")"
    ended "$1"
  fi
}

up() {
  local count=3 settings=()
  while (($#)); do
    case "$1" in
      --nodes) count="$2" && shift 2 ;;
      --set) settings+=("$2") && shift 2 ;;
      *) usage >&2 && exit 2 ;;
    esac
  done
  [[ $count =~ ^[1-9]$ ]] || die "--nodes takes 1 to 9"
  [[ ! -e $CLUSTER/nodes ]] || die "there is a cluster already: scripts/cluster.sh down"
  build_broker >&2
  mkdir -p "$CLUSTER"
  echo "$count" >"$CLUSTER/nodes"
  echo "$BROKER" >"$CLUSTER/program"
  printf '%s\n' "${settings[@]}" >"$CLUSTER/set"
  each_node spawn
  each_node ready
  bootstrap
}

program() { BROKER="$(cat "$CLUSTER/program")"; }

# What node $1 measures: its page of metrics.
metrics() {
  exec 3<>"/dev/tcp/$(host "$1")/9644" || return 1
  printf 'GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n' >&3
  timeout 2 cat <&3
  exec 3<&- 3>&-
}

# The number of the node that says of itself that it leads the quorum.
controller() {
  local node said
  for ((node = 1; node <= $(nodes); node++)); do
    said="$( (metrics "$node") 2>/dev/null | tr -d '\r')" || true
    if grep -qx 'millstream_controller_is_active 1' <<<"$said"; then
      echo "$node"
      return
    fi
  done
  return 1
}

status() {
  local node
  for ((node = 1; node <= $(nodes); node++)); do
    if runs "$node"; then say "node $node: process $(pid_of "$node"), $(host "$node"):$PORT"; else say "node $node: not running"; fi
  done
  say "quorum led by: $(controller || echo nobody)"
}

# Milliseconds since some time.
now_ms() { date +%s%3N; }

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

main() {
  local verb="${1:-}"
  [[ $# -eq 0 ]] || shift
  case "$verb" in
    up) up "$@" ;;
    start)
      node_number "${1:-}" && program
      runs "$1" || spawn "$1"
      ready "$1"
      ;;
    stop)
      node_number "${1:-}"
      ! runs "$1" || { kill -TERM "$(pid_of "$1")" && ended "$1"; }
      ;;
    kill) node_number "${1:-}" && kill_node "$1" ;;
    pause) node_number "${1:-}" && kill -STOP "$(pid_of "$1")" ;;
    resume) node_number "${1:-}" && kill -CONT "$(pid_of "$1")" ;;
    wipe)
      node_number "${1:-}"
      ! runs "$1" || die "node $1 runs"
      rm -rf "${CLUSTER:?}/$1/data"
      ;;
    status) status ;;
    bootstrap) bootstrap ;;
    controller) controller || die "no node leads the quorum" ;;
    failover) program && failover "$@" ;;
    down)
      each_node kill_node
      rm -rf "${CLUSTER:?}"
      ;;
    -h | --help) usage ;;
    *) usage >&2 && exit 2 ;;
  esac
}

main "$@"
