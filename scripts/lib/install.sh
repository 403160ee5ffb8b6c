# Installs the clients on demand into the cache directory, by package name, from the registries that the machine's own
# package clients are set up for. Each install_* is a no-op when it has been done for the same list of packages.
# Sourced after common.sh.

# with_lock NAME COMMAND...: one install of a kind at a time, also between scripts that run side by side.
with_lock() {
  local name="$1"
  shift
  (
    flock 9
    "$@"
  ) 9>"$CACHE/$name.lock"
}

# stamped NAME FILE...: true when NAME has been installed from exactly these files.
stamped() {
  local name="$1"
  shift
  [[ -f $CACHE/$name.stamp && $(cat "$CACHE/$name.stamp") == "$(cat "$@" | sha256sum)" ]]
}
stamp() {
  local name="$1"
  shift
  cat "$@" | sha256sum >"$CACHE/$name.stamp"
}

# Installs Debian packages; returns 1, having said why, when that is not to be had.
install_debian() {
  local as_root=()
  say "installing by apt-get: $*"
  if ((EUID != 0)); then
    command -v sudo >/dev/null || {
      say "not root, and no sudo: install it yourself"
      return 1
    }
    as_root=(sudo -n)
  fi
  if ! (
    flock 9
    "${as_root[@]}" apt-get update -qq &&
      "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
  ) 9>"$CACHE/apt.lock" >"$CACHE/apt.log" 2>&1 </dev/null; then
    tail -5 "$CACHE/apt.log"
    return 1
  fi
}

# need TOOL DEBIAN-PACKAGE...: installs the packages when the tool is missing; returns 1, having said so, when it cannot.
need() {
  local tool="$1"
  shift
  command -v "$tool" >/dev/null && return 0
  install_debian "$@" && command -v "$tool" >/dev/null && return 0
  say "$tool is missing"
  return 1
}

install_kcat() { need kcat kcat; }

PYTHON="$CACHE/python/bin/python"
install_python() {
  need python3 python3 || return 1
  with_lock python install_python_locked
}
install_python_locked() {
  local list="$SCRIPTS/clients/python/requirements.txt"
  stamped python "$list" && return 0
  say "installing the Python clients"
  rm -rf "$CACHE/python"
  if ! python3 -m venv "$CACHE/python" >"$CACHE/python.log" 2>&1; then
    rm -rf "$CACHE/python"
    # Debian's python3 comes without the part that puts pip into a new environment.
    install_debian python3-venv
    python3 -m venv "$CACHE/python"
  fi
  "$CACHE/python/bin/pip" install --quiet --disable-pip-version-check -r "$list"
  stamp python "$list"
}

# A monitor of lag, in an environment of its own.
MONITOR="$CACHE/monitor/bin/kafkatop"
install_monitor() {
  install_python && with_lock monitor install_monitor_locked
}
install_monitor_locked() {
  local list="$SCRIPTS/clients/python/monitor.txt"
  stamped monitor "$list" && return 0
  say "installing kafkatop"
  rm -rf "$CACHE/monitor"
  python3 -m venv "$CACHE/monitor" >"$CACHE/monitor.log" 2>&1
  "$CACHE/monitor/bin/pip" install --quiet --disable-pip-version-check -r "$list"
  stamp monitor "$list"
}

install_node() {
  need node nodejs && need npm npm || return 1
  with_lock node install_node_locked
}
install_node_locked() {
  local list="$SCRIPTS/clients/node/package.json"
  stamped node "$list" && return 0
  say "installing kafkajs"
  rm -rf "$CACHE/node"
  mkdir -p "$CACHE/node"
  cp "$list" "$CACHE/node/"
  (cd "$CACHE/node" && npm install --no-audit --no-fund --no-package-lock --loglevel=error)
  stamp node "$list"
}

# What scripts/page.sh drives Chromium with.
install_page() {
  need node nodejs && need npm npm || return 1
  with_lock page install_page_locked
}
install_page_locked() {
  local list="$SCRIPTS/page/package.json"
  stamped page "$list" && return 0
  say "installing playwright-core and kafkajs"
  rm -rf "$CACHE/page"
  mkdir -p "$CACHE/page"
  cp "$list" "$CACHE/page/"
  (cd "$CACHE/page" && npm install --no-audit --no-fund --no-package-lock --loglevel=error)
  stamp page "$list"
}

