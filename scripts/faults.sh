#!/usr/bin/env bash
# The errors that people meet first, and hostile bytes, against the real process: each checks the message and the exit code.
#   scripts/faults.sh
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"
source "$SCRIPTS/lib/install.sh"
source "$SCRIPTS/lib/scenarios.sh"

build_broker
install_python
WORK="$(data_directory faults)"
MOUNTED=()
clean_up() {
  kill_broker
  local each
  for each in "${MOUNTED[@]}"; do umount -l "$each" 2>/dev/null || true; done
  rm -rf "$WORK"
}
trap clean_up EXIT
PORT="$(free_port)"
hostile() { "$PYTHON" "$SCRIPTS/clients/python/hostile.py" "$@"; }

# refused SECONDS PATTERN ARG...: `serve` with these arguments ends with an exit code that is neither 0 nor a signal's, prints
# one line on standard error that holds the pattern, and nothing that says "ready".
refused() {
  local pattern="$1" code=0
  shift
  timeout 20 "$BROKER" serve "$@" >"$WORK/refused.out" 2>"$WORK/refused.err" </dev/null || code=$?
  cat "$WORK/refused.out" "$WORK/refused.err"
  ((code > 0 && code < 124)) || { echo "exit code $code" && return 1; }
  grep -qE -- "$pattern" "$WORK/refused.err" || { echo "no /$pattern/" && return 1; }
  [[ $(grep -c . "$WORK/refused.err") == 1 ]] || { echo "more than one line" && return 1; }
  ! grep -q ready "$WORK/refused.out"
}
common() { OPTIONS=(--override "listeners=PLAINTEXT://127.0.0.1:$PORT" --override "log.dirs=$1" --override millstream.http.listener=); }

