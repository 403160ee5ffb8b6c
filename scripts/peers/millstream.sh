#!/usr/bin/env bash
# Millstream's release build with its default settings.
#   scripts/peers/millstream.sh run DATA PORT [METRICS-PORT]  stays in the foreground; prints `ready`
#   scripts/peers/millstream.sh node DATA PORT METRICS-PORT NODE VOTERS  the same for one node of a cluster, whose
#                                                             controller.quorum.voters are VOTERS: 1@127.0.0.1:9093,2@...
# MILLSTREAM_BINARY names the program; without it, the one of the last `cargo build --release`.
set -euo pipefail
source "$(dirname "$0")/../lib/common.sh"
BROKER="${MILLSTREAM_BINARY:-${CARGO_TARGET_DIR:-$ROOT/target}/release/millstream}"

verb="${1:-}" listeners="PLAINTEXT://127.0.0.1:${3:-}" cluster=()
case "$verb" in
  run) (($# >= 3)) || die "usage: $0 run DATA PORT [METRICS-PORT]" ;;
  node)
    (($# == 6)) || die "usage: $0 node DATA PORT METRICS-PORT NODE VOTERS"
    for voter in ${6//,/ }; do
      if [[ $voter == "$5@"* ]]; then listeners+=",CONTROLLER://${voter#*@}"; fi
    done
    cluster=(--override "node.id=$5" --override "controller.quorum.voters=$6" --override controller.listener.names=CONTROLLER)
    # The nodes are on the same processors: those that poll keep each other from running.
    cluster+=(--override millstream.poll.us=0)
    ;;
  *) sed -n '2,6s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
[[ -x $BROKER ]] || die "no broker at $BROKER: cargo build --release"
exec "$BROKER" serve --override "listeners=$listeners" --override "log.dirs=$2" \
  --override "millstream.http.listener=${4:+127.0.0.1:$4}" "${cluster[@]}"
