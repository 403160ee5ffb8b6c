#!/usr/bin/env bash
# Runs the fuzz targets of fuzz/, one after the other, until one fails or each has run for its time.
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"

usage() {
  cat <<'TEXT'
scripts/fuzz.sh [--seconds N] [TARGET...]          libFuzzer, N seconds for each target (60); all targets if none is named
scripts/fuzz.sh --stable [--seconds N] [--seed N] [TARGET...]
                                                   damaged seeds instead of libFuzzer: any Rust, no coverage
scripts/fuzz.sh --replay TARGET FILE...            these inputs once more, with any Rust
scripts/fuzz.sh --list                             the targets
libFuzzer takes a nightly Rust, cargo-fuzz (both are installed if rustup is there) and a C++ compiler. What it finds goes to
fuzz/artifacts, what it learns to fuzz/corpus; neither is in git.
TEXT
}

SECONDS_EACH=60 MODE=libfuzzer ARGUMENTS=() TARGETS=()
while (($#)); do
  case "$1" in
    --seconds) SECONDS_EACH="$2" && shift ;;
    --seed) ARGUMENTS+=(--seed "$2") && shift ;;
    --stable) MODE=stable ;;
    --list) MODE=list ;;
    --replay) MODE=replay ;;
    -h | --help) usage && exit 0 ;;
    -*) usage >&2 && exit 2 ;;
    *) TARGETS+=("$1") ;;
  esac
  shift
done

# The runner for any Rust shares the workspace's target directory, and with it most of what is compiled there.
BUILT="${CARGO_TARGET_DIR:-$ROOT/target}"
build_mutate() {
  cargo build --quiet --locked --manifest-path "$ROOT/fuzz/Cargo.toml" --bin mutate --target-dir "$BUILT"
  MUTATE="$BUILT/debug/mutate"
}

install_libfuzzer() {
  command -v rustup >/dev/null || die "rustup is missing: libFuzzer takes a nightly Rust. Without one: scripts/fuzz.sh --stable"
  command -v c++ >/dev/null || command -v clang++ >/dev/null || die "a C++ compiler is missing: libFuzzer is built from C++"
  if ! rustup toolchain list | grep -q '^nightly'; then
    say "installing a nightly Rust"
    rustup toolchain install nightly --profile minimal
  fi
  if ! cargo fuzz --version >/dev/null 2>&1; then
    say "installing cargo-fuzz"
    cargo install --locked cargo-fuzz
  fi
}

build_mutate
case "$MODE" in
  list) exec "$MUTATE" --list ;;
  replay) exec "$MUTATE" --replay "${TARGETS[@]}" ;;
  stable) exec "$MUTATE" --seconds "$SECONDS_EACH" "${ARGUMENTS[@]}" "${TARGETS[@]}" ;;
esac

install_libfuzzer
((${#TARGETS[@]} > 0)) || mapfile -t TARGETS < <("$MUTATE" --list)
cd "$ROOT"
for target in "${TARGETS[@]}"; do
  corpus="fuzz/corpus/$target"
  "$MUTATE" --write-seeds "$target" "$corpus"
  say "$target: $SECONDS_EACH s"
  # No input may take 25 s or a GiB at once, whatever language allocates it; each target states a bound of its own on
  # what Rust holds. Leaks are left out: what is static is reachable, and there is no code that forgets.
  code=0
  ASAN_OPTIONS=detect_leaks=0 cargo +nightly fuzz run --fuzz-dir fuzz --features libfuzzer "$target" "$corpus" -- \
    -max_total_time="$SECONDS_EACH" -timeout=25 -rss_limit_mb=4096 -malloc_limit_mb=1024 -print_final_stats=1 \
    >"fuzz/corpus/$target.log" 2>&1 || code=$?
  if ((code != 0)); then
    tail -60 "fuzz/corpus/$target.log"
    say "$target failed. Once more with any Rust: scripts/fuzz.sh --replay $target $(ls -t "fuzz/artifacts/$target"/* | head -1)"
    exit 1
  fi
  say "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "fuzz/corpus/$target.log") inputs, no failure"
done
