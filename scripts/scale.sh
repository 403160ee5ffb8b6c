#!/usr/bin/env bash
# Ten thousand connections and ten thousand partitions on one broker with a memory budget of 512 MiB: resident memory, open
# files, and the latency of a producer beside them. Fails when the memory goes beyond the budget or a producer is kept out.
#   scripts/scale.sh [--connections 10000] [--partitions 10000] [--memory-mib 512]
# Takes python3 and millstream-bench only.
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"

CONNECTIONS=10000 PARTITIONS=10000 MEMORY_MIB=512
while (($#)); do
  case "$1" in
    --connections) CONNECTIONS="$2" ;;
    --partitions) PARTITIONS="$2" ;;
    --memory-mib) MEMORY_MIB="$2" ;;
    *) sed -n '2,5s/^# \{0,1\}//p' "$0" && exit 2 ;;
  esac
  shift 2
done

files=$((CONNECTIONS + CONNECTIONS / 10 + 2000))
hard="$(ulimit -Hn)"
if [[ $hard != unlimited ]] && ((hard < files)); then
  # A quarter of the descriptors are for data files.
  CONNECTIONS=$(((hard - 2000) * 2 / 3))
  say "the limit on open files is $hard: $CONNECTIONS connections"
fi
build_broker
(cd "$ROOT" && cargo build --release -p millstream-bench)
BENCH="${CARGO_TARGET_DIR:-$ROOT/target}/release/millstream-bench"
data="$(data_directory scale)"
port="$(free_port)"
metrics="127.0.0.1:$(free_port)"
trap 'kill_broker; rm -rf "$data" "$data.out"' EXIT
start_broker "$data" "$port" --override "millstream.http.listener=$metrics" \
  --override "millstream.memory.bytes=$((MEMORY_MIB << 20))"
grep "memory budget" "$data.out"
python3 "$SCRIPTS/clients/python/scale.py" "127.0.0.1:$port" "$metrics" "$BROKER_PID" "$BENCH" "$CONNECTIONS" "$PARTITIONS" "$MEMORY_MIB"
stop_broker
