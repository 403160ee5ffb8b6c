#!/usr/bin/env bash
# Unmodified Kafka clients and Kafka's own tools against a broker: every record compared, every tool's output looked at.
#   scripts/clients.sh [--bootstrap HOST:PORT] [--data DIRECTORY] [--quick] [NAME...]
# NAME: kcat confluent-kafka kafka-python kafkajs franz-go java (each: codecs × acks, a group, admin calls),
#       cross (each client reads what each other wrote), tools (Kafka's command line), monitor (kafkatop: what it says of
#       topics, groups and lag). Without names: all of them.
# Without --bootstrap it builds Millstream and starts it on a free port with a data directory of its own.
# --data names the data directory of a broker that --bootstrap names, for kafka-dump-log.
# --quick: a few thousand records instead of millions, and acks 0 and 1 without compression only.
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"
source "$SCRIPTS/lib/install.sh"
source "$SCRIPTS/lib/scenarios.sh"

BOOTSTRAP= DATA= QUICK=
NAMES=()
while (($#)); do
  case "$1" in
    --bootstrap) BOOTSTRAP="$2" && shift ;;
    --data) DATA="$2" && shift ;;
    --quick) QUICK=1 ;;
    kcat | confluent-kafka | kafka-python | kafkajs | franz-go | java | cross | tools | monitor) NAMES+=("$1") ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0" && exit 2 ;;
  esac
  shift
done
CLIENTS=(kcat confluent-kafka kafka-python kafkajs franz-go java)
((${#NAMES[@]})) || NAMES=("${CLIENTS[@]}" cross tools monitor)
# `cross` pairs the clients that are named beside it; alone, all of them.
ONLY_CROSS=1
for name in "${NAMES[@]}"; do
  [[ " ${CLIENTS[*]} " != *" $name "* ]] || ONLY_CROSS=0
done
[[ " ${NAMES[*]} " == *" cross "* ]] || ONLY_CROSS=0

PARTITIONS=4
CODECS=(none gzip snappy lz4 zstd)
# A name of its own for every run, so that a broker can be used again.
RUN="r$(date +%s)"
# A fast client: one run of a million, and a million more over the other fourteen.
if [[ -n $QUICK ]]; then
  BIG=6000 EACH=3000 SLOW=2000 CROSS=1500
else
  BIG=1000000 EACH=72000 SLOW=50000 CROSS=10000
fi

wanted() { [[ " ${NAMES[*]} " == *" $1 "* ]]; }

# What operators do; arguments: NAME.
operations() {
  local topic="$RUN-$1-operations"
  case "$1" in
    confluent-kafka) "$PYTHON" "$SCRIPTS/clients/python/operations.py" "$BOOTSTRAP" "$topic" ;;
    kafkajs) NODE_CLIENTS="$CACHE/node/node_modules" node "$SCRIPTS/clients/node/operations.js" "$BOOTSTRAP" "$topic" ;;
    java) java_class 300m Operations "$BOOTSTRAP" "$topic" ;;
  esac
}
style_of() {
  case "$1" in
    kcat) [[ ${2:-} == 1 ]] && echo empties || echo nulls ;;
    kafka-python | kafkajs) echo plain ;;
    *) echo full ;;
  esac
}

install_client() {
  case "$1" in
    kcat) install_kcat && install_python ;;
    confluent-kafka | kafka-python) install_python ;;
    kafkajs) install_node ;;
    franz-go) install_franz ;;
    java | tools) install_java ;;
    monitor) install_monitor ;;
  esac
}

# A client whose runtime is missing and cannot be installed fails its scenario; the others go on.
say "== installing"
USABLE=()
for name in "${CLIENTS[@]}" tools monitor; do
  wanted "$name" || { ((ONLY_CROSS)) && [[ " ${CLIENTS[*]} " == *" $name "* ]]; } || continue
  # In a shell of its own, with set -e: inside a condition bash would run on after a failed command.
  set +e
  (
    set -e
    install_client "$name"
  )
  code=$?
  set -e
  if ((code == 0)); then
    USABLE+=("$name")
  else
    scenario 5 "$name: installed" false
  fi
done
usable() { [[ " ${USABLE[*]} " == *" $1 "* ]]; }

if [[ -z $BOOTSTRAP ]]; then
  build_broker
  DATA="$(data_directory clients)"
  port="$(free_port)"
  BOOTSTRAP="127.0.0.1:$port"
  trap 'kill_broker; rm -rf "$DATA" "$DATA.out"' EXIT
  start_broker "$DATA" "$port" || die "the broker did not start"
