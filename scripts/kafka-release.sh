#!/usr/bin/env bash
# What the Kafka release that we follow declares, from its own jars (the version in clients/java/pom.xml): APIs and their
# versions, error codes, configurations with types, defaults and bounds. The unit tests hold our tables against these files.
#   scripts/kafka-release.sh          writes the files
#   scripts/kafka-release.sh --check  fails where a file differs from the jars
set -euo pipefail
source "$(dirname "$0")/lib/common.sh"
source "$SCRIPTS/lib/install.sh"

case "${1:-}" in
  "" | --check) ;;
  *)
    sed -n '2,5s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
install_java
release="$(sed -n 's/.*<kafka.version>\(.*\)<.*/\1/p' "$SCRIPTS/clients/java/pom.xml")"
differs=0
for pair in apis:broker/src/protocol errors:replication broker-configs:replication topic-configs:replication; do
  file="$ROOT/${pair#*:}/testdata/kafka-${pair%%:*}.tsv"
  lines="$(printf '# Apache Kafka %s, written by scripts/kafka-release.sh\n' "$release" && java_class 256m Release "${pair%%:*}")"
  if [[ ${1:-} != --check ]]; then
    mkdir -p "$(dirname "$file")"
    printf '%s\n' "$lines" >"$file"
  elif ! diff -u "$file" <(printf '%s\n' "$lines"); then
    differs=1
  fi
done
((differs == 0)) || die "Kafka $release declares something else: run scripts/kafka-release.sh, and see which unit tests fail"
say "Kafka $release: ok"
