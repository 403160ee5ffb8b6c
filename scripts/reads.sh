#!/usr/bin/env bash
# Where consumers' bytes come from, by the broker's own counters: a consumer at the tail causes no disk read; one that reads
# a backlog is served by sendfile, and no call of it holds the core for over a millisecond because it waits for the disk.
#   scripts/reads.sh [--seconds 5]
# The load is millstream-bench; the consumer at the tail is kcat. Segments are written past the page cache, so what is not
# in the broker's memory is cold.
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"
source "$SCRIPTS/lib/install.sh"

SECONDS_LOAD=5
case "${1:-}" in
  --seconds) SECONDS_LOAD="$2" ;;
  "") ;;
  *) sed -n '2,6s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac

install_kcat
build_broker
(cd "$ROOT" && cargo build --release -p millstream-bench)
BENCH="${CARGO_TARGET_DIR:-$ROOT/target}/release/millstream-bench"
data="$(data_directory reads)"
port="$(free_port)"
metrics="127.0.0.1:$(free_port)"
tail_pid=
trap '[[ -z $tail_pid ]] || kill "$tail_pid" 2>/dev/null; stop_broker 2>/dev/null || true; rm -rf "$data" "$data.out" "$data.tail"' EXIT
start_broker "$data" "$port" --override "millstream.http.listener=$metrics"

# The sum of a counter over all shards.
counter() {
  python3 - "$metrics" "$1" <<'PY'
import sys, urllib.request
lines = urllib.request.urlopen(f"http://{sys.argv[1]}/metrics", timeout=10).read().decode().splitlines()
print(int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(sys.argv[2] + "{"))))
PY
}

passed=0 failed=0
check() {
  if (($2)); then
    say "ok   $1" && passed=$((passed + 1))
  else
    say "FAIL $1" && failed=$((failed + 1))
  fi
}

# Create the topic, then follow its end while it is filled at a rate that a follower keeps up with.
"$BENCH" produce --bootstrap "127.0.0.1:$port" --topic tail --partitions 2 --connections 2 --batch-records 16 --rate 1000 --warm-up 0 --seconds 1 >/dev/null
kcat -q -C -b "127.0.0.1:$port" -t tail -o end -f '%o\n' >"$data.tail" &
tail_pid=$!
while [[ ! -s $data.tail ]]; do
  "$BENCH" produce --bootstrap "127.0.0.1:$port" --topic tail --partitions 2 --connections 2 --batch-records 16 --rate 1000 --warm-up 0 --seconds 1 >/dev/null
done
before="$(counter millstream_fetch_disk_reads_total)" prefetches_before="$(counter millstream_fetch_prefetches_total)"
file_before="$(counter millstream_fetch_sendfile_bytes_total)"
memory_before="$(counter millstream_fetch_memory_bytes_total)"
"$BENCH" produce --bootstrap "127.0.0.1:$port" --topic tail --partitions 2 --connections 2 --batch-records 16 --rate 20000 --warm-up 0 --seconds "$SECONDS_LOAD"
reads=$(($(counter millstream_fetch_disk_reads_total) - before + $(counter millstream_fetch_prefetches_total) - prefetches_before))
reads=$((reads + $(counter millstream_fetch_sendfile_bytes_total) - file_before))
memory=$(($(counter millstream_fetch_memory_bytes_total) - memory_before))
kill "$tail_pid" && tail_pid=
check "a consumer at the tail got $memory bytes from memory and caused $reads disk reads" "$((memory > 0 && reads == 0))"

"$BENCH" produce --bootstrap "127.0.0.1:$port" --topic backlog --batch-records 256 --warm-up 0 --seconds "$SECONDS_LOAD"
"$BENCH" consume --bootstrap "127.0.0.1:$port" --topic backlog
sent="$(counter millstream_send_sendfile_bytes_total)" calls="$(counter millstream_send_sendfile_calls_total)"
blocked="$(counter millstream_send_sendfile_blocked_total)" slow="$(counter millstream_send_sendfile_slow_total)"
check "a consumer of a backlog got $sent bytes by $calls calls of sendfile" "$((sent > 0))"
check "$blocked of them waited for the disk for over a millisecond ($slow took longer than that for any reason)" "$((blocked == 0))"
say "$passed passed, $failed failed"
((failed == 0))
