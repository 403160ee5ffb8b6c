#!/usr/bin/env bash
# The command line (`millstream topic`, `produce`, ...) beside other clients: what one writes the other reads, keys go to the
# same partitions, offsets and lags are the same.
#   scripts/cli.sh [--kafka]    with --kafka also against a real Kafka node
# Takes confluent-kafka (PyPI); Kafka's own tools and node where Java and Maven are.
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"
source "$SCRIPTS/lib/install.sh"
source "$SCRIPTS/lib/scenarios.sh"

WITH_KAFKA=0
case "${1:-}" in
  "") ;;
  --kafka) WITH_KAFKA=1 ;;
  *) sed -n '2,5s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
install_python
HAS_TOOLS=0
if command -v java >/dev/null && command -v mvn >/dev/null && install_java; then HAS_TOOLS=1; fi
((HAS_TOOLS || !WITH_KAFKA)) || die "a Kafka node needs Java and Maven"
build_broker
WORK="$(data_directory cli)"
NODE_PID=
end() {
  kill_broker
  if [[ -n $NODE_PID ]]; then
    kill -KILL "$NODE_PID" 2>/dev/null || true
    wait "$NODE_PID" 2>/dev/null || true
  fi
  rm -rf "$WORK"
}
trap end EXIT

millstream() {
  local command="$1"
  shift
  "$BROKER" "$command" "$@" --bootstrap-server "$BOOTSTRAP"
}

# Both produce the same keys; every key must be in the same partition, whoever wrote it.
keys_go_where_others_put_them() {
  millstream topic create ours theirs --partitions 7
  seq 1 2000 | sed 's/.*/key-&=value &/' | millstream produce ours --key-separator =
  "$PYTHON" - "$BOOTSTRAP" <<'PY'
import sys
from confluent_kafka import Producer
producer = Producer({"bootstrap.servers": sys.argv[1], "partitioner": "murmur2_random"})
for number in range(1, 2001):
    producer.produce("theirs", f"value {number}".encode(), f"key-{number}".encode())
assert producer.flush(30) == 0
PY
  for topic in ours theirs; do
    millstream consume "$topic" --show partition,key | sort >"$WORK/$topic"
    [[ $(wc -l <"$WORK/$topic") == 2000 ]]
  done
  diff "$WORK/ours" "$WORK/theirs" | head
}

# Every codec, as another client compresses it.
codecs_are_read() {
  millstream topic create codecs --partitions 1
  "$PYTHON" - "$BOOTSTRAP" <<'PY'
import sys
from confluent_kafka import Producer
for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
    producer = Producer({"bootstrap.servers": sys.argv[1], "compression.type": codec, "linger.ms": 50})
    for number in range(500):
        producer.produce("codecs", f"{codec} {number}".encode() * 10, headers=[("codec", codec.encode())])
    assert producer.flush(30) == 0
PY
  millstream consume codecs --json >"$WORK/codecs"
  "$PYTHON" - "$WORK/codecs" <<'PY'
import json, sys
records = [json.loads(line) for line in open(sys.argv[1])]
expected = [(codec, number) for codec in ["none", "gzip", "snappy", "lz4", "zstd"] for number in range(500)]
assert len(records) == len(expected), len(records)
for offset, (record, (codec, number)) in enumerate(zip(records, expected)):
    assert record["offset"] == offset and record["value"] == f"{codec} {number}" * 10, record
    assert record["headers"] == [{"name": "codec", "value": codec}], record
PY
}

# What a consumer of a group commits is shown, with its member, its state and its lag. $1: classic or consumer (KIP-848).
groups_are_shown() {
  "$PYTHON" - "$BOOTSTRAP" "$BROKER" "$1" <<'PY'
import json, subprocess, sys
from confluent_kafka import Consumer
bootstrap, program, protocol = sys.argv[1:]
name = {"classic": "readers", "consumer": "new-readers"}[protocol]
consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": name, "client.id": "one", "auto.offset.reset": "earliest",
                     "enable.auto.commit": False, "group.protocol": protocol})
consumer.subscribe(["codecs"])
got = 0
while got < 100:
    message = consumer.poll(30)
    assert message is not None and message.error() is None, message
    got += 1
    if got == 100:
        consumer.commit(message, asynchronous=False)
def described():
    command = [program, "group", "describe", name, "--json", "--bootstrap-server", bootstrap]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)[0]
