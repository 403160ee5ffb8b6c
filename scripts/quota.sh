#!/usr/bin/env bash
# The watchdog against the runtime's lost wake, under a CPU quota as containers have: the broker gets a part of a core, a
# steady load runs for a minute, and no request may take longer than a few seconds. Prints how often the watchdog woke a
# shard, and how often it found work that had waited.
#   scripts/quota.sh [--seconds 60] [--percent 5] [--seconds-max 3]
# Needs root and a writable cgroup (version 1 or 2); without, it says so and skips. Stopping and continuing the process
# instead would not be the same: then all its threads stop at the same place, and the watchdog with them.
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"

seconds=60 percent=5 seconds_max=3
while (($#)); do
  case "$1" in
    --seconds) seconds="$2" ;;
    --percent) percent="$2" ;;
    --seconds-max) seconds_max="$2" ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0" && exit 2 ;;
  esac
  shift 2
done

# Makes a group with the quota; sets GROUP. The period is the kernel's default, 100 ms.
group_with_quota() {
  local quota=$((percent * 1000)) name="millstream-quota-$$"
  if [[ -f /sys/fs/cgroup/cgroup.controllers ]]; then
    grep -qw cpu /sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || return 1
    mkdir "/sys/fs/cgroup/$name" 2>/dev/null || return 1
    GROUP="/sys/fs/cgroup/$name"
    echo "$quota 100000" 2>/dev/null >"$GROUP/cpu.max"
  else
    mkdir "/sys/fs/cgroup/cpu/$name" 2>/dev/null || return 1
    GROUP="/sys/fs/cgroup/cpu/$name"
    echo 100000 >"$GROUP/cpu.cfs_period_us" && echo "$quota" 2>/dev/null >"$GROUP/cpu.cfs_quota_us"
  fi
}

GROUP=
group_with_quota || {
  [[ -z $GROUP ]] || rmdir "$GROUP"
  say "skip: no cgroup with a CPU quota can be made here (root and a writable cgroup file system are needed)"
  exit 0
}

data="$(data_directory quota)"
clean_up() {
  stop_broker 2>/dev/null || true
  # A group goes when its last process has.
  rmdir "$GROUP" 2>/dev/null || { sleep 1 && rmdir "$GROUP"; }
  rm -rf "$data" "$data.out"
}
trap clean_up EXIT
build_broker
if [[ -n ${MILLSTREAM_BENCH:-} ]]; then
  BENCH="$MILLSTREAM_BENCH"
else
  (cd "$ROOT" && cargo build --release -p millstream-bench)
  BENCH="${CARGO_TARGET_DIR:-$ROOT/target}/release/millstream-bench"
fi
port="$(free_port)"
metrics="127.0.0.1:$(free_port)"
start_broker "$data" "$port" --override "millstream.http.listener=$metrics" --override millstream.shards=2
echo "$BROKER_PID" >"$GROUP/cgroup.procs"

# Small requests at a rate that leaves the shards idle in between: an idle executor is the one that may oversleep.
say "the broker has $percent % of a core; 200 requests a second for $seconds s"
report="$("$BENCH" produce --bootstrap "127.0.0.1:$port" --partitions 8 --connections 4 --batch-records 1 --record-bytes 100 \
  --rate 200 --warm-up 1 --seconds "$seconds")"
say "$report"
python3 - "$metrics" <<'PY'
import sys, urllib.request
lines = urllib.request.urlopen(f"http://{sys.argv[1]}/metrics", timeout=10).read().decode().splitlines()
for name in ("millstream_turns_total", "millstream_watchdog_wakes_total", "millstream_watchdog_rescues_total"):
    print(name, int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))))
PY
throttled="$(awk '/^nr_throttled/ { print $2 }' "$GROUP/cpu.stat")"
slowest="$(sed -n 's/.*max \([0-9.]*\).*/\1/p' <<<"$report")"
requests="$(sed -n 's/.* \([0-9]*\) requests\/s.*/\1/p' <<<"$report")"
say "throttled in $throttled periods; the slowest request took $slowest ms"
[[ -n $slowest && -n $requests ]] || die "FAIL: the report says neither how many requests there were nor how long they took"
awk -v slowest="$slowest" -v bound="$((seconds_max * 1000))" 'BEGIN { exit !(slowest < bound) }' ||
  die "FAIL: a request took longer than $seconds_max s"
((throttled > 0)) || die "FAIL: the quota never took the processor away, so nothing was tested: lower --percent"
((requests > 100)) || die "FAIL: only $requests requests a second were answered"
say "ok: no request took longer than $seconds_max s"
