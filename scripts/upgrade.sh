#!/usr/bin/env bash
# What an earlier revision has written is there after the upgrade: topics, records, offsets of groups and configurations, after a
# clean stop and after kill -9. Builds that revision in a git worktree of its own, once; the program is kept in the cache.
#   scripts/upgrade.sh [--from REVISION] [--old-binary PATH]
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"

# The last revision whose metadata log names its node.
from=53aba74
old=
while (($# > 0)); do
  case "$1" in
    --from) from="$2" && shift 2 ;;
    --old-binary) old="$2" && shift 2 ;;
    *) die "usage: scripts/upgrade.sh [--from REVISION] [--old-binary PATH]" ;;
  esac
done

WORK="$(data_directory upgrade)"
cleanup() {
  kill_broker
  if [[ -d $WORK/tree ]]; then git -C "$ROOT" worktree remove --force "$WORK/tree"; fi
  rm -rf "$WORK"
}
trap cleanup EXIT

# Builds the earlier revision, unless it was built before.
build_old() {
  local revision
  revision="$(git -C "$ROOT" rev-parse --verify "$from^{commit}")" || die "there is no revision $from"
  old="$CACHE/upgrade/millstream-$revision"
  [[ -x $old ]] && return
  # What it depends on is the same as for the tests of this one, and compiled already if they were.
  local target="${CARGO_TARGET_DIR:-$ROOT/target}"
  say "building $from (cargo build)"
  git -C "$ROOT" worktree add --quiet --detach "$WORK/tree" "$revision"
  (cd "$WORK/tree" && cargo build --locked --bin millstream --target-dir "$target")
  mkdir -p "$CACHE/upgrade"
  cp "$target/debug/millstream" "$old.part"
  mv "$old.part" "$old"
}

build_broker
NEW="$BROKER"
[[ -n $old ]] || build_old
[[ -x $old ]] || die "no program at $old"
PORT="$(free_port)"
AT=(--bootstrap-server "127.0.0.1:$PORT")

# start BINARY DATA [--override key=value ...]
start() {
  BROKER="$1"
  start_broker "$2" "$PORT" "${@:3}" || die "$1 did not start on $2"
}

# Lines of records with keys: topic $1, count $2, the padding of each $3.
write_records() {
  awk -v count="$2" -v padding="$3" 'BEGIN {
    while (length(pad) < padding) pad = pad "x"
    for (i = 0; i < count; i++) print "key" i % 97 ":value" i pad
  }' | "$old" produce "$1" "${AT[@]}" --key-separator : --header from=before >/dev/null
}

# Everything there is to write with the earlier revision's own command line.
fill() {
  "$old" topic create orders "${AT[@]}" --partitions 3 --config retention.ms=-1 >/dev/null
  "$old" topic create last "${AT[@]}" --partitions 2 --config cleanup.policy=compact --config segment.bytes=1048576 \
    --config min.cleanable.dirty.ratio=0.01 >/dev/null
  "$old" topic create wide "${AT[@]}" --partitions 12 --config segment.bytes=1048576 >/dev/null
  "$old" topic create empty gone "${AT[@]}" --partitions 2 >/dev/null
  write_records orders 5000 10
  write_records last 40000 100
  write_records wide 30000 300
  write_records gone 1000 10
  "$old" config set "${AT[@]}" --topic orders max.message.bytes=2000000 >/dev/null
  "$old" config set "${AT[@]}" --broker 1 log.cleaner.backoff.ms=2000 >/dev/null
  "$old" config set "${AT[@]}" --all-brokers log.retention.ms=777600000 >/dev/null
  "$old" group reset-offsets readers "${AT[@]}" --topic orders --to-offset 7 --execute >/dev/null
  "$old" group reset-offsets others "${AT[@]}" --topic wide:0,5 --to-latest --execute >/dev/null
  "$old" topic delete gone "${AT[@]}" >/dev/null
}

# Everything there is to see, in an order that is always the same. Of a compacted topic only the last value of each key.
look() {
  local topic
  for topic in orders wide; do
    "$NEW" consume "$topic" "${AT[@]}" --show partition,offset,timestamp,headers,key | sort
  done
  "$NEW" consume last "${AT[@]}" --show partition,offset,key | sort -t $'\t' -k1,1 -k2,2n |
    awk -F '\t' '{ last[$1 FS $3] = $0 } END { for (key in last) print last[key] }' | sort
  "$NEW" topic list "${AT[@]}"
  "$NEW" offsets orders last wide empty "${AT[@]}"
  "$NEW" config describe "${AT[@]}" --topic orders
  "$NEW" config describe "${AT[@]}" --topic last
  "$NEW" config describe "${AT[@]}" --broker 1
  "$NEW" group describe readers others "${AT[@]}"
}

# same NAME: what is seen now is what was seen before.
same() {
  look >"$WORK/after"
  diff "$WORK/before" "$WORK/after" >"$WORK/difference" || {
    head -20 "$WORK/difference"
    die "FAILED: $1"
  }
  say "ok: $1 ($(wc -l <"$WORK/after") lines)"
}

# How the earlier revision ends: clean or killed.
upgrade() {
  local how="$1" data="$WORK/$1" line
  start "$old" "$data"
  fill
  look >"$WORK/before"
  (($(wc -l <"$WORK/before") > 35000)) || die "FAILED: there is too little to compare"
  if [[ $how == clean ]]; then stop_broker; else kill_broker; fi

  start "$NEW" "$data"
  same "$how: everything is there after the upgrade"
  grep -qs '^node.id=1$' "$data/meta.properties" || die "FAILED: $how: the directory has no identity"
  [[ ! -e $data/.millstream_cleanshutdown ]] || die "FAILED: $how: a running broker has the mark of a clean stop"
  stop_broker
  [[ -s $data/.millstream_cleanshutdown ]] || die "FAILED: $how: a clean stop leaves no mark"

  start "$NEW" "$data"
  same "$how: and after a restart"
  "$NEW" consume gone "${AT[@]}" >/dev/null 2>&1 && die "FAILED: $how: a deleted topic is back"
  echo more | "$NEW" produce empty "${AT[@]}" >/dev/null
  [[ $("$NEW" consume empty "${AT[@]}") == more ]] || die "FAILED: $how: nothing can be written"
  kill_broker
  line="$("$NEW" serve --override "listeners=PLAINTEXT://127.0.0.1:$PORT" --override "log.dirs=$data" \
    --override millstream.http.listener= --override node.id=2 2>&1)" && die "FAILED: $how: another node may have it"
  [[ $line == *"belongs to node.id 1"* ]] || die "FAILED: $how: $line"
  # There is no way back: it is refused, and nothing is harmed.
  rm -rf "$data"
  say "ok: $how"
}

upgrade clean
upgrade killed
say "what $from has written is all there"
