#!/usr/bin/env bash
# Runs the simulator with fresh seeds until one fails, or until it has run for long enough. A seed that fails prints the
# command that runs it again, with all that happens.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'TEXT'
scripts/sim.sh [--seconds N] [--seeds N] [--first SEED]
  --seconds N    stop after N seconds
  --seeds N      stop after N seeds of each simulation
  --first SEED   begin with this seed instead of a random one
Without --seconds and --seeds it goes on until a seed fails.
TEXT
}

seconds=0
seeds=0
first=$((RANDOM << 30 | RANDOM << 15 | RANDOM))
while [ $# -gt 0 ]; do
  case "$1" in
    --seconds) seconds=$2; shift 2 ;;
    --seeds) seeds=$2; shift 2 ;;
    --first) first=$2; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done

# Seeds between two looks at the clock.
chunk=20
cargo test --quiet -p millstream --lib --locked --no-run
start=$SECONDS
ran=0
while :; do
  if [ "$seconds" -gt 0 ] && [ $((SECONDS - start)) -ge "$seconds" ]; then break; fi
  if [ "$seeds" -gt 0 ] && [ "$ran" -ge "$seeds" ]; then break; fi
  if [ "$seeds" -gt 0 ] && [ $((seeds - ran)) -lt "$chunk" ]; then chunk=$((seeds - ran)); fi
  # What a test prints is shown when it fails.
  MILLSTREAM_SIM_FIRST=$((first + ran)) MILLSTREAM_SIM_SEEDS=$chunk \
    cargo test --quiet -p millstream --lib --locked -- --exact \
    sim::logs::tests::logs_keep_what_they_acknowledge sim::cluster::tests::clients_lose_nothing
  ran=$((ran + chunk))
done
echo "seeds $first to $((first + ran - 1)) of both simulations: no failure in $((SECONDS - start)) s"
