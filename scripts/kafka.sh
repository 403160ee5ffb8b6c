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
    # As it is shipped, but for consumer groups that begin at once.
    exec "$SCRIPTS/peers/kafka.sh" run "$2" "$3" offsets.topic.num.partitions=4 group.initial.rebalance.delay.ms=0
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
