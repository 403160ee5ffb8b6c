# Shared by every script in this folder: where things lie, ports, and starting and stopping a broker.
# Sourced, never run. The caller has `set -euo pipefail`.

SCRIPTS="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
ROOT="$(dirname "$SCRIPTS")"
CACHE="${MILLSTREAM_SCRIPTS_CACHE:-$SCRIPTS/.cache}"
mkdir -p "$CACHE"

say() { printf '%s\n' "$*"; }
die() {
  printf '%s\n' "$*" >&2
  exit 1
}

# A TCP port of 127.0.0.1 that nobody listens on. MILLSTREAM_PORTS=first-last keeps it inside a range.
free_port() {
  python3 - "${MILLSTREAM_PORTS:-}" <<'PY'
import random, socket, sys
wanted = sys.argv[1]
if wanted:
    first, last = (int(part) for part in wanted.split("-"))
    candidates = list(range(first, last + 1))
    random.shuffle(candidates)
else:
    candidates = [0]
for port in candidates:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            continue
        print(listener.getsockname()[1])
        break
else:
    sys.exit("no free port in " + wanted)
PY
}

# True when somebody listens on port $1 of 127.0.0.1.
accepts() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A directory for broker data, on the disk that the builds use: /tmp is often memory, which has no O_DIRECT.
data_directory() {
  local parent="${MILLSTREAM_DATA_PARENT:-$ROOT/target}"
  mkdir -p "$parent"
  mktemp -d "$parent/$1.XXXXXX"
}

# Builds the broker once a script run. MILLSTREAM_BINARY names one that is already there.
build_broker() {
  if [[ -n ${MILLSTREAM_BINARY:-} ]]; then
    BROKER="$MILLSTREAM_BINARY"
  else
    say "building the broker (cargo build --release)"
    (cd "$ROOT" && cargo build --release --bin millstream)
    BROKER="${CARGO_TARGET_DIR:-$ROOT/target}/release/millstream"
  fi
  [[ -x $BROKER ]] || die "no broker at $BROKER"
}

# Writes a good request of every API and version to file $1: those that fuzzing begins with, and that attacks damage.
# MILLSTREAM_MUTATE names the program that does it, already built.
write_requests() {
  local mutate="${MILLSTREAM_MUTATE:-}" built="${CARGO_TARGET_DIR:-$ROOT/target}"
  if [[ -z $mutate ]]; then
    (cd "$ROOT" && cargo build --quiet --locked --manifest-path fuzz/Cargo.toml --bin mutate --target-dir "$built")
    mutate="$built/debug/mutate"
  fi
  "$mutate" --write-requests "$1"
}

# start_broker DATA PORT [--override key=value ...]: returns when the broker has printed its ready line.
# Sets BROKER_PID and BROKER_OUTPUT. Waits READY_SECONDS (default 20) at most.
start_broker() {
  local data="$1" port="$2"
  shift 2
  BROKER_OUTPUT="$data.out"
  : >"$BROKER_OUTPUT"
  "$BROKER" serve --override "listeners=PLAINTEXT://127.0.0.1:$port" --override "log.dirs=$data" \
    --override millstream.http.listener= "$@" >"$BROKER_OUTPUT" 2>&1 </dev/null &
  BROKER_PID=$!
  local waited=0
  until grep -q ready "$BROKER_OUTPUT"; do
    if ! kill -0 "$BROKER_PID" 2>/dev/null; then
      sed 's/^/  broker: /' "$BROKER_OUTPUT" | tail -20
      BROKER_PID=
      return 1
    fi
    waited=$((waited + 1))
    if ((waited > ${READY_SECONDS:-20} * 20)); then
      say "the broker printed no ready line in ${READY_SECONDS:-20} s"
      tail -20 "$BROKER_OUTPUT"
      return 1
    fi
    sleep 0.05
  done
}

# Waits until process $1 (a child of this shell) has ended, $2 seconds at most; returns its exit code, 124 when it has not ended.
wait_for_exit() {
  local pid="$1" tenths=$(($2 * 10)) code=0
  while kill -0 "$pid" 2>/dev/null; do
    ((tenths-- > 0)) || return 124
    sleep 0.1
  done
  wait "$pid" || code=$?
  return "$code"
}

# SIGTERM, and SIGKILL when that has not ended it within 30 seconds. Returns the exit code, or 124 when it had to be killed.
stop_broker() {
  [[ -n ${BROKER_PID:-} ]] || return 0
  local pid="$BROKER_PID" code=0
  BROKER_PID=
  kill -TERM "$pid" 2>/dev/null || true
  wait_for_exit "$pid" 30 || code=$?
  if ((code == 124)); then
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  fi
  return "$code"
}

kill_broker() {
  [[ -n ${BROKER_PID:-} ]] || return 0
  local pid="$BROKER_PID"
  BROKER_PID=
  kill -KILL "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
}

# Milliseconds since some time.
now_ms() { date +%s%3N; }

# Waits until $2... succeeds, UNTIL_SECONDS at most; $1 says what is so then.
UNTIL_SECONDS=20
until_so() {
  local what="$1" left=$((UNTIL_SECONDS * 20))
  shift
  until "$@"; do
    ((left-- > 0)) || die "not within $UNTIL_SECONDS s: $what"
    sleep 0.05
  done
}
