#!/usr/bin/env bash
# The page of the HTTP port in a real browser: headless Chromium opens it over a broker with 3,000 partitions, records and a
# group that lags; what it shows is compared with what was written; it is filtered, sorted, made narrow, dark; an error on
# its console fails the test.
#   scripts/page.sh [--screenshots DIRECTORY]
# Ends with 0 and a line that begins with "skip" where Chromium cannot be had.
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"
source "$SCRIPTS/lib/install.sh"

SCREENSHOTS=
while (($#)); do
  case "$1" in
    --screenshots) mkdir -p "$2" && SCREENSHOTS="$(cd "$2" && pwd)" ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0" && exit 2 ;;
  esac
  shift 2
done

CHROMIUM="$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)"
if [[ -z $CHROMIUM ]] && need chromium chromium; then CHROMIUM="$(command -v chromium)"; fi
if [[ -z $CHROMIUM ]]; then
  say "skip: no Chromium here, and none could be installed"
  exit 0
fi
install_page || { say "skip: no Node.js here, and none could be installed" && exit 0; }
build_broker
WORK="$(data_directory page)"
trap 'kill_broker; rm -rf "$WORK"' EXIT
PORT="$(free_port)" HTTP="127.0.0.1:$(free_port)"
start_broker "$WORK/data" "$PORT" --override millstream.shards=2 --override "millstream.http.listener=$HTTP" \
  || die "the broker did not start"
code=0
BROKER_PID="$BROKER_PID" NODE_PATH="$CACHE/page/node_modules" \
  timeout --kill-after=5 180 node "$SCRIPTS/page/look.js" "127.0.0.1:$PORT" "$HTTP" "$CHROMIUM" "$SCREENSHOTS" </dev/null || code=$?
if ((code != 0)); then
  say "the page failed (exit code $code); the broker's log ends with"
  tail -5 "$BROKER_OUTPUT"
  exit 1
fi
say "the page shows what is there"
