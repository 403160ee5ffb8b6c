#!/usr/bin/env bash
# Apache Kafka as it is shipped, from Maven's jars: one process, KRaft, the flags of bin/kafka-server-start.sh and the
# values of config/server.properties.
#   scripts/peers/kafka.sh run DATA PORT [KEY=VALUE...]  formats DATA when new and stays in the foreground; prints `ready`
#   scripts/peers/kafka.sh install                       fetches the jars only
set -euo pipefail
source "$(dirname "$0")/../lib/common.sh"
source "$SCRIPTS/lib/install.sh"

# Writes the properties and formats the data directory, once.
prepare() {
  local data="$1" port="$2" controller
  shift 2
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
# From here on as shipped.
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
num.partitions=1
num.recovery.threads.per.data.dir=2
offsets.topic.replication.factor=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
log.retention.hours=168
log.segment.bytes=1073741824
log.retention.check.interval.ms=300000
PROPERTIES
  (($# == 0)) || printf '%s\n' "$@" >>"$data/server.properties"
  kafka_tool kafka-storage format --cluster-id "$(python3 -c 'import base64,os; print(base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("="))')" \
    --config "$data/server.properties" >"$data/format.log" 2>&1 || die "$(cat "$data/format.log")"
}

case "${1:-}" in
  run)
    (($# >= 3)) || die "usage: $0 run DATA PORT [KEY=VALUE...]"
    install_java
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
    install_java
    ;;
  *)
    sed -n '2,5s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
