#!/usr/bin/env bash
# Compacts a topic while another takes records: the last value of every key must be there afterwards, memory must stay within
# log.cleaner.dedupe.buffer.size and a few MiB, and the latency of the other topic is shown before, during and after. Then
# librdkafka writes and reads compacted topics in every codec.
#   scripts/compaction.sh [--keys 10000000] [--rounds 2] [--rate 20000] [--seconds 10]
# The load is millstream-bench. With 10 million keys it needs 6 GB of disk for a while.
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"
source "$SCRIPTS/lib/install.sh"

KEYS=10000000 ROUNDS=2 RATE=20000 SECONDS_LOAD=10
while [ $# -gt 0 ]; do
  case "$1" in
    --keys) KEYS=$2; shift 2 ;;
    --rounds) ROUNDS=$2; shift 2 ;;
    --rate) RATE=$2; shift 2 ;;
    --seconds) SECONDS_LOAD=$2; shift 2 ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0" && exit 2 ;;
  esac
done

install_python || die "python3 is needed"
build_broker
(cd "$ROOT" && cargo build --release -p millstream-bench)
BENCH="${CARGO_TARGET_DIR:-$ROOT/target}/release/millstream-bench"
data="$(data_directory compaction)"
port="$(free_port)"
metrics="127.0.0.1:$(free_port)"
watcher=
trap '[[ -z $watcher ]] || kill "$watcher" 2>/dev/null; stop_broker 2>/dev/null || true; rm -rf "$data" "$data.out" "$data.out.memory"' EXIT

# The largest, or the sum, over all shards of a metric.
metric() {
  python3 - "$metrics" "$1" <<'PY'
import sys, urllib.request
lines = urllib.request.urlopen(f"http://{sys.argv[1]}/metrics", timeout=10).read().decode().splitlines()
print(int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((sys.argv[2] + "{", sys.argv[2] + " ")))))
PY
}

# Starts the broker on one core of the machine, with compaction switched on or off.
start() {
  start_broker "$data" "$port" --override "millstream.http.listener=$metrics" --override millstream.shards=1 \
    --override "log.cleaner.enable=$1" --override log.cleaner.backoff.ms=100
}

passed=0 failed=0
check() {
  if (($2)); then
    say "ok   $1" && passed=$((passed + 1))
  else
    say "FAIL $1" && failed=$((failed + 1))
  fi
}

load() {
  "$BENCH" produce --bootstrap "127.0.0.1:$port" --topic other --partitions 4 --connections 4 --batch-records 16 \
    --rate "$RATE" --warm-up 1 --seconds "$SECONDS_LOAD" | sed "s/^/$1: /"
}

# Some thirty segments, as far as Kafka's least and a reasonable most allow: the newest is never compacted.
SEGMENT=$((KEYS * ROUNDS * 120 / 32))
((SEGMENT > 1 << 20)) || SEGMENT=$((1 << 20))
((SEGMENT < 64 << 20)) || SEGMENT=$((64 << 20))
start false
"$BENCH" keyed fill --bootstrap "127.0.0.1:$port" --keys "$KEYS" --rounds "$ROUNDS" \
  --topic-config cleanup.policy=compact --topic-config min.cleanable.dirty.ratio=0.01 \
  --topic-config "segment.bytes=$SEGMENT" --topic-config file.delete.delay.ms=1000
load "before"
bytes_before=$(du -sb "$data/topics/compacted" | cut -f1)
stop_broker
start true
# One process for all samples: starting one for each would be felt by what is measured.
python3 - "$metrics" >"$data.out.memory" <<'PY' &
import sys, time, urllib.request
while True:
    lines = urllib.request.urlopen(f"http://{sys.argv[1]}/metrics", timeout=10).read().decode().splitlines()
    samples = [line.rsplit(" ", 1)[1] for line in lines if line.startswith("millstream_compaction_memory_bytes{")]
    print(int(sum(map(float, samples))), flush=True)
    time.sleep(1)
PY
watcher=$!
load "during"
work=$(metric millstream_compaction_read_bytes_total)
kill "$watcher" 2>/dev/null || true
watcher=
check "compaction was under way: it had read $((work >> 20)) MiB by the end of the load" "$((work > 0))"
# All but the newest segment is compacted in the end: nothing more is read.
before=-1
deadline=$((SECONDS + 1200))
until now=$(metric millstream_compaction_read_bytes_total) && ((now > 0 && now == before)); do
  ((SECONDS < deadline)) || die "compaction does not come to an end"
  before=$now
  sleep 3
done
largest=$(sort -n "$data.out.memory" | tail -1)
rm -f "$data.out.memory"
buffer=$((128 << 20))
check "the compaction's memory was at most $((${largest:-0} >> 20)) MiB" "$((${largest:-0} <= buffer + (8 << 20)))"
load "after"
sleep 2
bytes_after=$(du -sb "$data/topics/compacted" | cut -f1)
check "$((bytes_before >> 20)) MiB became $((bytes_after >> 20)) MiB, $(metric millstream_compactions_total) runs" "$((bytes_after < bytes_before))"
check "no compaction failed" "$(($(metric millstream_compactions_failed_total) == 0))"
verified=1
"$BENCH" keyed verify --bootstrap "127.0.0.1:$port" --keys "$KEYS" --rounds "$ROUNDS" || verified=0
check "the last value of every key is there" "$verified"
stop_broker
start true
"$BENCH" keyed verify --bootstrap "127.0.0.1:$port" --keys "$KEYS" --rounds "$ROUNDS" || verified=0
check "and after a restart" "$verified"
clients=1
"$CACHE/python/bin/python" "$SCRIPTS/clients/python/with_compaction.py" "127.0.0.1:$port" || clients=0
check "librdkafka in every codec" "$clients"
stop_broker
say "$passed passed, $failed failed"
((failed == 0))
