#!/usr/bin/env bash
# Consumer groups of real clients while members join, leave and are killed, and the broker restarts cleanly and by kill -9
# under a producer: no record may be lost, and none read twice without a cause.
#   scripts/groups.sh [--seconds N] [--members N] [--rate RECORDS_S] [KIND...]
# KIND: CLIENT-PROTOCOL, as clients/python/groups.py lists them, or `mixed` for a group of both protocols. Without any: all
#       kinds of the clients whose language is on this machine.
# --seconds: how long members come and go (40); then they read the rest. --members: of one process (2). All kinds run side by
# side, each in a group of its own.
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"
source "$SCRIPTS/lib/install.sh"

OPTIONS=() KINDS=()
while (($#)); do
  case "$1" in
    --seconds | --members | --rate) OPTIONS+=("$1" "$2") && shift ;;
    confluent-kafka-* | kafka-python-* | kafkajs-* | franz-go-* | java-* | mixed) KINDS+=("$1") ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0" && exit 2 ;;
  esac
  shift
done
if ((!${#KINDS[@]})); then
  KINDS=(confluent-kafka-{eager,cooperative,static,consumer,consumer-static} kafka-python-{eager,static} mixed)
  if command -v node >/dev/null && command -v npm >/dev/null; then KINDS+=(kafkajs-eager); fi
  if command -v go >/dev/null; then KINDS+=(franz-go-{eager,cooperative,static,consumer}); fi
  if command -v java >/dev/null && command -v mvn >/dev/null; then KINDS+=(java-{eager,cooperative,static,consumer,consumer-static}); fi
fi
install_python
for kind in "${KINDS[@]}"; do
  case "$kind" in
    kafkajs-*) install_node ;;
    franz-go-*) install_franz ;;
    java-*) install_java ;;
  esac
done
build_broker
DATA="$(data_directory groups)"
trap 'rm -rf "$DATA" "$DATA.out"' EXIT
say "== ${#KINDS[@]} kinds: ${KINDS[*]}"
JAVA_CLASSES="$JAVA_CLASSES" JARS="$JARS" FRANZ="$FRANZ" NODE_CLIENTS="$CACHE/node/node_modules" \
  "$PYTHON" "$SCRIPTS/clients/python/groups.py" --broker "$BROKER" --data "$DATA" --port "$(free_port)" "${OPTIONS[@]}" "${KINDS[@]}"
say "== groups: passed"
