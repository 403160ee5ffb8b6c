#!/usr/bin/env bash
# Three nodes as three processes: what a cluster has to do whatever becomes of one of them, or of the network between them,
# where that can be cut (cluster.sh). Needs nothing but the broker.
#   scripts/cluster-test.sh [--times N]   kills the node that leads the quorum N times (20)
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"

times=20
[[ ${1:-} != --times ]] || times="$2"
export MILLSTREAM_CLUSTER
MILLSTREAM_CLUSTER="$(data_directory cluster)/nodes"
build_broker
export MILLSTREAM_BINARY="$BROKER"
cluster() { "$SCRIPTS/cluster.sh" "$@"; }
finish() {
  cluster down >/dev/null 2>&1 || true
  rm -rf "$(dirname "$MILLSTREAM_CLUSTER")"
}
trap finish EXIT

at() { printf %s "${addresses[$1 - 1]}"; }
create() { "$BROKER" topic create --bootstrap-server "$(at "$1")" --timeout 10 "${@:2}" >/dev/null; }
# How many partitions of topic $2 have a leader, as node $1 says. To describe one takes its leader, who may just be lost.
led() { "$BROKER" topic describe --bootstrap-server "$(at "$1")" --timeout 1 "$2" 2>/dev/null | awk '$1 ~ /^[0-9]+$/ && $2 != "-"' | wc -l; }
are_led() { [[ $(led "$1" "$2") == "$3" ]]; }
# The two nodes that are not node $1.
others() { for node in 1 2 3; do [[ $node == "$1" ]] || echo "$node"; done; }

since() { printf '%d ms' $(($(now_ms) - $1)); }

started="$(now_ms)"
cluster up >/dev/null
IFS=, read -ra addresses <<<"$(cluster bootstrap)"
say "three nodes are ready after $(since "$started")"

create 2 --partitions 12 spread
for node in 1 2 3; do until_so "node $node knows all leaders" are_led "$node" spread 12; done
leaders="$("$BROKER" topic describe --bootstrap-server "$(at 3)" spread | awk '$1 ~ /^[0-9]+$/ { print $2 }' | sort | uniq -c | awk '{ print $1 }' | tr '\n' ' ')"
[[ $leaders == "4 4 4 " ]] || die "12 partitions are spread as $leaders"
for ((number = 0; number < 3000; number++)); do echo "key$number:value$number"; done >"$MILLSTREAM_CLUSTER/records"
"$BROKER" produce --bootstrap-server "$(at 1)" --key-separator : spread <"$MILLSTREAM_CLUSTER/records" >/dev/null
read_all() { "$BROKER" consume --bootstrap-server "$(at "$1")" spread 2>/dev/null | sort -u | wc -l; }
for node in 1 2 3; do [[ $(read_all "$node") == 3000 ]] || die "node $node gives $(read_all "$node") of 3000 records"; done
for partition in 0 1 2; do
  "$BROKER" topic describe --bootstrap-server "$(at 1)" spread >"$MILLSTREAM_CLUSTER/described"
  leader="$(cluster leader spread "$partition")"
  grep -qE "^ +$partition +$leader " "$MILLSTREAM_CLUSTER/described" || die "node $leader is said to lead partition $partition"
done
say "12 partitions over three nodes, 3,000 records written through one and read through each"

cluster failover --times "$times"

led_by="$(cluster controller)"
read -r one two <<<"$(others "$led_by" | tr '\n' ' ')"
cluster kill "$one"
cluster kill "$two"
if create "$led_by" --partitions 1 alone 2>/dev/null; then die "one of three decides by itself"; fi
cluster start "$one"
until_so "two of three decide" create "$one" --if-not-exists --partitions 1 two-of-three
cluster start "$two"
for node in 1 2 3; do until_so "all partitions are led again" are_led "$node" spread 12; done
say "one of three decides nothing; two do; with all three every partition is led"