FRANZ="$CACHE/franz"
install_franz() {
  need go golang-go || return 1
  with_lock franz install_franz_locked
}
install_franz_locked() {
  local sources=("$SCRIPTS"/clients/franz/*.go "$SCRIPTS"/clients/franz/go.mod "$SCRIPTS"/clients/franz/go.sum)
  stamped franz "${sources[@]}" && [[ -x $FRANZ ]] && return 0
  say "building the franz-go client"
  (cd "$SCRIPTS/clients/franz" && go build -o "$FRANZ" .)
  stamp franz "${sources[@]}"
}

# Beside cargo's other commands and not in the cache, which a fresh clone would build anew for minutes. Unoptimised, for its
# checks take a second all the same.
install_deny() { with_lock deny install_deny_locked; }
install_deny_locked() {
  cargo deny --version >/dev/null 2>&1 && return 0
  say "building cargo-deny"
  cargo install --quiet --locked --debug --no-default-features --version 0.20.2 cargo-deny
}

JARS="$CACHE/jars"
JAVA_CLASSES="$CACHE/java"
install_java() {
  need java default-jdk-headless && need javac default-jdk-headless && need mvn maven || return 1
  with_lock java install_java_locked
}
install_java_locked() {
  local pom="$SCRIPTS/clients/java/pom.xml" sources=("$SCRIPTS"/clients/java/*.java)
  if ! stamped jars "$pom"; then
    say "installing the Java client and Kafka's tools"
    rm -rf "$JARS"
    mvn -q -B -Dstyle.color=never -f "$pom" dependency:copy-dependencies -DincludeScope=runtime "-DoutputDirectory=$JARS"
    stamp jars "$pom"
  fi
  if ! stamped java "$pom" "${sources[@]}"; then
    rm -rf "$JAVA_CLASSES"
    mkdir -p "$JAVA_CLASSES"
    javac -cp "$JARS/*" -d "$JAVA_CLASSES" "${sources[@]}"
    stamp java "$pom" "${sources[@]}"
  fi
}

# java_class HEAP CLASS ARG...: a class of Kafka or of ours, logging warnings to standard error.
java_class() {
  local heap="$1"
  shift
  java "-Xmx$heap" -XX:+UseSerialGC -XX:TieredStopAtLevel="${JAVA_TIER:-1}" -XX:-UsePerfData \
    -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$JAVA_CLASSES:$JARS/*" "$@"
}

# The program of a client; its arguments are in clients/README.md.
client() {
  local name="$1"
  shift
  case "$name" in
    kcat) "$PYTHON" "$SCRIPTS/clients/python/with_kcat.py" "$@" ;;
    confluent-kafka) "$PYTHON" "$SCRIPTS/clients/python/with_confluent.py" "$@" ;;
    kafka-python) "$PYTHON" "$SCRIPTS/clients/python/with_kafka_python.py" "$@" ;;
    kafkajs) KAFKAJS_NO_PARTITIONER_WARNING=1 NODE_CLIENTS="$CACHE/node/node_modules" node "$SCRIPTS/clients/node/with_kafkajs.js" "$@" ;;
    franz-go) "$FRANZ" "$@" ;;
    java) JAVA_TIER=4 java_class 700m Client "$@" ;;
  esac
}

# Kafka's own command line tools, by the names that its users know.
kafka_tool() {
  local tool="$1" class
  shift
  case "$tool" in
    kafka-topics) class=org.apache.kafka.tools.TopicCommand ;;
    kafka-configs) class=kafka.admin.ConfigCommand ;;
    kafka-get-offsets) class=org.apache.kafka.tools.GetOffsetShell ;;
    kafka-delete-records) class=org.apache.kafka.tools.DeleteRecordsCommand ;;
    kafka-producer-perf-test) class=org.apache.kafka.tools.ProducerPerformance ;;
    kafka-consumer-perf-test) class=org.apache.kafka.tools.ConsumerPerformance ;;
    kafka-dump-log) class=org.apache.kafka.tools.DumpLogSegments ;;
    kafka-consumer-groups) class=org.apache.kafka.tools.consumer.group.ConsumerGroupCommand ;;
    kafka-storage) class=kafka.tools.StorageTool ;;
    kafka-log-dirs) class=org.apache.kafka.tools.LogDirsCommand ;;
    kafka-broker-api-versions) class=org.apache.kafka.tools.BrokerApiVersionsCommand ;;
    kafka-metadata-quorum) class=org.apache.kafka.tools.MetadataQuorumCommand ;;
    kafka-reassign-partitions) class=org.apache.kafka.tools.reassign.ReassignPartitionsCommand ;;
    kafka-leader-election) class=org.apache.kafka.tools.LeaderElectionCommand ;;
    kafka-transactions) class=org.apache.kafka.tools.TransactionsCommand ;;
    kafka-cluster) class=org.apache.kafka.tools.ClusterTool ;;
    kafka-features) class=org.apache.kafka.tools.FeatureCommand ;;
    *) die "no such tool: $tool" ;;
  esac
  java_class 512m "$class" "$@"
}

# Prometheus and promtool, unpacked from Debian's package beside everything else that we install: nothing is started. Sets PROMETHEUS
# and PROMTOOL; returns 1, having said why, where they are not to be had.
install_prometheus() {
  PROMETHEUS="$(command -v prometheus || true)" PROMTOOL="$(command -v promtool || true)"
  [[ -z $PROMETHEUS || -z $PROMTOOL ]] || return 0
  local there="$CACHE/prometheus"
  PROMETHEUS="$there/usr/bin/prometheus" PROMTOOL="$there/usr/bin/promtool"
  with_lock prometheus install_prometheus_locked "$there"
}
install_prometheus_locked() {
  local there="$1"
  [[ -x $there/usr/bin/promtool ]] && return 0
  say "installing by apt-get download: prometheus"
  rm -rf "$there.part"
  mkdir -p "$there.part"
  if ! (cd "$there.part" && apt-get update -qq && apt-get download -qq prometheus && dpkg-deb -x prometheus_*.deb .) \
    >"$CACHE/prometheus.log" 2>&1 </dev/null; then
    tail -5 "$CACHE/prometheus.log"
    return 1
  fi
  mv "$there.part" "$there"
}
