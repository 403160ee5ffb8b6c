#!/usr/bin/env bash
# Millstream's release build with its default settings.
#   scripts/peers/millstream.sh run DATA PORT [METRICS-PORT]  stays in the foreground; prints `ready`
# MILLSTREAM_BINARY names the program; without it, the one of the last `cargo build --release`.
set -euo pipefail
source "$(dirname "$0")/../lib/common.sh"
BROKER="${MILLSTREAM_BINARY:-${CARGO_TARGET_DIR:-$ROOT/target}/release/millstream}"

[[ ${1:-} == run && $# -ge 3 ]] || die "usage: $0 run DATA PORT [METRICS-PORT]"
[[ -x $BROKER ]] || die "no broker at $BROKER: cargo build --release"
exec "$BROKER" serve --override "listeners=PLAINTEXT://127.0.0.1:$3" --override "log.dirs=$2" \
  --override "millstream.http.listener=${4:+127.0.0.1:$4}"
