#!/usr/bin/env bash
# Attacks a real broker while real clients are at work: hostile frames, half-open and slow connections, clients that do not
# read, floods, promises, requests that ask for much, garbage on the metrics port. The clients must notice nothing but time,
# memory must stay within a budget, nothing may be left open, and the broker must work as before.
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"
source "$SCRIPTS/lib/install.sh"
source "$SCRIPTS/lib/scenarios.sh"

usage() {
  cat <<'TEXT'
scripts/hostile.sh [--seconds N] [--memory-mib N] [--seed N] [--override NAME=VALUE]...
  --seconds N      how long the attacks take turns (60)
  --memory-mib N   millstream.memory.bytes of the broker, which VmHWM of /proc must not exceed (512)
  --seed N         the attacks' random numbers
  --override       for the broker
TEXT
}

SECONDS_ATTACKED=60 MEMORY_MIB=512 SEED=() OVERRIDES=()
while (($#)); do
  case "$1" in
    --seconds) SECONDS_ATTACKED="$2" && shift ;;
    --memory-mib) MEMORY_MIB="$2" && shift ;;
    --seed) SEED=(--seed "$2") && shift ;;
    --override) OVERRIDES+=(--override "$2") && shift ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
  esac
  shift
done

build_broker
install_python
WORK="$(data_directory hostile)"
trap 'kill_broker; rm -rf "$WORK"' EXIT
write_requests "$WORK/requests"

# Attackers and clients are on one machine: hundreds of connections need as many descriptors.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
PORT="$(free_port)"
HTTP_PORT="$(free_port)"
start_broker "$WORK/data" "$PORT" --override "millstream.http.listener=127.0.0.1:$HTTP_PORT" \
  --override "millstream.memory.bytes=$((MEMORY_MIB << 20))" "${OVERRIDES[@]}" ||
  die "the broker did not start"

besieged() {
  "$PYTHON" -u "$SCRIPTS/clients/python/siege.py" "127.0.0.1:$PORT" "$HTTP_PORT" "$BROKER_PID" "$WORK/requests" \
    --seconds "$SECONDS_ATTACKED" --memory-mib "$MEMORY_MIB" "${SEED[@]}" 2>&1 | tee "$WORK/report"
}
works() {
  kill -0 "$BROKER_PID"
  "$PYTHON" "$SCRIPTS/clients/python/hostile.py" works "127.0.0.1:$PORT"
  python3 -c '
import sys, urllib.request
assert urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/healthz", timeout=5).read() == b"ok\n"' "$HTTP_PORT"
}
silent() {
  # Whatever a client sends is no reason for a panic, even one that was caught.
  ! grep -iE 'panic|overflow' "$BROKER_OUTPUT"
}
exit_code_is_zero() { [[ $1 == 0 ]] || { echo "exit code $1" && return 1; }; }

scenario $((SECONDS_ATTACKED + 120)) "attacked on all sides for $SECONDS_ATTACKED s: the good clients notice nothing" strict besieged
if ((FAILED == 0)); then sed 's/^/     /' "$WORK/report"; fi
scenario 60 "afterwards it works as before" strict works
scenario 5 "it says nothing of a panic" strict silent
code=0
stop_broker || code=$?
scenario 5 "SIGTERM ends it with exit code 0" exit_code_is_zero "$code"
finish_scenarios
