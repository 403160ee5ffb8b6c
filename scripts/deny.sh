#!/usr/bin/env bash
# What the program is made of, held against deny.toml by cargo-deny: licences, crates that are there twice, sources.
#   scripts/deny.sh               without a network but crates.io
#   scripts/deny.sh --advisories  and known vulnerabilities, from the RustSec database, which is a git repository on GitHub
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"
source "$SCRIPTS/lib/install.sh"

checks=(licenses bans sources)
case "${1:-}" in
  "") ;;
  --advisories) checks+=(advisories) ;;
  *)
    sed -n '2,4s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
install_deny || {
  say "skip: cargo-deny cannot be had"
  exit 0
}
cd "$ROOT"
cargo deny --locked check "${checks[@]}"
