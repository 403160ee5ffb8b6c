#!/usr/bin/env bash
# A program that needs nothing of the machine but its kernel: linked statically with musl, stripped. Prints where it is.
#   scripts/packaging/static.sh
# It takes the Rust target ARCH-unknown-linux-musl (rustup) and musl-gcc (Debian: musl-tools, linux-libc-dev); it installs them where it can.
set -euo pipefail
source "$(dirname "$0")/../lib/common.sh"
source "$SCRIPTS/lib/install.sh"

arch="$(uname -m)" target="$(uname -m)-unknown-linux-musl"
rustup target list --installed 2>/dev/null | grep -qx "$target" || rustup target add "$target" || die "no Rust for $target"
need musl-gcc musl-tools linux-libc-dev || die "no C compiler for musl"
# What the C code in it needs of the kernel's headers, behind musl's own.
export "CFLAGS_${target//-/_}=-idirafter /usr/include -idirafter /usr/include/$arch-linux-gnu"
export CARGO_PROFILE_RELEASE_STRIP=symbols CARGO_PROFILE_RELEASE_DEBUG=none
cd "$ROOT"
cargo build --release --locked --bin millstream --target "$target"
built="${CARGO_TARGET_DIR:-$ROOT/target}/$target/release/millstream"
"$built" --version >/dev/null
if readelf --program-headers "$built" | grep -q INTERP; then die "$built is not static"; fi
say "$built"
