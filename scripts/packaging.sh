#!/usr/bin/env bash
# What the broker is installed with, tried as far as a machine without a container engine and without systemd lets it: the unit is
# valid, the Debian package holds what it should, and a broker works under the containers' seccomp profile, and not without io_uring.
#   scripts/packaging.sh
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"
source "$SCRIPTS/lib/install.sh"
HERE="$SCRIPTS/packaging"

build_broker
WORK="$(data_directory packaging)"
trap 'kill_broker; rm -rf "$WORK"' EXIT

if need systemd-analyze systemd; then
  # The program that it starts is not installed here.
  sed 's#^ExecStart=/usr/bin/millstream#ExecStart=/bin/true#' "$HERE/millstream.service" >"$WORK/millstream.service"
  complaint="$(systemd-analyze verify "$WORK/millstream.service" 2>&1 | grep -F millstream.service || true)"
  [[ -z $complaint ]] || die "FAILED: the unit: $complaint"
  systemd-analyze security --offline=yes --threshold=25 "$WORK/millstream.service" >/dev/null || die "FAILED: the unit lets too much through"
  say "ok: the unit of systemd"
else
  say "skip the unit: no systemd-analyze"
fi

if need dpkg-deb dpkg; then
  MILLSTREAM_BINARY="$BROKER" "$HERE/deb.sh" "$WORK" >/dev/null
  dpkg-deb --extract "$WORK"/millstream_*.deb "$WORK/root"
  "$WORK/root/usr/bin/millstream" doctor "$WORK/root/etc/millstream/server.properties" --override "log.dirs=$WORK/data" \
    --override "listeners=PLAINTEXT://127.0.0.1:$(free_port)" --override millstream.http.listener= --json >/dev/null 2>&1 ||
    die "FAILED: what the package holds cannot start"
  for file in lib/systemd/system/millstream.service usr/share/doc/millstream/operations/install.md usr/share/millstream/monitoring/alerts.yml; do
    [[ -s $WORK/root/$file ]] || die "FAILED: the package lacks $file"
  done
  say "ok: the Debian package"
else
  say "skip the package: no dpkg-deb"
fi

# Debian's module of libseccomp is one of Debian's Python.
python=/usr/bin/python3
if "$python" -c 'import seccomp' 2>/dev/null || { install_debian python3-seccomp && "$python" -c 'import seccomp'; }; then
  # The program itself is what start_broker starts: through a file that goes through the profile.
  real="$BROKER"
  # $1: file, $2: what is forbidden besides.
  write_confined() {
    printf '#!/bin/sh\nexec %q %q %q --without %q %q "$@"\n' "$python" "$HERE/under_seccomp.py" "$HERE/seccomp.json" "$2" "$real" >"$1"
    chmod +x "$1"
  }
  write_confined "$WORK/confined" ""
  write_confined "$WORK/forbidden" io_uring_setup
  PORT="$(free_port)"
  AT=(--bootstrap-server "127.0.0.1:$PORT")
  BROKER="$WORK/confined"
  start_broker "$WORK/data" "$PORT" || die "FAILED: it does not start under the seccomp profile"
  grep -qx 'Seccomp:[[:space:]]*2' "/proc/$BROKER_PID/status" || die "FAILED: it is not under the profile"
  "$real" topic create confined "${AT[@]}" --partitions 2 --config segment.bytes=1048576 >/dev/null
  seq 1 200000 | sed 's/$/ and some more of it/' | "$real" produce confined "${AT[@]}" >/dev/null
  [[ $("$real" consume confined "${AT[@]}" | wc -l) == 200000 ]] || die "FAILED: records are missing"
  "$real" topic delete confined "${AT[@]}" >/dev/null
  code=0
  stop_broker || code=$?
  ((code == 0)) || die "FAILED: it ends with $code under the seccomp profile"
  said="$("$WORK/forbidden" serve --override "listeners=PLAINTEXT://127.0.0.1:$PORT" --override "log.dirs=$WORK/data" 2>&1)" &&
    die "FAILED: it starts without io_uring"
  [[ $said == *"io_uring is forbidden"* ]] || die "FAILED: without io_uring it says: $said"
  say "ok: the seccomp profile"
else
  say "skip the seccomp profile: no python3-seccomp"
fi
