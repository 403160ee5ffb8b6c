#!/usr/bin/env bash
# Apache Kafka as it is shipped, from Maven's jars: KRaft, each process broker and controller, the flags of
# bin/kafka-server-start.sh and the values of config/server.properties.
#   scripts/peers/kafka.sh run DATA PORT [KEY=VALUE...]  formats DATA when new and stays in the foreground; prints `ready`
#   scripts/peers/kafka.sh node DATA PORT NODE VOTERS [KEY=VALUE...]  the same for one node of a cluster, whose
#                                                        controller.quorum.voters are VOTERS: 1@127.0.0.1:9093,2@...
#   scripts/peers/kafka.sh install                       fetches the jars only
set -euo pipefail
source "$(dirname "$0")/../lib/common.sh"
source "$SCRIPTS/lib/install.sh"

# The newest release: what we are held against. What we follow, and the clients and tools, is clients/java/pom.xml's.
KAFKA_VERSION=4.4.0
JARS="$CACHE/jars-$KAFKA_VERSION"

install_kafka() {
  need java default-jdk-headless && need mvn maven && with_lock java install_kafka_locked
}
install_kafka_locked() {
  local pom="$SCRIPTS/clients/java/pom.xml"
  stamped "jars-$KAFKA_VERSION" "$pom" && return 0
  say "installing Apache Kafka $KAFKA_VERSION"
  rm -rf "$JARS"
  mvn -q -B -Dstyle.color=never -f "$pom" dependency:copy-dependencies "-Dkafka.version=$KAFKA_VERSION" \
    -DincludeScope=runtime "-DoutputDirectory=$JARS"
  stamp "jars-$KAFKA_VERSION" "$pom"
}

# Writes the properties and formats the data directory, once: prepare DATA PORT NODE VOTERS [KEY=VALUE...]; the voters of
# a node of its own are empty.
prepare() {
  local data="$1" port="$2" node="$3" voters="$4" voter controller replicas=1
  shift 4
  [[ -f $data/server.properties ]] && return 0
  mkdir -p "$data"
  [[ -n $voters ]] || voters="$node@127.0.0.1:$(free_port)"
  for voter in ${voters//,/ }; do
    if [[ $voter == "$node@"* ]]; then controller="${voter##*:}"; fi
  done
  [[ -n ${controller:-} ]] || die "node $node is not among the voters $voters"
  # As those who run three of them have it.
  [[ $voters != *,*,* ]] || replicas=3
  cat >"$data/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=$node
controller.quorum.voters=$voters
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$data/logs
# From here on as shipped.
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
num.partitions=1
num.recovery.threads.per.data.dir=2
offsets.topic.replication.factor=$replicas
share.coordinator.state.topic.replication.factor=$replicas
share.coordinator.state.topic.min.isr=$((replicas / 2 + 1))
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$((replicas / 2 + 1))
log.retention.hours=168
log.segment.bytes=1073741824
log.retention.check.interval.ms=300000
PROPERTIES
  (($# == 0)) || printf '%s\n' "$@" >>"$data/server.properties"
  # All nodes of a cluster arrive at the same name for it.
  kafka_tool kafka-storage format --cluster-id "$(sha256sum <<<"$voters" | cut -c 1-22)" \
    --config "$data/server.properties" >"$data/format.log" 2>&1 || die "$(cat "$data/format.log")"
}

case "${1:-}" in
  run | node)
    if [[ $1 == run ]]; then
      (($# >= 3)) || die "usage: $0 run DATA PORT [KEY=VALUE...]"
      set -- "${@:1:3}" 1 "" "${@:4}"
    fi
    (($# >= 5)) || die "usage: $0 node DATA PORT NODE VOTERS [KEY=VALUE...]"
    install_kafka
    prepare "${@:2}"
    # The line that callers wait for: printed as soon as the port is open.
    (
      until accepts "$3"; do
        sleep 0.05
        kill -0 $$ 2>/dev/null || exit 0
      done
      echo ready
    ) &
    exec java -Xmx1G -Xms1G -server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 \
      -XX:+ExplicitGCInvokesConcurrent -Djava.awt.headless=true \
      "-Xlog:gc*:file=$2/kafkaServer-gc.log:time,tags:filecount=10,filesize=100M" \
      -Dcom.sun.management.jmxremote=true -Dcom.sun.management.jmxremote.authenticate=false \
      -Dcom.sun.management.jmxremote.ssl=false -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \
      -cp "$JARS/*" kafka.Kafka "$2/server.properties"
    ;;
  install)
    install_kafka
    ;;
  *)
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
