# shellcheck shell=bash
# Shared by the scripts of this folder (sourced, not run).

set -euo pipefail
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
PATH=$PATH:/usr/sbin:/sbin
CRATES=(vpn-core vpn-tun vpn-routing vpn-p2p vpn-resilience)
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never} CARGO_INCREMENTAL=0

# Quick to run, and to build: what the last percent of a release costs is not what is tested here.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16

RESULTS=()
SO_FAR=''                                 # each stage with its seconds
FAILED=0
RAN=0                                     # stages that were run

# A run of cargo that takes longer than this, in seconds, is ended and fails, with its tests: what
# hangs should say where, and let the other stages show what they have. Whoever sits before a
# terminal sees it, and can interrupt.
CARGO_SECONDS=${CARGO_SECONDS:-1500}
cargo() {
  local code=0 limit=(timeout -k 20 "$CARGO_SECONDS")
  [[ ! -t 2 ]] || limit=(command)
  "${limit[@]}" cargo "$@" || code=$?
  ((code != 124)) || echo "ended: cargo $1 took longer than $CARGO_SECONDS s" >&2
  return "$code"
}

# stage NAME COMMAND... : run one stage, print its time, remember how it ended. A failed stage
# does not stop the others, so that one run shows everything. A stage that prints SKIPPED says why.
# ONLY="NAME ..." runs these stages alone: the summary says so, and a run of none of them fails.
stage() {
  if [[ -n ${ONLY-} && " $ONLY " != *" $1 "* ]]; then skipped "$1" "not one of: $ONLY"; return; fi
  local name=$1 from=$SECONDS log code=0 status=ok pid follow
  RAN=$((RAN + 1))
  shift
  log=$(mktemp)
  printf '\n== %s: %s (%d s so far%s)\n' "$name" "$*" "$SECONDS" "$SO_FAR"
  # Into a file, which is followed as long as the stage lives: a pipe would be open, and we would
  # wait, as long as anything that the stage left behind.
  # A process group of its own, so that an interrupt ends all of it.
  set -m
  (set -e; "$@") >"$log" 2>&1 &
  pid=$!
  set +m
  trap 'kill -- "-$pid" 2>/dev/null; exit 130' INT TERM
  tail -n +1 -f --pid="$pid" "$log" &
  follow=$!
  # Not in an `if`: bash would ignore -e inside, and a stage's first failure would pass unseen.
  wait "$pid" || code=$?
  wait "$follow" || true
  trap - INT TERM
  if ((code)); then
    status="FAILED with status $code"
    FAILED=$((FAILED + 1))
  elif grep -q SKIPPED "$log"; then
    status="ok, with $(grep -c SKIPPED "$log") SKIPPED"
  fi
  rm -f "$log"
  printf '== %s: %s after %d s\n' "$name" "$status" $((SECONDS - from))
  RESULTS+=("$(printf '%-22s %6d s  %s' "$name" $((SECONDS - from)) "$status")")
  SO_FAR+=", $name $((SECONDS - from))"
}

# shared_lab NAME LAB [VARIABLE=VALUE...] : a lab script against ../shared/lab/LAB, where that is there.
shared_lab() {
  local lab=$1 script=../shared/lab/$2
  shift 2
  if [[ ! -x $script ]]; then
    skipped "$lab" "$script is not there"
  elif [[ $EUID -ne 0 ]]; then
    skipped "$lab" "not root"
  else
    # As long as it may wait for another lab, and as long again for its own work.
    stage "$lab" env "$@" timeout -k 30 1800 ".ci/$lab"
  fi
}

# skipped NAME REASON : a stage that cannot run here.
skipped() {
  printf '\n== %s: SKIPPED: %s\n' "$1" "$2"
  RESULTS+=("$(printf '%-22s %6s    %s' "$1" - "SKIPPED: $2")")
}

# summary : the table; the script's exit status.
summary() {
  printf '\n%-22s %8s  %s\n' stage time result
  printf '%s\n' "${RESULTS[@]}"
  printf 'total %d s, %d failed\n' "$SECONDS" "$FAILED"
  ((FAILED == 0 && RAN > 0))
}

# check WHAT EXPECTED GOT : one point of a lab script, printed with its figure.
PASSED=0 BROKEN=0
check() {
  if [[ $2 == "$3" ]]; then
    PASSED=$((PASSED + 1)) && printf 'passed  %s: %s\n' "$1" "$3"
  else
    BROKEN=$((BROKEN + 1)) && printf 'FAILED  %s: expected %s, got %s\n' "$1" "$2" "${3:-nothing}"
  fi
}

# checks_done : the counts; the status of a lab script. One without a check fails.
checks_done() {
  printf '\n%d passed, %d failed\n' "$PASSED" "$BROKEN"
  ((BROKEN == 0 && PASSED > 0))
}

# need COMMAND... : stop at once where one is missing. A loop over the output of a command that is not
# there would check nothing, and pass.
need() {
  local command
  for command in "$@"; do
    command -v "$command" >/dev/null || { echo "needs $command: .ci/run installs it" >&2; exit 1; }
  done
}

# labs_required : as root on a machine with TUN nothing may be skipped: a skipped test fails.
labs_required() {
  if [[ $EUID -eq 0 && -c /dev/net/tun ]]; then
    export VPN_LAB_REQUIRED=1
    # As udev has it (50-udev-default.rules): machines without udev leave the node to root alone, and
    # the systemd unit's test is no root.
    [[ $(stat -c %a /dev/net/tun) == 666 ]] || { echo "/dev/net/tun: mode 666, as udev sets it"; chmod 666 /dev/net/tun; }
  fi
}

# need_packages : install what is missing, by apt, as root.
need_packages() {
  local pair missing=()
  for pair in "$@"; do                     # COMMAND=PACKAGE [PACKAGE]
    # shellcheck disable=SC2206  # a list of words on purpose
    command -v "${pair%%=*}" >/dev/null || missing+=(${pair#*=})
  done
  ((${#missing[@]})) || { echo "nothing to install"; return 0; }
  if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
    echo "SKIPPED: cannot install without root and apt: ${missing[*]}"
    return 0
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q
  apt-get install -y -q --no-install-recommends "${missing[@]}"
}