fi
say "== broker at $BOOTSTRAP"

round_trip() {
  local name="$1" topic="$2" count="$3" codec="$4" acks="$5" style="$6"
  client "$name" produce "$BOOTSTRAP" "$topic" "$PARTITIONS" "$count" "$codec" "$acks" "$style" &&
    client "$name" consume "$BOOTSTRAP" "$topic" "$PARTITIONS" "$count" "$style"
}

matrix() {
  local name="$1" codec acks count topic style turn=0
  for codec in "${CODECS[@]}"; do
    for acks in 0 1 all; do
      # What is acknowledged does not hang on the codec.
      [[ -z $QUICK || $codec == none || $acks == all ]] || continue
      count="$EACH"
      case "$name" in
        kafka-python | kafkajs) count="$SLOW" ;;
        *) [[ $codec == none && $acks == all ]] && count="$BIG" ;;
      esac
      # kcat writes either nulls or empties: in turn.
      turn=$((turn + 1))
      style="$(style_of "$name" $((turn % 2)))"
      topic="$RUN-$name-$codec-$acks"
      scenario 600 "$name: $codec acks=$acks, $count records" round_trip "$name" "$topic" "$count" "$codec" "$acks" "$style"
    done
  done
  scenario 120 "$name: as a member of a group" client "$name" group "$BOOTSTRAP" "$RUN-$name-zstd-all" "$PARTITIONS" "$count" "$style" "$RUN-$name"
}

kcat_extras() {
  local topic="$RUN-kcat-queries"
  "$PYTHON" "$SCRIPTS/clients/python/with_confluent.py" produce "$BOOTSTRAP" "$topic" 1 1000 lz4 all full &&
    client kcat metadata "$BOOTSTRAP" "$topic" 1 0 &&
    client kcat offsets "$BOOTSTRAP" "$topic" 1 0 1700000000000=0 1700000000500=500 1700000000999=999 -1=1000 -2=0
}

for name in "${CLIENTS[@]}"; do
  { wanted "$name" && usable "$name"; } || continue
  matrix "$name"
  case "$name" in
    kcat) scenario 60 "kcat: metadata and offsets by time" kcat_extras ;;
    kafkajs) ;;
    *) scenario 120 "$name: topics, configs, partitions, offsets by time, record deletion" client "$name" admin "$BOOTSTRAP" "$RUN-$name-admin" ;;
  esac
  case "$name" in
    confluent-kafka | kafkajs) scenario 60 "$name: broker configs, groups, elections" operations "$name" ;;
    java) scenario 90 "$name: quotas kept to, broker configs, log directories, producers, quorum, groups" operations "$name" ;;
  esac
done

# Every client reads what every other wrote, in a codec of its own.
if wanted cross; then
  turn=0
  for writer in "${CLIENTS[@]}"; do
    usable "$writer" || continue
    codec="${CODECS[$((turn++ % 5))]}"
    # Java writes zstd: the codec that the others' own libraries are least sure of.
    [[ $writer == java ]] && codec=zstd
    topic="$RUN-cross-$writer"
    style="$(style_of "$writer" 1)"
    scenario 120 "cross: $writer writes $codec" client "$writer" produce "$BOOTSTRAP" "$topic" "$PARTITIONS" "$CROSS" "$codec" all "$style"
    for reader in "${CLIENTS[@]}"; do
      { [[ $reader != "$writer" ]] && usable "$reader"; } || continue
      scenario 120 "cross: $reader reads $codec of $writer" client "$reader" consume "$BOOTSTRAP" "$topic" "$PARTITIONS" "$CROSS" "$style"
    done
  done
fi

TOPIC="$RUN-tools"
SERVER=(--bootstrap-server "$BOOTSTRAP")

