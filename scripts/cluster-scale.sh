#!/usr/bin/env bash
# Ten thousand topics with ten partitions each in a cluster of three nodes: how long it takes to create, list and describe them,
# to write a record into each partition and to restart the nodes one after the other and all at once; resident memory of each node.
#   scripts/cluster-scale.sh [--topics 10000] [--partitions 10] [--replicas 1] [--batch 100] [--no-records] [--set key=value]...
# Kafka's own kafka-topics lists and describes them too where Java and Maven are. It measures; it fails when a step does.
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"
source "$SCRIPTS/lib/install.sh"

OPTIONS=() SETTINGS=() TOPICS=10000 PARTITIONS=10
while (($#)); do
  case "$1" in
    --topics) TOPICS="$2" && shift ;;
    --partitions) PARTITIONS="$2" && shift ;;
    --batch | --replicas) OPTIONS+=("$1" "$2") && shift ;;
    --no-records) OPTIONS+=("$1") ;;
    --set) SETTINGS+=("$1" "$2") && shift ;;
    *) sed -n '2,5s/^# \{0,1\}//p' "$0" && exit 2 ;;
  esac
  shift
done

install_python
if command -v java >/dev/null && command -v mvn >/dev/null; then
  install_java
  OPTIONS+=(--tools "$SCRIPTS/kafka.sh" tool kafka-topics)
fi
# A quarter of a node's descriptors are for data files.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
build_broker
export MILLSTREAM_BINARY="$BROKER" MILLSTREAM_CLUSTER
MILLSTREAM_CLUSTER="$(data_directory cluster-scale)/nodes"
finish() {
  "$SCRIPTS/cluster.sh" down >/dev/null 2>&1 || true
  rm -rf "$(dirname "$MILLSTREAM_CLUSTER")"
}
trap finish EXIT
bootstrap="$("$SCRIPTS/cluster.sh" up "${SETTINGS[@]}")"
"$PYTHON" -u "$SCRIPTS/clients/python/cluster_scale.py" "$SCRIPTS/cluster.sh" "$MILLSTREAM_CLUSTER" "$bootstrap" \
  --topics "$TOPICS" --partitions "$PARTITIONS" "${OPTIONS[@]}"
