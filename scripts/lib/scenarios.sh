# One line a scenario, and the closing count. Sourced after common.sh.

PASSED=0
FAILED=0
SKIPPED=0
SCENARIO_OUTPUT="$(mktemp)"

# scenario SECONDS NAME COMMAND...: runs the command (a program or a function of the caller) with a time limit.
# It passes when the command returns 0. What it printed is shown only when it fails, the last 40 lines of it.
scenario() {
  local seconds="$1" name="$2" started code=0
  shift 2
  started=$(date +%s.%N)
  if [[ $(type -t "$1") == function ]]; then
    # A function cannot be handed to timeout(1): it runs in a subshell of its own process group, ended by its id.
    set -m
    ( "$@" ) >"$SCENARIO_OUTPUT" 2>&1 </dev/null &
    local pid=$!
    set +m
    local tenths=$((seconds * 10))
    while kill -0 "$pid" 2>/dev/null; do
      if ((tenths-- <= 0)); then
        kill -KILL -- "-$pid" 2>/dev/null || true
        echo "no end after $seconds s" >>"$SCENARIO_OUTPUT"
        code=124
        break
      fi
      sleep 0.1
    done
    if ((code == 0)); then wait "$pid" || code=$?; else wait "$pid" 2>/dev/null || true; fi
  else
    timeout --kill-after=5 "$seconds" "$@" >"$SCENARIO_OUTPUT" 2>&1 </dev/null || code=$?
    ((code != 124)) || echo "no end after $seconds s" >>"$SCENARIO_OUTPUT"
  fi
  local took
  took=$(python3 -c "import time,sys; print('%.1f s' % (time.time() - float(sys.argv[1])))" "$started")
  if ((code == 0)); then
    PASSED=$((PASSED + 1))
    say "ok   $name ($took)"
  else
    FAILED=$((FAILED + 1))
    say "FAIL $name ($took, exit code $code)"
    tail -40 "$SCENARIO_OUTPUT" | sed 's/^/     | /'
  fi
}

# expect TEXT COMMAND...: the command returns 0 and its output holds the text (an extended regular expression).
expect() {
  local pattern="$1" output
  shift
  if ! output="$("$@" 2>&1)"; then
    printf '%s\n' "$output"
    return 1
  fi
  grep -qE -e "$pattern" <<<"$output" || {
    printf 'no /%s/ in the output of %s:\n%s\n' "$pattern" "$*" "$output"
    return 1
  }
}
# expect_not: returns 0, and does not hold the text.
expect_not() {
  local pattern="$1" output
  shift
  if ! output="$("$@" 2>&1)" || grep -qE -e "$pattern" <<<"$output"; then
    printf 'failed, or /%s/ in the output of %s:\n%s\n' "$pattern" "$*" "$output"
    return 1
  fi
}
# expect_refusal: does not return 0, and its output holds the text.
expect_refusal() {
  local pattern="$1" output
  shift
  if output="$("$@" 2>&1)" || ! grep -qE -e "$pattern" <<<"$output"; then
    printf 'not refused, or no /%s/ in the output of %s:\n%s\n' "$pattern" "$*" "$output"
    return 1
  fi
}
# For functions whose every command has to succeed.
strict() {
  set -e
  "$@"
}

skip() {
  SKIPPED=$((SKIPPED + 1))
  say "skip $*"
}

# The closing line, alone on its line, and the exit code: 0 only when something passed and nothing failed.
finish_scenarios() {
  rm -f "$SCENARIO_OUTPUT"
  if ((SKIPPED > 0)); then
    say "$PASSED passed, $FAILED failed, $SKIPPED skipped"
  else
    say "$PASSED passed, $FAILED failed"
  fi
  ((FAILED == 0 && PASSED > 0))
}