led_by="$(cluster controller)"
read -r one two <<<"$(others "$led_by" | tr '\n' ' ')"
cluster pause "$led_by"
until_so "the others decide" create "$one" --if-not-exists --partitions 1 paused
until_so "what the paused node leads has no leader" are_led "$two" spread 8
cluster resume "$led_by"
for node in 1 2 3; do until_so "all partitions are led again" are_led "$node" spread 12; done
say "a paused controller is replaced and fenced, and comes back"

cluster stop "$one"
cluster start "$one"
for node in 1 2 3; do until_so "all partitions are led again" are_led "$node" spread 12; done
for node in 1 2 3; do [[ $(read_all "$node") == 3000 ]] || die "node $node gives $(read_all "$node") of 3000 records"; done
say "a node is stopped and started; all 3,000 records are there"

if ! why="$(cluster heal 2>&1)"; then
  say "skipped, what a cut network does: $why"
  exit
fi

# How many nodes say of themselves that they lead the quorum.
active() { cluster status | grep -c 'leads the quorum' || true; }
one_is_active() { [[ $(active) == 1 ]]; }

# With node $1 cut off: the others decide, it is refused decisions, and what it leads has no leader; when all is healed everything
# is as before. $2... is the verb that cuts.
cut_off() {
  local off="$1" asking="$MILLSTREAM_CLUSTER/asking" refusals="$MILLSTREAM_CLUSTER/refusals"
  local cut_at asked decided fenced healed node one two
  shift
  read -r one two <<<"$(others "$off" | tr '\n' ' ')"
  cluster "$@"
  cut_at="$(now_ms)"
  # Asked all the time: while it may still lead, or believe that its connections are good, and when it must know better.
  rm -f "$refusals"
  touch "$asking"
  while [[ -e $asking ]]; do
    ! create "$off" --partitions 1 "split-$cut_at" 2>>"$refusals" || exit 1
  done &
  asked=$!
  for node in "$one" "$two"; do until_so "node $node decides" create "$node" --if-not-exists --partitions 1 "cut-$cut_at"; done
  decided="$(since "$cut_at")"
  until_so "what node $off leads has no leader" are_led "$one" spread 8
  fenced="$(since "$cut_at")"
  rm "$asking"
  wait "$asked" || die "node $off decides by itself"
  if grep -v 'try again' "$refusals"; then die "node $off refuses so"; fi
  until_so "one node leads the quorum" one_is_active
  [[ $(cluster controller) != "$off" ]] || die "node $off still leads the quorum"
  # Clients reach it all the time.
  [[ $(read_all "$off") == 3000 ]] || die "node $off gives $(read_all "$off") of 3000 records"

  cluster heal
  healed="$(now_ms)"
  for node in 1 2 3; do until_so "node $node knows that all partitions are led again" are_led "$node" spread 12; done
  for node in 1 2 3; do create "$node" --partitions 1 "healed-$cut_at-$node"; done
  one_is_active || die "$(active) nodes lead the quorum"
  # Where only answers are lost, the controller may have decided what its node says was not answered in time.
  if [[ $1 == isolate ]]; then
    for node in 1 2 3; do
      "$BROKER" topic list --bootstrap-server "$(at "$node")" >"$MILLSTREAM_CLUSTER/listed"
      ! grep -w "split-$cut_at" "$MILLSTREAM_CLUSTER/listed" || die "node $node has what node $off refused"
    done
  fi
  say "$*: the others decide after $decided, node $off is fenced after $fenced, all is led $(since "$healed") after heal"
}

led_by="$(cluster controller)"
say "node $led_by leads the quorum"
cut_off "$led_by" isolate "$led_by"
led_by="$(cluster controller)"
read -r one two <<<"$(others "$led_by" | tr '\n' ' ')"
say "node $led_by leads the quorum"
cut_off "$one" isolate "$one"
cut_off "$one" cut "$led_by" "$one" --one-way
cut_off "$one" cut "$one" "$led_by" --one-way
[[ $(cluster controller) == "$led_by" ]] || die "a follower that could not hear has unseated the controller"