tool_topics() {
  expect "Created topic $TOPIC" kafka_tool kafka-topics "${SERVER[@]}" --create --topic "$TOPIC" --partitions 2 --config segment.bytes=1048576 --config retention.ms=-1
  expect_refusal "already exists" kafka_tool kafka-topics "${SERVER[@]}" --create --topic "$TOPIC" --partitions 2
  expect "^$TOPIC\$" kafka_tool kafka-topics "${SERVER[@]}" --list
  expect "Topic: $TOPIC.*PartitionCount: 2.*ReplicationFactor: 1.*segment.bytes=1048576" kafka_tool kafka-topics "${SERVER[@]}" --describe --topic "$TOPIC"
  expect "Partition: 1.*Leader: [0-9]+.*Replicas: [0-9]+.*Isr: [0-9]+" kafka_tool kafka-topics "${SERVER[@]}" --describe --topic "$TOPIC"
  kafka_tool kafka-topics "${SERVER[@]}" --alter --topic "$TOPIC" --partitions 3
  expect "PartitionCount: 3" kafka_tool kafka-topics "${SERVER[@]}" --describe --topic "$TOPIC"
  expect_refusal "InvalidPartitions|currently has 3 partitions" kafka_tool kafka-topics "${SERVER[@]}" --alter --topic "$TOPIC" --partitions 2
}
tool_delete_topic() {
  kafka_tool kafka-topics "${SERVER[@]}" --create --topic "$TOPIC-short" --partitions 1
  kafka_tool kafka-topics "${SERVER[@]}" --delete --topic "$TOPIC-short"
  expect_not "^$TOPIC-short\$" kafka_tool kafka-topics "${SERVER[@]}" --list
  expect_refusal "does not exist" kafka_tool kafka-topics "${SERVER[@]}" --delete --topic "$TOPIC-short"
}
tool_topic_configs() {
  expect "Completed updating config for topic" kafka_tool kafka-configs "${SERVER[@]}" --entity-type topics --entity-name "$TOPIC" --alter --add-config retention.bytes=123456789,cleanup.policy=delete
  expect "retention.bytes=123456789" kafka_tool kafka-configs "${SERVER[@]}" --entity-type topics --entity-name "$TOPIC" --describe
  expect "segment.bytes=1048576" kafka_tool kafka-configs "${SERVER[@]}" --entity-type topics --entity-name "$TOPIC" --describe --all
  expect "Completed updating config for topic" kafka_tool kafka-configs "${SERVER[@]}" --entity-type topics --entity-name "$TOPIC" --alter --delete-config retention.bytes
  expect_not "retention.bytes=123456789" kafka_tool kafka-configs "${SERVER[@]}" --entity-type topics --entity-name "$TOPIC" --describe
  expect_refusal "Unknown topic config|InvalidConfiguration|InvalidRequest" kafka_tool kafka-configs "${SERVER[@]}" --entity-type topics --entity-name "$TOPIC" --alter --add-config segment.bites=1
}
tool_broker_configs() {
  local node
  node="$("$PYTHON" -c 'import sys; from confluent_kafka.admin import AdminClient; print(next(iter(AdminClient({"bootstrap.servers": sys.argv[1]}).list_topics(timeout=20).brokers)))' "$BOOTSTRAP")"
  expect "log.dirs=" kafka_tool kafka-configs "${SERVER[@]}" --entity-type brokers --entity-name "$node" --describe --all
  expect "Completed updating config for broker" kafka_tool kafka-configs "${SERVER[@]}" --entity-type brokers --entity-name "$node" --alter --add-config log.retention.ms=604800001
  expect "log.retention.ms=604800001" kafka_tool kafka-configs "${SERVER[@]}" --entity-type brokers --entity-name "$node" --describe
  expect "Completed updating config for broker" kafka_tool kafka-configs "${SERVER[@]}" --entity-type brokers --entity-name "$node" --alter --delete-config log.retention.ms
  expect_not "log.retention.ms=604800001" kafka_tool kafka-configs "${SERVER[@]}" --entity-type brokers --entity-name "$node" --describe
}
PERF_RECORDS=50000
[[ -z $QUICK ]] || PERF_RECORDS=20000
tool_producer_perf() {
  local properties="bootstrap.servers=$BOOTSTRAP acks=all batch.size=65536 linger.ms=5"
  # 1,000-byte records of random text; kafka-dump-log wants several closed segments of 1 MiB.
  # shellcheck disable=SC2086
  expect "^$PERF_RECORDS records sent, .* 99.9th" kafka_tool kafka-producer-perf-test --topic "$TOPIC" --num-records "$PERF_RECORDS" --record-size 1000 --throughput -1 --producer-props $properties
}
tool_get_offsets() {
  local sum
  sum="$(kafka_tool kafka-get-offsets "${SERVER[@]}" --topic "$TOPIC" --time -1 | awk -F: '{sum += $3} END {print sum}')"
  [[ $sum == "$PERF_RECORDS" ]] || { echo "the end offsets add up to $sum, $PERF_RECORDS were written" && return 1; }
  expect "^$TOPIC:0:0\$" kafka_tool kafka-get-offsets "${SERVER[@]}" --topic "$TOPIC" --time -2
  expect "^$TOPIC:0:[0-9]+\$" kafka_tool kafka-get-offsets "${SERVER[@]}" --topic "$TOPIC" --time -3
  # A time before every record: the first offset; a time after every record: none.
  expect "^$TOPIC:0:0\$" kafka_tool kafka-get-offsets "${SERVER[@]}" --topic "$TOPIC" --time 1600000000000
  expect_not ":[1-9]" kafka_tool kafka-get-offsets "${SERVER[@]}" --topic "$TOPIC" --time 9000000000000
}
tool_consumer_perf() {
  # The last line: start, end, MB, MB/s, records, records/s, ...
  local line
  line="$(kafka_tool kafka-consumer-perf-test "${SERVER[@]}" --topic "$TOPIC" --"$(perf_count_option)" "$PERF_RECORDS" --group "$RUN-perf" --timeout 30000 2>&1 | tee /dev/stderr | grep -E '^20[0-9-]+ ' | tail -1)"
  awk -F', *' -v wanted="$PERF_RECORDS" '$5 < wanted {print "read " $5 " of " wanted; bad = 1} END {exit bad || NR == 0}' <<<"$line"
}
# The option that says how many: its name changed in 4.2.
perf_count_option() {
  kafka_tool kafka-consumer-perf-test --help 2>&1 | grep -q -- --num-records && echo num-records || echo messages
}
tool_consumer_groups() {
  expect "^$RUN-perf\$" kafka_tool kafka-consumer-groups "${SERVER[@]}" --list
  expect "$RUN-perf +$TOPIC +[0-9]+ +[0-9]+ +[0-9]+ +0 " kafka_tool kafka-consumer-groups "${SERVER[@]}" --describe --group "$RUN-perf"
}
# The closed segments of the topic and how many records each must hold, by the name of the segment after it, at most four.
# Kafka keeps a partition in TOPIC-PARTITION, Millstream in topics/TOPIC/ID/PARTITION; the newest segment of each is open.
closed_segments() {
  python3 - "$DATA" "$TOPIC" <<'PY'
import collections, pathlib, sys
found = collections.defaultdict(list)
for file in pathlib.Path(sys.argv[1]).rglob("*.log"):
    if any(part == sys.argv[2] or part.startswith(sys.argv[2] + "-") for part in file.parts) and file.stem.isdigit():
        found[file.parent].append(file)
closed = []
for files in found.values():
    files.sort()
    closed += [(file, int(after.stem) - int(file.stem)) for file, after in zip(files, files[1:])]
for file, records in closed[:4]:
    print(file, records)
PY
}
tool_dump_log() {
  local segment expected counted checked=0
  while read -r segment expected; do
    kafka_tool kafka-dump-log --deep-iteration --files "$segment" >"$CACHE/dump.$$" 2>&1 || { tail -5 "$CACHE/dump.$$" && return 1; }
    # The tool itself counts from -1, so the first offset of a segment may follow -1.
    if grep -nE 'isvalid: false|not valid|[Ee]xception|Mismatches|corrupt|^ *[0-9]+ is followed by' "$CACHE/dump.$$"; then return 1; fi
    counted="$(grep -cE '^\| offset: ' "$CACHE/dump.$$" || true)"
    [[ $counted == "$expected" ]] || { echo "$segment: $counted records, $expected expected" && return 1; }
    checked=$((checked + 1))
  done < <(closed_segments)
  rm -f "$CACHE/dump.$$"
  echo "$checked closed segments"
  ((checked >= 2))
}
tool_groups_change() {
  local group="$RUN-perf" groups=(kafka_tool kafka-consumer-groups "${SERVER[@]}" --group "$RUN-perf")
  expect "^$group +$TOPIC +0 +7 *\$" "${groups[@]}" --reset-offsets --topic "$TOPIC:0" --to-offset 7 --execute
  expect "^$group +$TOPIC +0 +7 +[0-9]+ +[1-9][0-9]* " "${groups[@]}" --describe
  expect "^$group +$TOPIC +0 +0 *\$" "${groups[@]}" --reset-offsets --topic "$TOPIC:0" --to-earliest --execute
  expect "Successful" "${groups[@]}" --delete-offsets --topic "$TOPIC:0"
  expect_not "^$group +$TOPIC +0 +0 " "${groups[@]}" --describe
  expect "Empty" "${groups[@]}" --describe --state
  expect "was successful" "${groups[@]}" --delete
  expect_not "^$group\$" kafka_tool kafka-consumer-groups "${SERVER[@]}" --list
}
tool_quotas() {
  local configs=(kafka_tool kafka-configs "${SERVER[@]}") client=(--entity-type clients --entity-name "$RUN-client")
  expect "Completed updating" "${configs[@]}" "${client[@]}" --alter --add-config producer_byte_rate=1048576,consumer_byte_rate=2097152
  expect "Completed updating" "${configs[@]}" --entity-type users --entity-name "$RUN-user" --entity-type clients --entity-default --alter --add-config producer_byte_rate=4096
  expect "Completed updating" "${configs[@]}" --entity-type ips --entity-name 192.0.2.1 --alter --add-config connection_creation_rate=100
  expect "'$RUN-client' are consumer_byte_rate=2097152.0, producer_byte_rate=1048576.0" "${configs[@]}" "${client[@]}" --describe
  expect "'$RUN-user', the default client-id are producer_byte_rate=4096.0" "${configs[@]}" --entity-type users --entity-name "$RUN-user" --entity-type clients --entity-default --describe
  expect "'192.0.2.1' are connection_creation_rate=100.0" "${configs[@]}" --entity-type ips --describe
  expect_refusal "producer_bite_rate" "${configs[@]}" "${client[@]}" --alter --add-config producer_bite_rate=1
  expect "Completed updating" "${configs[@]}" "${client[@]}" --alter --delete-config producer_byte_rate,consumer_byte_rate
  expect_not "byte_rate" "${configs[@]}" "${client[@]}" --describe
}
tool_insides() {
  expect "\"partition\":\"$TOPIC-0\",\"size\":[1-9][0-9]*,\"offsetLag\":0" kafka_tool kafka-log-dirs "${SERVER[@]}" --describe --topic-list "$TOPIC"
  expect "Produce\(0\): 0 to [0-9]+ \[usable: [0-9]+\]" kafka_tool kafka-broker-api-versions "${SERVER[@]}"
  expect "LeaderId: +[0-9]+" kafka_tool kafka-metadata-quorum "${SERVER[@]}" describe --status
  expect "No partition reassignments found" kafka_tool kafka-reassign-partitions "${SERVER[@]}" --list
  expect "Valid replica already elected for partitions $TOPIC-0" kafka_tool kafka-leader-election "${SERVER[@]}" --election-type preferred --topic "$TOPIC" --partition 0
  expect "^[0-9]+\s+0\s+-1\s+[0-9]+" kafka_tool kafka-transactions "${SERVER[@]}" describe-producers --topic "$TOPIC" --partition 0
}
tool_delete_records() {
  local file="$CACHE/delete-records.$$.json"
  echo "{\"partitions\": [{\"topic\": \"$TOPIC\", \"partition\": 0, \"offset\": 3000}], \"version\": 1}" >"$file"
  expect "partition: $TOPIC-0\s+low_watermark: 3000" kafka_tool kafka-delete-records "${SERVER[@]}" --offset-json-file "$file"
  rm -f "$file"
  expect "^$TOPIC:0:3000\$" kafka_tool kafka-get-offsets "${SERVER[@]}" --topic "$TOPIC" --time -2
}

