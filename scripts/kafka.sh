#!/usr/bin/env bash
# A real Kafka node (KRaft, one process, from Maven's jars), to develop the other scripts against and to compare with.
#   scripts/kafka.sh start [port]   returns when it takes requests; prints host:port
#   scripts/kafka.sh run DATA PORT  formats DATA when new and stays in the foreground (for scripts/kill.sh --command)
#   scripts/kafka.sh stop
#   scripts/kafka.sh tool NAME ARG...  one of Kafka's own tools: kafka-topics, kafka-configs, kafka-get-offsets, ...
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"
source "$SCRIPTS/lib/install.sh"
STATE="$CACHE/kafka-node"

# Writes the properties and formats the data directory, once.
prepare() {
  local data="$1" port="$2" controller
  [[ -f $data/server.properties ]] && return 0
  mkdir -p "$data"
  controller="$(free_port)"
  cat >"$data/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$data/logs
num.partitions=1
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
PROPERTIES
  kafka_tool kafka-storage format --cluster-id "$(python3 -c 'import base64,os; print(base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("="))')" \
    --config "$data/server.properties" >"$data/format.log" 2>&1 || die "$(cat "$data/format.log")"
}

accepts() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

case "${1:-}" in
  start)
    install_java
    [[ ! -f $STATE/pid ]] || ! kill -0 "$(cat "$STATE/pid")" 2>/dev/null || die "already running at $(cat "$STATE/bootstrap")"
    port="${2:-$(free_port)}"
    mkdir -p "$STATE"
    data="$(data_directory kafka)"
    "$0" run "$data" "$port" >"$STATE/out" 2>&1 </dev/null &
    pid=$!
    echo "$pid" >"$STATE/pid"
    echo "$data" >"$STATE/data"
    echo "127.0.0.1:$port" >"$STATE/bootstrap"
    for ((tenths = 0; ; tenths++)); do
      accepts "$port" && break
      kill -0 "$pid" 2>/dev/null || die "it ended: $(tail -20 "$STATE/out")"
      ((tenths < 600)) || die "not ready in 60 s: $(tail -20 "$STATE/out")"
      sleep 0.1
    done
    echo "127.0.0.1:$port"
    ;;
  run)
    install_java
    prepare "$2" "$3"
    # The line that scripts/kill.sh waits for: printed as soon as the port is open.
    ( until accepts "$3"; do sleep 0.05; kill -0 $$ 2>/dev/null || exit 0; done; echo ready ) &
    exec java -Xmx1g -XX:+UseSerialGC -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$JARS/*" kafka.Kafka "$2/server.properties"
    ;;
  stop)
    [[ -f $STATE/pid ]] || die "not running"
    kill -TERM "$(cat "$STATE/pid")" 2>/dev/null || true
    for ((tenths = 0; tenths < 300; tenths++)); do
      kill -0 "$(cat "$STATE/pid")" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$(cat "$STATE/pid")" 2>/dev/null || true
    rm -rf "$(cat "$STATE/data")" "$STATE"
    ;;
  tool)
    install_java
    shift
    kafka_tool "$@"
    ;;
  *)
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
