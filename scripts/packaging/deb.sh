#!/usr/bin/env bash
# A Debian package: the program, a unit of systemd that does not start by itself, a configuration, the documents for operators.
#   scripts/packaging/deb.sh [DIRECTORY]      (default: target/packages) prints the path of the package
# It packs the release build, or the program that MILLSTREAM_BINARY names: that of static.sh depends on no libc.
set -euo pipefail
source "$(dirname "$0")/../lib/common.sh"
source "$SCRIPTS/lib/install.sh"

need dpkg-deb dpkg || die "dpkg-deb is missing"
into="${1:-$ROOT/target/packages}"
build_broker >&2
version="$("$BROKER" --version | awk '{ print $2 }')"
arch="$(dpkg --print-architecture)"
tree="$(mktemp -d)"
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
here="$SCRIPTS/packaging"

install -D -m 755 "$BROKER" "$tree/usr/bin/millstream"
strip "$tree/usr/bin/millstream" 2>/dev/null || true
install -D -m 644 "$here/millstream.service" "$tree/lib/systemd/system/millstream.service"
install -D -m 644 "$here/server.properties" "$tree/etc/millstream/server.properties"
install -d "$tree/usr/share/doc/millstream/operations" "$tree/usr/share/millstream/monitoring"
install -m 644 "$ROOT"/docs/operations/*.md "$tree/usr/share/doc/millstream/operations"
install -m 644 "$ROOT/docs/metrics.md" "$tree/usr/share/doc/millstream"
install -m 644 "$SCRIPTS"/monitoring/{alerts.yml,prometheus.yml,dashboard.json} "$tree/usr/share/millstream/monitoring"
install -m 644 "$ROOT/LICENSE" "$tree/usr/share/doc/millstream/copyright"

# The newest version of libc that the program asks for; of a static one, none.
libc="$(grep -ao 'GLIBC_2\.[0-9]*' "$tree/usr/bin/millstream" | sort -uV | tail -1 || true)"
install -d "$tree/DEBIAN"
cat >"$tree/DEBIAN/control" <<CONTROL
Package: millstream
Version: $version
Architecture: $arch
Maintainer: The Millstream authors <millstream@localhost>
Section: net
Priority: optional
Depends: adduser${libc:+, libc6 (>= ${libc#GLIBC_}), libgcc-s1}
Installed-Size: $(du -sk "$tree" | cut -f1)
Description: durable streaming log broker that speaks the Kafka protocol
 What it has acknowledged is on the disk. Kafka's clients and tools talk to it unchanged.
CONTROL
echo /etc/millstream/server.properties >"$tree/DEBIAN/conffiles"
cat >"$tree/DEBIAN/postinst" <<'POSTINST'
#!/bin/sh
set -e
if [ "$1" = configure ]; then
  getent passwd millstream >/dev/null ||
    adduser --system --group --no-create-home --home /var/lib/millstream --quiet millstream
  install -d -o millstream -g millstream -m 750 /var/lib/millstream
  # An upgrade of one that runs takes effect when the operator restarts it: in a cluster one node after the other.
  if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
fi
POSTINST
cat >"$tree/DEBIAN/prerm" <<'PRERM'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then systemctl disable --now millstream.service || true; fi
PRERM
# The data stays, also after a purge: who wants it gone removes /var/lib/millstream.
cat >"$tree/DEBIAN/postrm" <<'POSTRM'
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
POSTRM
chmod 755 "$tree"/DEBIAN/{postinst,prerm,postrm}
mkdir -p "$into"
package="$into/millstream_${version}_$arch.deb"
dpkg-deb --root-owner-group --build "$tree" "$package" >/dev/null
say "$package"
