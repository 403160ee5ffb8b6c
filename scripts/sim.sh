#!/usr/bin/env bash
# Runs the simulator with fresh seeds until one fails, or until it has run for long enough. A seed that fails prints the
# command that runs it again, with all that happens.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'TEXT'
scripts/sim.sh [--seconds N] [--seeds N] [--first SEED] [--jobs N] [--only NAME] [--built] [--traces FILE]
  --seconds N    stop after N seconds
  --seeds N      stop after N seeds of each simulation
  --first SEED   begin with this seed instead of a random one
  --jobs N       run so many seeds at the same time (1)
  --only NAME    run one simulation: logs (shard logs without sessions), node (a world of one node), world (one of several
                 nodes), controller (three controllers and their links), quorum, replica (the replicas of a partition, without
                 bytes), or streams (shards of two nodes and the network between them)
  --traces FILE  write the fingerprint of every seed to FILE, sorted: a change that only moves code leaves all as they are
  --built        use what "cargo test --workspace" has built, instead of optimising for some minutes: fewer seeds a second
Without --seconds and --seeds it goes on until a seed fails.
TEXT
}

seconds=0
seeds=0
jobs=1
only=
built=
traces=
first=$((RANDOM << 30 | RANDOM << 15 | RANDOM))
while [ $# -gt 0 ]; do
  case "$1" in
    --seconds) seconds=$2; shift 2 ;;
    --seeds) seeds=$2; shift 2 ;;
    --first) first=$2; shift 2 ;;
    --jobs) jobs=$2; shift 2 ;;
    --only) only=$2; shift 2 ;;
    --built) built=yes; shift ;;
    --traces) traces=$2; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done

simulations=()
add() { if [ -z "$only" ] || [ "$only" = "$1" ]; then simulations+=("$2"); fi; }
add logs sim::logs::tests::logs_keep_what_they_acknowledge
add node sim::world::tests::clients_lose_nothing
add world sim::world::tests::several_nodes_lose_nothing
add controller controller::sim::three_controllers_agree
add quorum quorum::sim::members_agree
add replica replica::model::replicas_keep_what_is_committed
add streams sim::streams::shards_of_two_nodes_keep_streams_to_whom_they_follow
if [ ${#simulations[@]} -eq 0 ]; then usage >&2; exit 2; fi

# Optimised, with every assertion.
test=(cargo test --quiet --profile sim -p millstream -p millstream-replication --lib --locked)
if [ -n "$built" ]; then test=(cargo test --quiet --workspace --lib --locked); fi
"${test[@]}" --no-run
# Each seed makes and drops whole disks: memory is kept between them, or the kernel would clear it each time.
export MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_MMAP_THRESHOLD_=4000000000

output=$(mktemp -d)
trap 'rm -rf "$output"' EXIT
start=$SECONDS

is_over() {
  { [ "$seconds" -gt 0 ] && [ $((SECONDS - start)) -ge "$seconds" ]; } || { [ "$seeds" -gt 0 ] && [ "$1" -ge "$seeds" ]; }
}

# Runs every $jobs-th chunk of seeds, from chunk $1 on. Chunks are smaller than what the tests expect every kind of fault of.
# Between two chunks it looks at the clock, and whether another job has found something.
job() {
  local chunk=25 ran count
  # Two thousand of these take no longer than to start them.
  if [ "${simulations[*]}" = replica::model::replicas_keep_what_is_committed ]; then chunk=2000; fi
  ran=$(($1 * chunk))
  while ! is_over "$ran" && [ ! -e "$output/failed" ]; do
    count=$chunk
    if [ "$seeds" -gt 0 ] && [ $((seeds - ran)) -lt "$chunk" ]; then count=$((seeds - ran)); fi
    # What a test prints is shown when it fails.
    if ! env ${traces:+MILLSTREAM_SIM_TRACES="$output/traces.$1"} \
      MILLSTREAM_SIM_FIRST=$((first + ran)) MILLSTREAM_SIM_SEEDS=$count "${test[@]}" -- --exact --test-threads 1 \
      "${simulations[@]}" > "$output/$1" 2>&1; then
      touch "$output/failed"
      cat "$output/$1"
      return 1
    fi
    echo "$count" >> "$output/ran"
    ran=$((ran + jobs * chunk))
  done
}

pids=()
for index in $(seq 0 $((jobs - 1))); do
  job "$index" &
  pids+=($!)
done
failures=0
for pid in "${pids[@]}"; do
  wait "$pid" || failures=$((failures + 1))
done
ran=$(awk '{ sum += $1 } END { print sum + 0 }' "$output/ran" 2>/dev/null || echo 0)
if [ "$failures" -gt 0 ]; then
  echo "a seed from $first on failed, after $ran seeds of ${#simulations[@]} simulations that did not" >&2
  exit 1
fi
if [ -n "$traces" ]; then sort -k1,1 -k2,2n "$output"/traces.* > "$traces"; fi
echo "$ran seeds from $first on, of ${#simulations[@]} simulations: no failure in $((SECONDS - start)) s"
