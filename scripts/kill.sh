#!/usr/bin/env bash
# kill -9 of the broker under full load, again and again, with real idempotent producers (franz-go); then every record is read.
#   scripts/kill.sh [--times 50] [--gigabytes 0] [--shards-cycle] [--no-time-limit] [--bite] [--command 'BROKER {data} {port}'] [more flags]
# After each restart the broker must be ready within a second. --gigabytes 20 first writes 20 GB. --shards-cycle starts with
# 1, 2, 3 shards in turn. --bite shows that the check notices a loss, a duplicate, a changed order and changed content.
# --command runs another broker, for example: --no-time-limit --command "$PWD/scripts/kafka.sh run {data} {port}".
# More flags: --seed, --producers, --partitions, --record-bytes, --verify-every.
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"
source "$SCRIPTS/lib/install.sh"

FLAGS=() COMMAND= SHARDS=
while (($#)); do
  case "$1" in
    --shards-cycle) SHARDS=1,2,3 ;;
    --no-time-limit) FLAGS+=(--ready-max 0) ;;
    --bite) FLAGS+=(--bite) ;;
    --command) COMMAND="$2" && shift ;;
    --times | --gigabytes | --seed | --producers | --partitions | --record-bytes | --verify-every) FLAGS+=("$1" "$2") && shift ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0" && exit 2 ;;
  esac
  shift
done

install_franz
if [[ -n $COMMAND ]]; then
  read -ra BROKER_COMMAND <<<"$COMMAND"
else
  build_broker
  BROKER_COMMAND=("$BROKER" serve --override "listeners=PLAINTEXT://127.0.0.1:{port}" --override "log.dirs={data}" --override millstream.http.listener=)
  if [[ -n $SHARDS ]]; then
    BROKER_COMMAND+=(--override "millstream.shards={shards}")
    FLAGS+=(--shards "$SHARDS")
  fi
fi
data="$(data_directory kill)"
trap 'rm -rf "$data" "$data.out"' EXIT
"$FRANZ" kill "${FLAGS[@]}" --data "$data" --bootstrap "127.0.0.1:$(free_port)" "${BROKER_COMMAND[@]}"
say "1 passed, 0 failed"