port_taken() {
  python3 -c '
import socket, sys, time
held = socket.socket(); held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
held.bind(("127.0.0.1", int(sys.argv[1]))); held.listen(); time.sleep(60)' "$PORT" &
  local holder=$! code=0
  until (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; do sleep 0.05; done
  common "$WORK/port"
  refused "127.0.0.1:$PORT is taken" "${OPTIONS[@]}" || code=1
  kill "$holder"
  return "$code"
}
directory_locked() {
  common "$WORK/data"
  OPTIONS[1]="listeners=PLAINTEXT://127.0.0.1:$(free_port)"
  refused "in use by process $BROKER_PID" "${OPTIONS[@]}"
}
unknown_property() {
  common "$WORK/unknown"
  refused "num.partition\".*did you mean num.partitions" "${OPTIONS[@]}" --override num.partition=3
  printf 'log.retention.hour=3\n' >"$WORK/server.properties"
  refused "did you mean log.retention.hours" "$WORK/server.properties" "${OPTIONS[@]}"
}
bad_value() {
  common "$WORK/bad"
  refused "num.partitions" "${OPTIONS[@]}" --override num.partitions=many
}
no_permission() {
  common /proc/millstream
  refused "data directory" "${OPTIONS[@]}"
}
still_works() {
  kill -0 "$BROKER_PID" || { tail -20 "$BROKER_OUTPUT" && return 1; }
  hostile works "127.0.0.1:$PORT"
}
attacked() {
  hostile "$@"
  still_works
}
# The broker is this shell's child: the scenario that ends it runs here, not in a subshell.
exit_code_is_zero() { [[ $1 == 0 ]] || { echo "exit code $1" && return 1; }; }
terminated() {
  local signal="$1" code=0 pid="$BROKER_PID"
  kill -"$signal" "$pid"
  wait_for_exit "$pid" 30 || code=$?
  if ((code == 124)); then kill -KILL "$pid"; fi
  BROKER_PID=
  scenario 5 "SIG$signal ends it with exit code 0" exit_code_is_zero "$code"
}

scenario 40 "a taken port: one line that names it" strict port_taken
scenario 40 "an unknown property: refused, with the nearest known one" strict unknown_property
scenario 40 "a value that is no number: refused, with the property's name" strict bad_value
scenario 40 "a data directory that cannot be made: refused" strict no_permission

start_broker "$WORK/data" "$PORT" || die "the broker did not start"
scenario 40 "a second broker in the same directory: refused, with the process id of the first" strict directory_locked
scenario 60 "garbage on the port" strict attacked garbage 127.0.0.1 "$PORT"
scenario 60 "lengths of two GiB and below zero" strict attacked huge_length 127.0.0.1 "$PORT"
scenario 60 "counts of two milliards" strict attacked huge_count 127.0.0.1 "$PORT"
scenario 60 "frames that end too early or come a byte at a time" strict attacked truncated 127.0.0.1 "$PORT"
scenario 60 "a hundred promises of 64 MiB" strict attacked promises 127.0.0.1 "$PORT" "$BROKER_PID"
terminated TERM
start_broker "$WORK/data" "$PORT" || die "the broker did not start again"
scenario 60 "it works after a restart" strict still_works
terminated INT

# A full disk: a file system of its own, small enough to fill.
image="$WORK/disk.img" MOUNT="$WORK/mount"
mkdir -p "$MOUNT"
full_disk() {
  local topic="full-$RANDOM" bootstrap="127.0.0.1:$PORT" free
  "$PYTHON" "$SCRIPTS/clients/python/with_confluent.py" produce "$bootstrap" "$topic" 1 20000 none all full
  "$PYTHON" "$SCRIPTS/clients/python/with_confluent.py" produce "$bootstrap" "$topic-doomed" 1 2000 none all full
  free="$(df --output=avail -B1 "$MOUNT" | tail -1)"
  echo "$((free >> 20)) MiB free before the disk is filled"
  # Everything but a MiB: below any floor.
  fallocate -l "$((free - (1 << 20)))" "$MOUNT/ballast"
  hostile full "$bootstrap" "$topic" "$topic-doomed"
  rm "$MOUNT/ballast"
  hostile recovered "$bootstrap" "$topic"
  kill -0 "$BROKER_PID"
}
full_at_start() {
  local free
  free="$(df --output=avail -B1 "$MOUNT" | tail -1)"
  fallocate -l "$free" "$MOUNT/ballast" || dd if=/dev/zero "of=$MOUNT/ballast" bs=1M status=none || true
  common "$MOUNT/new"
  refused "[Nn]o space" "${OPTIONS[@]}"
  rm "$MOUNT/ballast"
}
if truncate -s 2G "$image" && mkfs.ext4 -q -F -m 0 "$image" 2>/dev/null && mount -o loop "$image" "$MOUNT" 2>/dev/null; then
  MOUNTED=("$MOUNT")
  READY_SECONDS=60
  if start_broker "$MOUNT/data" "$PORT" --override millstream.shards=1; then
    scenario 150 "a full disk: produce gets a retriable error, fetch and delete go on, recovery without a restart" strict full_disk
    terminated TERM
  else
    scenario 5 "the broker starts on a file system of 2 GB" false
  fi
  scenario 60 "a full disk at the start: refused" strict full_at_start
else
  skip "a full disk: a loop device cannot be mounted here (it takes root and /dev/loop-control)"
fi

# A disk that fails: a device in a file that is larger than the file system which that file lies on. Once that one is full,
# writes to the device fail with EIO, and they succeed again when it is enlarged.
SMALL="$WORK/small" BROKEN="$WORK/broken"
mkdir -p "$SMALL" "$BROKEN"
# What the broker says goes to the good disk.
mkdir -p "$BROKEN"
ln -s "$BROKEN/data" "$WORK/failing"
failing_disk() { hostile until_death "127.0.0.1:$PORT" failing "$WORK/acknowledged"; }
said_why() {
  tail -3 "$BROKER_OUTPUT"
  (($1 > 0 && $1 < 124)) || { echo "exit code $1" && return 1; }
  grep -qE "ERROR .*(Input/output error|Read-only file system).*exiting" "$BROKER_OUTPUT"
}
repaired_disk() {
  umount "$BROKEN"
  mount -o remount,size=3G "$SMALL"
  # The file system on it has seen errors too.
  e2fsck -fy "$SMALL/disk.img" >/dev/null || (($? < 4))
  mount -o loop "$SMALL/disk.img" "$BROKEN"
}
kept_everything() { hostile all_there "127.0.0.1:$PORT" failing "$WORK/acknowledged"; }
if [[ ${#MOUNTED[@]} -gt 0 ]] && mount -t tmpfs -o size=400M tmpfs "$SMALL" && MOUNTED+=("$SMALL") &&
  truncate -s 2G "$SMALL/disk.img" && mkfs.ext4 -q -F -m 0 "$SMALL/disk.img" 2>/dev/null && mount -o loop "$SMALL/disk.img" "$BROKEN"; then
  MOUNTED=("$BROKEN" "${MOUNTED[@]}")
  mkdir "$BROKEN/data"
  if start_broker "$WORK/failing" "$PORT" --override millstream.shards=1; then
    scenario 150 "a disk that fails: the broker acknowledges no more" strict failing_disk
    code=0
    wait_for_exit "$BROKER_PID" 30 || code=$?
    scenario 5 "it says why and exits with an error" strict said_why "$code"
    ((code != 124)) || kill_broker
    BROKER_PID=
    if repaired_disk && start_broker "$WORK/failing" "$PORT" --override millstream.shards=1; then
      scenario 60 "and after a restart all that it acknowledged is there" strict kept_everything
      terminated TERM
    else
      scenario 5 "the broker starts again on the repaired disk" false
    fi
  else
    scenario 5 "the broker starts on a device in memory" false
  fi
else
  skip "a disk that fails: a loop device on tmpfs cannot be mounted here"
fi

finish_scenarios
