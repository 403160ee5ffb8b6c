#!/usr/bin/env bash
# Nodes that join a running cluster, lose their disks and come back: one node grows to three while records are written and read,
# a disk is lost, a broker that is no controller joins and is killed. Kafka's own tool looks at the quorum and changes it where Java
# is on this machine.
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"

export MILLSTREAM_CLUSTER
MILLSTREAM_CLUSTER="$(data_directory cluster-members)/nodes"
build_broker
export MILLSTREAM_BINARY="$BROKER"
RECORDS=3000
cluster() { "$SCRIPTS/cluster.sh" "$@"; }
finish() {
  cluster down >/dev/null 2>&1 || true
  rm -rf "$(dirname "$MILLSTREAM_CLUSTER")"
}
trap finish EXIT

list() { cluster bootstrap; }
at() { list | cut -d, -f "$1"; }
create() { "$BROKER" topic create --bootstrap-server "$(at "$1")" --timeout 10 "${@:2}" >/dev/null 2>&1; }
describe() { "$BROKER" topic describe --bootstrap-server "$(at "$1")" --timeout 1 "$2" 2>/dev/null || true; }
# How many partitions of topic $2 have a leader, as node $1 says.
led() { describe "$1" "$2" | awk '$1 ~ /^[0-9]+$/ && $2 != "-"' | wc -l; }
are_led() { [[ $(led "$1" "$2") == "$3" ]]; }
# How many partitions of topic $2 each node leads, as node $1 says, in the order of the nodes.
spread() { describe "$1" "$2" | awk '$1 ~ /^[0-9]+$/ && $2 != "-" { print $2 }' | sort -n | uniq -c | awk '{ printf "%s ", $1 }'; }
read_all() { "$BROKER" consume --bootstrap-server "$(at "$1")" "$2" 2>/dev/null | sort -u | wc -l; }
# The quorum as Kafka's tool shows it: a line a member.
quorum() { "$SCRIPTS/kafka.sh" tool kafka-metadata-quorum --bootstrap-server "$(list)" describe --replication 2>/dev/null | grep '^[0-9]'; }
count_of() { grep -c "$1" <<<"$2" || true; }
has_java() { command -v java >/dev/null && command -v mvn >/dev/null; }

cluster up --nodes 1 >/dev/null
create 1 --partitions 6 load
for ((number = 0; number < RECORDS; number++)); do
  echo "record$number"
  ((number % 10)) || sleep 0.02
done | "$BROKER" produce --bootstrap-server "$(at 1)" load >/dev/null &
producer=$!
before="$(now_ms)"
[[ $(cluster add) == 2 ]] || die "the second node is not node 2"
[[ $(cluster add) == 3 ]] || die "the third node is not node 3"
took=$(($(now_ms) - before))
kill -0 "$producer" 2>/dev/null || die "the producer ended before the nodes had joined"
wait "$producer" || die "the producer noticed that nodes have joined"
create 3 --partitions 12 spread
for node in 1 2 3; do until_so "node $node knows all leaders" are_led "$node" spread 12; done
[[ $(spread 2 spread) == "4 4 4 " ]] || die "12 partitions are spread as $(spread 2 spread)"
for node in 1 2 3; do [[ $(read_all "$node" load) == "$RECORDS" ]] || die "node $node gives $(read_all "$node" load) of $RECORDS records"; done
say "one node has grown to three within $took ms while records were written; all $RECORDS are there, through each node"

# The first node is not needed any more for decisions.
cluster kill 1
until_so "the two that have joined decide" create 2 --if-not-exists --partitions 1 without-the-first
cluster start 1
until_so "all partitions are led again" are_led 1 spread 12
say "the two that have joined decide without the first"

cluster kill 3
cluster wipe 3
before="$(now_ms)"
cluster start 3
until_so "all partitions are led again" are_led 1 spread 12
took=$(($(now_ms) - before))
# It votes: with it and one other most are there.
cluster kill 2
until_so "two of three decide, of which one has lost its disk" create 3 --if-not-exists --partitions 1 after-the-loss
cluster start 2
until_so "all partitions are led again" are_led 1 spread 12
[[ $(read_all 3 load) == "$RECORDS" ]] || die "node 3 gives $(read_all 3 load) of $RECORDS records"
say "a node that has lost its disk is back after $took ms, and votes"

[[ $(cluster add --role broker) == 4 ]] || die "the fourth node is not node 4"
create 4 --partitions 8 of-four
until_so "all partitions are led" are_led 1 of-four 8
[[ $(spread 1 of-four) == "2 2 2 2 " ]] || die "8 partitions are spread as $(spread 1 of-four)"
before="$(now_ms)"
cluster kill 4
until_so "what the broker leads has no leader" are_led 1 of-four 6
took=$(($(now_ms) - before))
cluster start 4
until_so "all partitions are led again" are_led 1 of-four 8
say "a broker that is no controller joins; killed, it is fenced within $took ms"

if has_java; then
  members="$(quorum)"
  [[ $(count_of Leader "$members") == 1 && $(count_of Follower "$members") == 2 && $(count_of Observer "$members") == 1 ]] ||
    die "the quorum is: $members"
  directory="$(sed -n 's/^directory.id=//p' "$MILLSTREAM_CLUSTER/3/data/meta.properties")"
  tool() { "$SCRIPTS/kafka.sh" tool kafka-metadata-quorum --bootstrap-server "$(list)" "$@" 2>&1; }
  # What a tool says is looked at when it has ended: one that is not read to its end fails.
  said="$(tool remove-controller --controller-id 3 --controller-directory-id "$directory")" || die "remove-controller: $said"
  grep -q '^Removed' <<<"$said" || die "remove-controller: $said"
  members="$(quorum)"
  [[ $(count_of Observer "$members") == 2 ]] || die "after remove-controller the quorum is: $members"
  printf '%s\n' process.roles=broker,controller node.id=3 controller.listener.names=CONTROLLER \
    "listeners=PLAINTEXT://$(at 3),CONTROLLER://$(at 3 | sed 's/:.*/:9093/')" "log.dirs=$MILLSTREAM_CLUSTER/3/data" >"$MILLSTREAM_CLUSTER/controller.properties"
  said="$(tool --command-config "$MILLSTREAM_CLUSTER/controller.properties" add-controller)" || die "add-controller: $said"
  grep -q '^Added' <<<"$said" || die "add-controller: $said"
  members="$(quorum)"
  [[ $(count_of Observer "$members") == 1 && $(count_of Follower "$members") == 2 ]] || die "after add-controller the quorum is: $members"
  for node in 1 2 3; do
    controller="$(at "$node" | sed 's/:.*/:9093/')"
    status="$("$SCRIPTS/kafka.sh" tool kafka-metadata-quorum --bootstrap-controller "$controller" describe --status 2>&1)" ||
      die "controller $node says: $status"
    grep -q "^LeaderId: *$(cluster controller)\$" <<<"$status" || die "controller $node says: $status"
  done
  say "kafka-metadata-quorum shows one leader, two followers, one observer, also at each controller's own port; it removes a controller and adds it"
else
  say "kafka-metadata-quorum is skipped: Java or Maven is not on this machine"
fi
