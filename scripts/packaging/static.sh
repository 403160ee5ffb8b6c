#!/usr/bin/env bash
# A program that needs nothing of the machine but its kernel: linked statically, stripped. Prints where it is.
#   scripts/packaging/static.sh
# It takes Debian's libc6-dev, which has the static glibc. Not musl: glommio 0.9 does not compile for it (its stall detector moves a
# timer, which is a pointer there, to another thread), and musl's allocator is the slower one.
set -euo pipefail
source "$(dirname "$0")/../lib/common.sh"

target="$(uname -m)-unknown-linux-gnu"
export RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static"
export CARGO_PROFILE_RELEASE_STRIP=symbols CARGO_PROFILE_RELEASE_DEBUG=none
cd "$ROOT"
# With a target, so that what runs while it is built is linked as usual.
cargo build --release --locked --bin millstream --target "$target"
built="${CARGO_TARGET_DIR:-$ROOT/target}/$target/release/millstream"
"$built" --version >/dev/null
if readelf --program-headers --wide "$built" | grep -q INTERP; then die "$built is not static"; fi
say "$built"