group = described()
assert (group["state"], group["lag"], len(group["members"])) == ("Stable", 2400, 1), group
assert group["members"][0]["client"] == "one", group
partition = group["partitions"][0]
assert (partition["committed"], partition["next"], partition["member"]) == (100, 2500, group["members"][0]["member"]), group
reset = [program, "group", "reset-offsets", name, "--topic", "codecs", "--to-earliest", "--execute", "--bootstrap-server", bootstrap]
refused = subprocess.run(reset, capture_output=True, text=True)
assert refused.returncode == 1 and "has 1 members: stop its consumers first" in refused.stderr, refused
consumer.close()
subprocess.run(reset, check=True)
assert described()["lag"] == 2500
PY
}

# Kafka's own tools say the same.
tools_agree() {
  kafka_tool kafka-get-offsets --bootstrap-server "$BOOTSTRAP" --topic ours | sort >"$WORK/theirs"
  millstream offsets ours --json | jq -r '.[] | "\(.topic):\(.partition):\(.next)"' | sort | diff - "$WORK/theirs"
  millstream config set --topic ours retention.ms=123456
  kafka_tool kafka-configs --bootstrap-server "$BOOTSTRAP" --describe --topic ours | grep -q 'retention.ms=123456'
  millstream group reset-offsets readers --topic codecs --to-offset 1234 --execute
  kafka_tool kafka-consumer-groups --bootstrap-server "$BOOTSTRAP" --describe --group readers 2>/dev/null \
    | grep -qE 'readers +codecs +0 +1234 +2500 +1266'
}

# Waits until a command succeeds: Kafka's brokers learn of changes a moment after they are made. The scenario's time bounds it.
soon() { until "$@"; do sleep 0.1; done; }
has_partitions() { [[ $(millstream topic describe "$1" --json | jq '.[0].partitions | length') == "$2" ]]; }
is_configured() { millstream config describe --all-brokers | grep -q "$1"; }
has_no_topics() { [[ $(millstream topic list --json) == '[]' ]]; }

# What changes things, and what is refused.
changes_are_made() {
  millstream topic alter ours --partitions 9
  soon has_partitions ours 9
  millstream topic delete-records ours --all-partitions --before latest
  [[ -z $(millstream consume ours) ]]
  millstream group delete-offsets readers --topic codecs
  millstream group delete readers new-readers
  if millstream group describe readers; then return 1; fi
  millstream config set --all-brokers log.retention.ms=7654321
  soon is_configured 7654321
  millstream config unset --all-brokers log.retention.ms
  millstream topic delete ours theirs codecs
  soon has_no_topics
}

all() {
  local where="$1"
  scenario 60 "$where: keys go to the partitions that librdkafka chooses" keys_go_where_others_put_them
  scenario 60 "$where: every codec is read" codecs_are_read
  scenario 60 "$where: a group with a member, its lag, its reset" groups_are_shown classic
  scenario 60 "$where: the same by the consumer protocol" groups_are_shown consumer
  if ((HAS_TOOLS)) && command -v jq >/dev/null; then
    scenario 60 "$where: Kafka's tools say the same" tools_agree
  else
    say "skip Kafka's tools: Java, Maven or jq is not on this machine"
  fi
  if command -v jq >/dev/null; then scenario 60 "$where: changes and deletions" changes_are_made; fi
}

PORT="$(free_port)"
BOOTSTRAP="127.0.0.1:$PORT"
start_broker "$WORK/data" "$PORT" --override millstream.shards=2 || die "the broker did not start"
all Millstream
stop_broker
if ((WITH_KAFKA)); then
  PORT="$(free_port)"
  BOOTSTRAP="127.0.0.1:$PORT"
  "$SCRIPTS/peers/kafka.sh" run "$WORK/kafka" "$PORT" group.initial.rebalance.delay.ms=0 >"$WORK/kafka.out" 2>&1 </dev/null &
  NODE_PID=$!
  for ((tenths = 0; ; tenths++)); do
    "$BROKER" topic list --bootstrap-server "$BOOTSTRAP" >/dev/null 2>&1 && break
    kill -0 "$NODE_PID" 2>/dev/null || die "Kafka ended: $(tail -20 "$WORK/kafka.out")"
    ((tenths < 600)) || die "Kafka is not ready in 60 s: $(tail -20 "$WORK/kafka.out")"
    sleep 0.1
  done
  all Kafka
fi
finish_scenarios
