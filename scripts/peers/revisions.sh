#!/usr/bin/env bash
# This tree beside an earlier revision of it, in turn, round by round: is anything slower than before? Builds both in the
# release profile, cleans up. Takes about 20 minutes and, for the older one, another build.
#   scripts/peers/revisions.sh REVISION [OPTION OF millstream-bench compare ...]
# For example: scripts/peers/revisions.sh HEAD~10 --workloads bulk-4,single-1,tail --rounds 7 --markdown figures.md
# MILLSTREAM_BINARY and MILLSTREAM_BEFORE name programs that are already there: the same one twice shows what a difference
# between two equals looks like on this machine.
set -euo pipefail
source "$(dirname "$0")/../lib/common.sh"

[[ $# -ge 1 && ${1:0:1} != - ]] || die "usage: $0 REVISION [OPTION OF millstream-bench compare ...]"
revision="$(git -C "$ROOT" rev-parse --short "$1^{commit}")" || die "no revision $1 here"
shift
target="${CARGO_TARGET_DIR:-$ROOT/target}"

before="${MILLSTREAM_BEFORE:-}"
if [[ -z $before ]]; then
  sources="$(mktemp -d)"
  trap 'git -C "$ROOT" worktree remove --force "$sources/$revision"; rm -rf "$sources"' EXIT
  git -C "$ROOT" worktree add --quiet --detach "$sources/$revision" "$revision"
  (cd "$sources/$revision" && cargo build --release --locked --bin millstream --target-dir "$target/before")
  before="$target/before/release/millstream"
fi

build_broker
(cd "$ROOT" && cargo build --release -p millstream-bench)
parent="${MILLSTREAM_DATA_PARENT:-$ROOT/target}"
run="$SCRIPTS/peers/millstream.sh run {data} {port} {metrics}"
# What is not given: the workloads that tell most, and enough rounds to see past the noise.
options=("$@")
default() { [[ " ${options[*]} " == *" $1 "* ]] || options+=("$1" "$2"); }
default --workloads bulk-4,single-1,single-8,small-1000,tail-1
default --rounds 7
default --first-load 5
"$target/release/millstream-bench" compare --data-parent "$parent" --topic-config file.delete.delay.ms=1000 \
  --commit "$(git -C "$ROOT" describe --always --dirty 2>/dev/null || echo unknown)" \
  --broker "now=env MILLSTREAM_BINARY=$BROKER $run" --broker "$revision=env MILLSTREAM_BINARY=$before $run" "${options[@]}"
