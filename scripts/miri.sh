#!/usr/bin/env bash
# Runs the tests of the code with `unsafe` blocks that does no I/O under Miri, which finds undefined behaviour that a test
# run does not show: storage's blocks, the broker's allocator, and the memory of its ring's writes.
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"

usage() {
  cat <<'TEXT'
scripts/miri.sh                  the tests of these files, one after the other
It takes a nightly Rust with Miri. Where there is a nightly, Miri is installed with rustup; otherwise nothing is run.
TEXT
}

case "${1:-}" in
  '') ;;
  -h | --help) usage && exit 0 ;;
  *) usage >&2 && exit 2 ;;
esac

skip() {
  say "skip Miri: $*"
  exit 0
}

command -v rustup >/dev/null || skip "rustup is not on this machine"
rustup toolchain list | grep -q '^nightly' || skip "there is no nightly Rust; rustup toolchain install nightly --profile minimal"
if ! cargo +nightly miri --version >/dev/null 2>&1; then
  rustup component add miri rust-src --toolchain nightly >/dev/null 2>&1 || skip "this nightly Rust has none"
fi

cd "$ROOT"
# Miri interprets: what waits for other threads or the kernel is left out. A filter that no longer matches a test is an error.
run() {
  local crate="$1" output
  shift
  say "miri: $crate $*"
  output="$(cargo +nightly miri test --quiet --locked -p "$crate" --lib -- "$@" 2>&1)" || die "$output"
  grep -q 'test result: ok. [1-9]' <<<"$output" || die "no test of $crate matches $*"
}

run millstream-storage block::tests
run millstream driver::allocator::tests driver::ring::tests::only_what_the_disk_cannot_take_is_copied
say "miri: no undefined behaviour"
