#!/usr/bin/env bash
# Unmodified Kafka clients and Kafka's own tools against a cluster of three nodes, each of which is the only one they are told of.
#   scripts/cluster-clients.sh [--quick] [PART...]
# PART: clients (each writes 12 partitions over three nodes, each reads what each wrote; admin calls), groups (members of each
#       client, of both protocols, while nodes are killed and stopped), outage (each writes and reads while a node is killed or
#       stopped and comes back), tools (Kafka's command line at each node). Without any: all of them.
# --quick: fewer records, and shorter outages.
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"
source "$SCRIPTS/lib/install.sh"
source "$SCRIPTS/lib/scenarios.sh"

QUICK= PARTS=()
while (($#)); do
  case "$1" in
    --quick) QUICK=1 ;;
    clients | groups | outage | tools) PARTS+=("$1") ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0" && exit 2 ;;
  esac
  shift
done
((${#PARTS[@]})) || PARTS=(clients groups outage tools)
wanted() { [[ " ${PARTS[*]} " == *" $1 "* ]]; }

CLIENTS=(java confluent-kafka franz-go)
PARTITIONS=12
if [[ -n $QUICK ]]; then COUNT=6000 PACE=1000 SECONDS_WRITTEN=15 GROUP_SECONDS=20; else COUNT=60000 PACE=2000 SECONDS_WRITTEN=30 GROUP_SECONDS=40; fi

install_java
install_python
install_franz
build_broker
export MILLSTREAM_BINARY="$BROKER" MILLSTREAM_CLUSTER
MILLSTREAM_CLUSTER="$(data_directory cluster-clients)/nodes"
cluster() { "$SCRIPTS/cluster.sh" "$@"; }
finish() {
  cluster down >/dev/null 2>&1 || true
  rm -rf "$(dirname "$MILLSTREAM_CLUSTER")"
}
trap finish EXIT
BOOTSTRAP="$(cluster up --set offsets.topic.num.partitions=12 --set group.initial.rebalance.delay.ms=200 \
  --set group.consumer.session.timeout.ms=6000 --set group.consumer.min.session.timeout.ms=6000 \
  --set group.consumer.heartbeat.interval.ms=500 --set group.consumer.min.heartbeat.interval.ms=500)"
IFS=, read -ra NODES <<<"$BOOTSTRAP"
say "== nodes at $BOOTSTRAP"
# at N: the address of node N, counted on beyond the last from the first.
at() { printf '%s' "${NODES[(($1 - 1) % ${#NODES[@]})]}"; }

# --- clients

# leaders TOPIC: how many partitions each node leads, as one line.
leaders() {
  "$BROKER" topic describe --bootstrap-server "$BOOTSTRAP" "$1" | awk '$1 ~ /^[0-9]+$/ { led[$2]++ } END { for (node in led) print node "=" led[node] }' | sort | paste -sd' '
}
is_spread() {
  local found
  found="$(leaders "$1")"
  [[ $found == "1=4 2=4 3=4" ]] || { echo "12 partitions are led so: $found" && return 1; }
}

if wanted clients; then
  for node in 1 2 3; do
    for writer in "${CLIENTS[@]}"; do
      topic="from-$writer-$node"
      scenario 120 "$writer writes through node $node" client "$writer" produce "$(at "$node")" "$topic" "$PARTITIONS" "$COUNT" lz4 all full
      scenario 10 "$topic is spread over the nodes" is_spread "$topic"
      through="$node"
      for reader in "${CLIENTS[@]}"; do
        scenario 120 "$reader reads it through node $(((through - 1) % 3 + 1))" client "$reader" consume "$(at "$through")" "$topic" "$PARTITIONS" "$COUNT" full
        through=$((through + 1))
      done
      scenario 60 "$writer reads it as a group through node $node" client "$writer" group "$(at "$node")" "$topic" "$PARTITIONS" "$COUNT" full "group-$writer-$node"
      scenario 90 "$writer's admin calls through node $node" client "$writer" admin "$(at "$node")" "admin-$writer-$node" 3
    done
  done
fi

# --- outage

# Until topic $1 has its partitions.
wait_for_topic() {
  local waited=0
  until [[ "$(leaders "$1" 2>/dev/null)" == "1=4 2=4 3=4" ]]; do
    ((waited++ < 200)) || { echo "$1 does not appear" && return 1; }
    sleep 0.1
  done
}

# outage NODE kill|stop BOOTSTRAP: every client writes and another one reads while node NODE goes and comes back. What they say
# of their pauses goes to $WORK/pauses.
outage() {
  local node="$1" how="$2" bootstrap="$3" count=$((PACE * SECONDS_WRITTEN)) writer reader topic index code=0 pids=()
  for index in 0 1 2; do
    writer="${CLIENTS[index]}" reader="${CLIENTS[(index + 1) % 3]}"
    topic="outage-$writer-$node-$how-$ROUND"
    client "$writer" produce "$bootstrap" "$topic" "$PARTITIONS" "$count" none all full "$PACE" >"$WORK/$writer.said" 2>&1 &
    pids+=($!)
    wait_for_topic "$topic"
    client "$reader" consume "$bootstrap" "$topic" "$PARTITIONS" "$count" full >"$WORK/$reader.read" 2>&1 &
    pids+=($!)
  done
  sleep $((SECONDS_WRITTEN / 4))
  cluster "$how" "$node"
  sleep $((SECONDS_WRITTEN / 8))
  cluster start "$node"
  for pid in "${pids[@]}"; do wait "$pid" || code=1; done
  for writer in "${CLIENTS[@]}"; do
    sed "s/^/$writer writes: /" "$WORK/$writer.said"
    { grep "longest pause" "$WORK/$writer.said" || true; } | sed "s/^/$writer, $how of node $node: /" >>"$WORK/pauses"
    sed "s/^/$writer reads: /" "$WORK/$writer.read"
  done
  ((code == 0)) || { echo "a client has failed" && return 1; }
  for writer in "${CLIENTS[@]}"; do
    client "$writer" consume "$(at $((node + 1)))" "outage-$writer-$node-$how-$ROUND" "$PARTITIONS" "$count" full
  done
}

if wanted outage; then
  WORK="$(dirname "$MILLSTREAM_CLUSTER")"
  ROUND=1
  led_by="$(cluster controller)"
  scenario 240 "node $led_by, which leads the quorum, is killed and comes back" strict outage "$led_by" kill "$(at $((led_by + 1)))"
  ROUND=2
  led_by="$(cluster controller)"
  node=$((led_by % 3 + 1))
  scenario 240 "node $node is stopped and started; it is the only one that clients were told of" strict outage "$node" stop "$(at "$node")"
  ROUND=3
  node=$((node % 3 + 1))
  scenario 240 "node $node is killed and comes back; it is the only one that clients were told of" strict outage "$node" kill "$(at "$node")"
  if [[ -e $WORK/pauses ]]; then sed 's/^/     /' "$WORK/pauses"; fi
fi

# --- groups

if wanted groups; then
  groups() {
    JAVA_CLASSES="$JAVA_CLASSES" JARS="$JARS" FRANZ="$FRANZ" "$PYTHON" -u "$SCRIPTS/clients/python/groups.py" \
      --cluster "$SCRIPTS/cluster.sh" --bootstrap "$BOOTSTRAP" --seconds "$GROUP_SECONDS" \
      {confluent-kafka,franz-go,java}-{eager,cooperative,consumer} mixed
  }
  scenario $((GROUP_SECONDS + 200)) "groups of each client, 2 members a process, while one node after the other goes and comes back" groups
fi

# --- tools

# tools_at N: Kafka's tools at node N; what they change is looked at through the node after it.
tools_at() {
  local node="$1" next=$(($1 % 3 + 1)) topic="tools-$1"
  local here=(--bootstrap-server "$(at "$node")") there=(--bootstrap-server "$(at "$next")")
  expect "Created topic $topic" kafka_tool kafka-topics "${here[@]}" --create --topic "$topic" --partitions 12 --config retention.ms=-1
  expect_refusal "already exists" kafka_tool kafka-topics "${there[@]}" --create --topic "$topic" --partitions 2
  expect "^$topic\$" kafka_tool kafka-topics "${there[@]}" --list
  expect "Topic: $topic.*PartitionCount: 12.*ReplicationFactor: 1.*retention.ms=-1" kafka_tool kafka-topics "${there[@]}" --describe --topic "$topic"
  expect_refusal "larger than|InvalidReplicationFactor|replication" kafka_tool kafka-topics "${here[@]}" --create --topic "$topic-wide" --partitions 1 --replication-factor 4
  kafka_tool kafka-topics "${here[@]}" --alter --topic "$topic" --partitions 15
  expect "PartitionCount: 15" kafka_tool kafka-topics "${there[@]}" --describe --topic "$topic"
  "$BROKER" produce --bootstrap-server "$(at "$next")" --key-separator : "$topic" < <(seq 1 3000 | sed 's/.*/&:&/') >/dev/null

  expect "Completed updating config for topic" kafka_tool kafka-configs "${here[@]}" --entity-type topics --entity-name "$topic" --alter --add-config retention.bytes=123456789
  expect "retention.bytes=123456789" kafka_tool kafka-configs "${there[@]}" --entity-type topics --entity-name "$topic" --describe
  # A config of the node after the next, changed through this one and read through another.
  local third=$((next % 3 + 1))
  expect "Completed updating config for broker $third" kafka_tool kafka-configs "${here[@]}" --entity-type brokers --entity-name "$third" --alter --add-config "log.retention.ms=60480000$node"
  expect "log.retention.ms=60480000$node sensitive" kafka_tool kafka-configs "${there[@]}" --entity-type brokers --entity-name "$third" --describe
  expect_not "log.retention.ms=60480000$node" kafka_tool kafka-configs "${there[@]}" --entity-type brokers --entity-name "$node" --describe
  expect "node.id=$third " kafka_tool kafka-configs "${here[@]}" --entity-type brokers --entity-name "$third" --describe --all
  expect "Completed updating" kafka_tool kafka-configs "${here[@]}" --entity-type brokers --entity-name "$third" --alter --delete-config log.retention.ms
  expect "Completed updating default config" kafka_tool kafka-configs "${here[@]}" --entity-type brokers --entity-default --alter --add-config "log.cleaner.threads=$((node + 1))"
  expect "DYNAMIC_DEFAULT_BROKER_CONFIG:log.cleaner.threads=$((node + 1))" kafka_tool kafka-configs "${there[@]}" --entity-type brokers --entity-name "$third" --describe --all
  expect "Completed updating config for client" kafka_tool kafka-configs "${here[@]}" --entity-type clients --entity-name "client-$node" --alter --add-config producer_byte_rate=1048576
  expect "'client-$node' are producer_byte_rate=1048576.0" kafka_tool kafka-configs "${there[@]}" --entity-type clients --entity-name "client-$node" --describe

  local group states
  for group in 1 2 3 4 5 6; do
    kafka_tool kafka-consumer-groups "${here[@]}" --group "$topic-group-$group" --reset-offsets --topic "$topic" --to-earliest --execute >/dev/null
  done
  for group in 1 2 3 4 5 6; do expect "^$topic-group-$group\$" kafka_tool kafka-consumer-groups "${there[@]}" --list; done
  expect "$topic-group-3 +$topic +11 +0 +[0-9]+ " kafka_tool kafka-consumer-groups "${there[@]}" --describe --group "$topic-group-3"
  states="$(kafka_tool kafka-consumer-groups "${there[@]}" --describe --all-groups --state)"
  [[ "$(grep -oE "$topic-group-[0-9] +[.0-9]+:" <<<"$states" | awk '{ print $2 }' | sort -u | wc -l)" -gt 1 ]] || { echo "the groups are not spread: $states" && return 1; }
  expect "was successful" kafka_tool kafka-consumer-groups "${there[@]}" --delete --group "$topic-group-1" --group "$topic-group-2"
  expect_not "^$topic-group-[12]\$" kafka_tool kafka-consumer-groups "${here[@]}" --list

  expect "Cluster ID: $CLUSTER_ID" kafka_tool kafka-cluster cluster-id "${here[@]}"
  expect "^3 .* unfenced +broker" kafka_tool kafka-cluster list-endpoints "${here[@]}"
  expect "group.version.*FinalizedVersionLevel: 1" kafka_tool kafka-features "${here[@]}" describe
  kafka_tool kafka-metadata-quorum "${here[@]}" describe --status | sed "s/^/at node $node: /" >>"$QUORUM"
  kafka_tool kafka-metadata-quorum "${here[@]}" describe --replication | sed "s/^/at node $node: /" >>"$QUORUM"
  [[ "$(kafka_tool kafka-broker-api-versions "${here[@]}" | grep -cE '^[.0-9]+:.*isFenced: false')" == 3 ]] || { echo "not three brokers say what they serve" && return 1; }
  expect "Received log directory information from brokers 1,2,3" kafka_tool kafka-log-dirs "${here[@]}" --describe
  local offsets
  offsets="$(kafka_tool kafka-get-offsets "${here[@]}" --topic "$topic" --time -1 | awk -F: '{ sum += $3 } END { print NR " " sum }')"
  [[ $offsets == "15 3000" ]] || { echo "partitions and records: $offsets" && return 1; }
  kafka_tool kafka-leader-election "${here[@]}" --election-type preferred --all-topic-partitions
  expect "Valid replica already elected for partitions $topic-1" kafka_tool kafka-leader-election "${here[@]}" --election-type preferred --topic "$topic" --partition 1
  expect "No partition reassignments found" kafka_tool kafka-reassign-partitions "${here[@]}" --list
  local file="$MILLSTREAM_CLUSTER/delete.json"
  printf '{"version": 1, "partitions": [%s]}' "$(for p in {0..14}; do echo "{\"topic\": \"$topic\", \"partition\": $p, \"offset\": -1}"; done | paste -sd,)" >"$file"
  expect "partition: $topic-14\s+low_watermark: [1-9]" kafka_tool kafka-delete-records "${here[@]}" --offset-json-file "$file"
  offsets="$(kafka_tool kafka-get-offsets "${there[@]}" --topic "$topic" --time -2 | awk -F: '{ sum += $3 } END { print NR " " sum }')"
  [[ $offsets == "15 3000" ]] || { echo "first offsets after the deletion: $offsets" && return 1; }
  kafka_tool kafka-topics "${here[@]}" --delete --topic "$topic"
  expect_not "^$topic\$" kafka_tool kafka-topics "${there[@]}" --list
}

# A node is down: what the tools say of its partitions at another one.
tools_without() {
  local gone="$1" here=(--bootstrap-server "$(at $(($1 + 1)))")
  kafka_tool kafka-topics "${here[@]}" --create --topic "tools-away" --partitions 6
  cluster kill "$gone"
  for ((waited = 0; waited < 100; waited++)); do
    kafka_tool kafka-topics "${here[@]}" --describe --unavailable-partitions --topic tools-away >"$WORK/away" 2>&1 || true
    [[ $(grep -c 'Leader: none' "$WORK/away" || true) != 2 ]] || break
    sleep 0.1
  done
  [[ $(grep -c 'Leader: none' "$WORK/away") == 2 ]] || { cat "$WORK/away" && return 1; }
  expect "^$gone .* fenced +broker" kafka_tool kafka-cluster list-endpoints "${here[@]}" --include-fenced-brokers
  expect_not "^$gone " kafka_tool kafka-cluster list-endpoints "${here[@]}"
  kafka_tool kafka-topics "${here[@]}" --create --topic "tools-while-away" --partitions 6
  expect_not "Replicas: $gone" kafka_tool kafka-topics "${here[@]}" --describe --topic "tools-while-away"
  cluster start "$gone"
  expect_not "Leader: none" kafka_tool kafka-topics "${here[@]}" --describe --topic tools-away
}

# A node was away, and others lead its partitions: they are its again when it is asked for.
leaders_return() {
  local gone="$1" here=(--bootstrap-server "$(at $(($1 % 3 + 1)))") waited
  kafka_tool kafka-topics "${here[@]}" --create --topic "tools-led" --partitions 3 --replication-factor 3
  local partition
  partition="$(kafka_tool kafka-topics "${here[@]}" --describe --topic tools-led | sed -nE "s/.*Partition: ([0-9]+)\s+Leader: $gone\s.*/\1/p" | head -1)"
  [[ -n $partition ]] || { echo "node $gone leads nothing" && return 1; }
  cluster kill "$gone"
  expect_not "Leader: (none|$gone)" kafka_tool kafka-topics "${here[@]}" --describe --topic tools-led
  expect_refusal "not in sync, or its broker is away" kafka_tool kafka-leader-election "${here[@]}" --election-type preferred --topic tools-led --partition "$partition"
  cluster start "$gone"
  for ((waited = 0; waited < 300; waited++)); do
    [[ -n "$("$BROKER" topic list --bootstrap-server "$(at $((gone % 3 + 1)))" --under-replicated)" ]] || break
    sleep 0.1
  done
  expect "Successfully completed leader election \(PREFERRED\) for partitions tools-led-$partition" kafka_tool kafka-leader-election "${here[@]}" --election-type preferred --topic tools-led --partition "$partition"
  expect "Partition: $partition\s+Leader: $gone\s" kafka_tool kafka-topics "${here[@]}" --describe --topic tools-led
}

# A topic is deleted while a node is down that coordinates some of the groups that have read it: none of them has an offset for the
# next topic of that name.
deleted_without() {
  local gone="$1" here=(--bootstrap-server "$(at $(($1 + 1)))") group
  kafka_tool kafka-topics "${here[@]}" --create --topic "tools-twice" --partitions 6
  "$BROKER" produce --bootstrap-server "$BOOTSTRAP" --key-separator : tools-twice < <(seq 1 600 | sed 's/.*/&:&/') >/dev/null
  for group in 1 2 3 4 5 6; do
    kafka_tool kafka-consumer-groups "${here[@]}" --group "twice-$group" --reset-offsets --topic tools-twice --to-latest --execute >/dev/null
  done
  cluster kill "$gone"
  kafka_tool kafka-topics "${here[@]}" --delete --topic tools-twice
  cluster start "$gone"
  kafka_tool kafka-topics "${here[@]}" --create --topic "tools-twice" --partitions 6
  expect_not "tools-twice +[0-9]+ +[0-9]+" kafka_tool kafka-consumer-groups "${here[@]}" --describe --all-groups
}

if wanted tools; then
  WORK="$(dirname "$MILLSTREAM_CLUSTER")"
  QUORUM="$WORK/quorum"
  CLUSTER_ID="$(sed -n 's/^cluster.id=//p' "$MILLSTREAM_CLUSTER/1/data/meta.properties")"
  for node in 1 2 3; do scenario 300 "tools at node $node" strict tools_at "$node"; done
  scenario 120 "tools while node 3 is down" strict tools_without 3
  scenario 120 "a topic is deleted while node 2 is down" strict deleted_without 2
  scenario 120 "leadership returns to node 1" strict leaders_return 1
  if [[ -e $QUORUM ]]; then sed 's/^/     /' "$QUORUM"; fi
fi

finish_scenarios