if wanted tools && usable tools; then
  install_python
  scenario 90 "tools: kafka-topics create, list, describe, alter" strict tool_topics
  scenario 60 "tools: kafka-topics delete" strict tool_delete_topic
  scenario 90 "tools: kafka-configs of a topic" strict tool_topic_configs
  scenario 90 "tools: kafka-configs of a broker" strict tool_broker_configs
  scenario 120 "tools: kafka-producer-perf-test" strict tool_producer_perf
  scenario 90 "tools: kafka-get-offsets" strict tool_get_offsets
  scenario 120 "tools: kafka-consumer-perf-test" strict tool_consumer_perf
  scenario 60 "tools: kafka-consumer-groups" strict tool_consumer_groups
  scenario 90 "tools: kafka-consumer-groups resets and deletes" strict tool_groups_change
  scenario 90 "tools: kafka-configs of clients, users and addresses" strict tool_quotas
  scenario 90 "tools: kafka-log-dirs, -broker-api-versions, -metadata-quorum, -reassign-partitions, -leader-election, -transactions" strict tool_insides
  if [[ -n $DATA ]]; then
    scenario 120 "tools: kafka-dump-log on closed segments" strict tool_dump_log
  else
    skip "tools: kafka-dump-log (--data says where the broker's data is)"
  fi
  scenario 60 "tools: kafka-delete-records" strict tool_delete_records
fi

if wanted monitor && usable monitor; then
  scenario 120 "monitor: kafkatop's topics, groups and lag" "$PYTHON" "$SCRIPTS/clients/python/monitor.py" "$BOOTSTRAP" "$RUN-monitor" "$MONITOR"
fi

finish_scenarios
