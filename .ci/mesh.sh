# shellcheck shell=bash
# The shared NAT lab, a hub and members in it, probers and captures (sourced, not run).

LAB=$ROOT/../shared/lab
[[ $EUID -eq 0 ]] || { echo "SKIPPED: not root"; exit 0; }
[[ -x $LAB/nat.sh ]] || { echo "SKIPPED: there is no ../shared/lab"; exit 0; }
need jq ip nft conntrack ping tcpdump iperf3 python3 nsenter timeout

BIN=${MESH:-${CARGO_TARGET_DIR:-$ROOT/target}/release/examples/mesh}
PYTHON=$(PATH=/usr/bin:$PATH command -v python3)
HUB=198.51.100.1 SECOND_HUB=198.51.100.2 HUB_V6=2001:db8:100::1 PORT=51820
declare -A OWN=([a]=10.77.0.2 [b]=10.77.0.3 [c]=10.77.0.4)      # addresses in the mesh
# shellcheck disable=SC2034  # used by the script that sources this one
declare -A AT=([a]=198.51.100.11 [b]=198.51.100.12 [c]=198.51.100.30)
SECRET=only-for-who-has-the-key           # what no hub may see

# What a point adds: to a hub's configuration, to a member's.
HUB_TOP='' HUB_TABLES='' MEMBER_TOP='' MEMBER_TABLES=''
HUBS=(1)                                  # which hubs there are: 1, 2

declare -A PID=()                         # what runs, by name: hub1, a, serve-b, tcpdump …
WORK=$(mktemp -d)
CONF=$WORK/conf
cp "$ROOT/.ci/probe.py" "$WORK/"

exec 8>"${LAB_NAT_LOCK:-${TMPDIR:-/tmp}/lab-nat.lock}"
flock -w 900 8 || { echo "another NAT lab is running" >&2; exit 1; }

cleanup() {
  local name
  for name in "${!PID[@]}"; do kill "${PID[$name]}" 2>/dev/null || true; done
  for name in "${!PID[@]}"; do ended "$name" || true; done
  timeout -k 5 60 "$LAB/nat.sh" down 8>&- || true
  [[ -z ${KEEP-} ]] || tar -C "$WORK" -czf "$KEEP" --exclude='*.key' . || true
  rm -rf "$WORK"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# --- what runs --------------------------------------------------------------

inside() { local ns=$1; shift; nsenter --net="/run/netns/lab-$ns" --wd=/ "$@" 8>&-; }
probe() { local ns=$1; shift; inside "$ns" timeout -k 2 90 "$PYTHON" "$WORK/probe.py" "$@"; }
now() { echo "${EPOCHREALTIME/,/.}"; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%d", (b - a) * 1000 }'; }

# started NAME NAMESPACE COMMAND... : in the background, with a log of that name.
started() {
  local name=$1 ns=$2
  shift 2
  nsenter --net="/run/netns/lab-$ns" --wd=/ "$@" >"$WORK/$name.out" 2>>"$WORK/$name.log" 8>&- &
  PID[$name]=$!
}

# ended NAME : waits until it has, and kills it after 5 s: its status, or 137.
ended() {
  local i code=0
  [[ -n ${PID[$1]-} ]] || return 0
  for ((i = 0; i < 100; i++)); do running "$1" || break; sleep 0.05; done
  if running "$1"; then kill -KILL "${PID[$1]}" 2>/dev/null || true; fi
  wait "${PID[$1]}" 2>/dev/null || code=$?
  unset "PID[$1]"
  return "$code"
}
running() { kill -0 "${PID[$1]-none}" 2>/dev/null; }

# await NAME SECONDS : waits until it ends by itself.
await() {
  local i
  for ((i = 0; i < $2 * 10; i++)); do running "$1" || break; sleep 0.1; done
  ended "$1" || true
}

# stop NAME... : ends what was started; a daemon that does not end by itself is a failure.
stop() {
  local name code
  for name in "$@"; do
    [[ -n ${PID[$name]-} ]] || continue
    kill -TERM "${PID[$name]}" 2>/dev/null || true
    code=0
    ended "$name" || code=$?
    [[ $name != hub* && $name != [a-d] ]] || ((code != 137)) ||
      check "$name ends within 5 s of SIGTERM" ended "killed"
  done
}

# within LIMIT WHAT GOT : a figure in milliseconds that must not be larger.
within() {
  local verdict=no
  [[ $3 =~ ^[0-9]+$ ]] && (($3 <= $1)) && verdict=yes
  check "$2: at most $1 ms ($3 ms)" yes "$verdict"
}

# --- lab, hubs, members -----------------------------------------------------

lab_up() {                                # lab_up VARIABLE=VALUE...
  all_down
  timeout -k 5 60 env "$@" "$LAB/nat.sh" up 8>&- >"$WORK/lab.log" 2>&1 || { cat "$WORK/lab.log"; exit 1; }
  rm -rf "$CONF"
  mkdir -m 700 "$CONF"
  HUBS=(1) HUB_TOP='' HUB_TABLES='' MEMBER_TOP='' MEMBER_TABLES=''
}
lab() { timeout -k 5 30 "$LAB/nat.sh" "$@" 8>&- 2>>"$WORK/lab.log"; }
all_down() { stop "${!PID[@]}"; }

keys() {                                  # keys NAME... : each a key of its own, made once
  local name
  for name in "$@"; do
    mkdir -p "$CONF/$name"                # below a folder that is its owner's
    [[ -e $CONF/$name/$name.key ]] || "$BIN" keygen --out "$CONF/$name/$name.key" >"$CONF/$name/public"
  done
}
public() { cat "$CONF/$1/public"; }
hub_at() { [[ $1 == 1 ]] && echo $HUB || echo $SECOND_HUB; }

hub_start() {                             # hub_start [NUMBER] : 1 or 2
  local n=${1:-1} name listen i
  keys "hub$n" a b c
  listen="\"$(hub_at "$n"):$PORT\""
  [[ -z ${V6-} || $n != 1 ]] || listen+=", \"[$HUB_V6]:$PORT\""
  {
    printf 'key = "hub%s.key"\nlisten = [%s]\ntls = true\ncontrol = "%s"\n%s\n' \
      "$n" "$listen" "$CONF/hub$n/hub.sock" "$HUB_TOP"
    for name in a b c; do
      printf '\n[[members]]\nname = "%s"\nkey = "%s"\naddresses = ["%s"]\n' "$name" "$(public "$name")" "${OWN[$name]}"
    done
    printf '\n%s\n' "$HUB_TABLES"
  } >"$CONF/hub$n/hub.toml"
  rm -f "$CONF/hub$n/hub.sock"
  started "hub$n" hub "$BIN" hub --config "$CONF/hub$n/hub.toml"
  for ((i = 0; i < 100; i++)); do
    [[ ! -S $CONF/hub$n/hub.sock ]] || return 0
    running "hub$n" || break
    sleep 0.05
  done
  check "hub $n starts within 5 s" started "$(tail -3 "$WORK/hub$n.log")"
}

configure() {                             # configure NAME [ADDRESS] : a member
  local name=$1 address=${2:-${OWN[$1]}} n
  keys "$name"
  {
    printf 'name = "%s"\nkey = "%s.key"\naddresses = ["%s/24"]\ninterface = "mesh0"\n' "$name" "$name" "$address"
    printf 'control = "%s"\ninbound = "any"\n%s\n' "$CONF/$name/mesh.sock" "$MEMBER_TOP"
    for n in "${HUBS[@]}"; do
      printf '\n[[hubs]]\nkey = "%s"\nendpoint = "%s:%s"\n' "$(public "hub$n")" \
        "$([[ -n ${V6-} && $n == 1 && $V6 == hub ]] && echo "[$HUB_V6]" || hub_at "$n")" $PORT
    done
    printf '\n%s\n' "$MEMBER_TABLES"
  } >"$CONF/$name/mesh.toml"
}

join() {                                  # join NAME [NAMESPACE]
  [[ -e $CONF/$1/mesh.toml ]] || configure "$1"
  rm -f "$CONF/$1/mesh.sock"
  started "$1" "${2:-$1}" "$BIN" join --config "$CONF/$1/mesh.toml"
}

status() {                                # status NAME JQ : a figure of a member's status, or "none"
  timeout -k 1 3 "$BIN" status --control "$CONF/$1/mesh.sock" --json 2>/dev/null |
    jq -r "($2) // \"none\"" 2>/dev/null | grep . || echo none
}
peer() { status "$1" ".peers[] | select(.name == \"$2\" or .key == \"$(public "$2")\") | $3"; }
path() { peer "$1" "$2" .path; }
registered() {                            # registered NAME [COUNT] : with so many hubs
  local n
  n=$(status "$1" '[.hubs[] | select(.state == "up")] | length')
  [[ $n != none ]] && ((n >= ${2:-1}))
}

# until_ok LIMIT_MS COMMAND... : repeats it until it succeeds; how many ms that took, or "never".
until_ok() {
  local limit=$1 from
  from=$(now)
  shift
  until "$@" >/dev/null 2>&1; do
    (($(since "$from") <= limit)) || { echo never; return 0; }
    sleep 0.02
  done
  since "$from"
}

# path_is NAME PEER PATTERN : e.g. direct, relay|relay-tcp
path_is() { [[ "|$3|" == *"|$(path "$1" "$2")|"* ]]; }
routed() { inside "$1" ip route get "${OWN[$2]}" | grep -q 'dev mesh0'; }
up_and_registered() {                     # up_and_registered NAME...
  local name
  for name in "$@"; do
    within 6000 "$name is registered with its hub" "$(until_ok 6000 registered "$name")"
  done
}
serve() {                                 # serve NAME... : echo and iperf3 at their mesh addresses
  local name
  for name in "$@"; do
    until_ok 3000 routed "$name" "$([[ $name == a ]] && echo c || echo a)" >/dev/null
    started "serve-$name" "$name" "$PYTHON" -u "$WORK/probe.py" serve "$name" "${OWN[$name]}"
    started "iperf-$name" "$name" iperf3 -s -B "${OWN[$name]}"
  done
}

# everyone NAT_A NAT_B [VARIABLE=VALUE...] : lab, hub, c, a, b, all registered, and their servers.
everyone() {
  lab_up "NAT_A=$1" "NAT_B=$2" "${@:3}"
  everyone_joins
}
everyone_joins() {
  local n
  keys hub1 hub2
  for n in "${HUBS[@]}"; do hub_start "$n"; done
  join c; join a; join b
  up_and_registered a b c
  serve a b c
}

# connected NAME PEER PATTERN LIMIT : after a first ping by that way in time.
connected() {
  local from
  from=$(now)
  check "$1 to $2: first ping is answered" 1 "$(pings "$1" "$2" 1)"
  until_ok "$4" path_is "$1" "$2" "$3" >/dev/null
  within "$4" "$1 to $2 is $3, as status says ($(path "$1" "$2"))" \
    "$(path_is "$1" "$2" "$3" && since "$from" || echo never)"
}

# --- traffic ----------------------------------------------------------------

pings() {                                 # pings FROM TO COUNT : answered ones
  inside "$1" ping -q -c "$3" -i 0.2 -W 5 "${OWN[$2]}" 2>/dev/null | sed -n 's/.* \([0-9]*\) received.*/\1/p'
}
echoes() { probe "$1" udp "${OWN[$2]}" hi 3; }

# iperf FROM TO SECONDS [OPTION...] : Mbit/s that arrived, "0" where the transfer broke, or where
# nothing came in its last three seconds.
iperf() {
  inside "$1" timeout -k 2 $(($3 + 25)) iperf3 -c "${OWN[$2]}" -t "$3" --connect-timeout 4000 --json "${@:4}" 2>/dev/null |
    jq -r 'if .error or ([.intervals[-3:][].sum.bytes] | add) == 0 then 0
           else .end.sum_received.bits_per_second / 1e6 | floor end' 2>/dev/null || echo 0
}
moved() { awk -v m="$1" 'BEGIN { print (m > 0) ? "yes" : "no" }'; }

capture_start() {                         # capture_start NAME NAMESPACE INTERFACE [FILTER]
  local i
  : >"$WORK/$1.log"
  started "$1" "$2" tcpdump -i "$3" -n -U -s 0 -B 8192 -w "$WORK/$1.pcap" "${4-}"
  for ((i = 0; i < 100; i++)); do ! grep -q listening "$WORK/$1.log" || return 0; sleep 0.05; done
  check "capture of $3 starts" listening "$(tail -2 "$WORK/$1.log")"
}
capture_end() {                           # capture_end NAME...
  sleep 0.3
  local name
  for name in "$@"; do
    kill -INT "${PID[$name]}" 2>/dev/null || true
    ended "$name" || true
    : >"$WORK/$name.log"                  # the next one says "listening" anew
  done
}
counted() { tcpdump -n -r "$WORK/$1.pcap" "$2" 2>/dev/null | wc -l; }
shows() { grep -aq -- "$SECRET" "$WORK/$1.pcap" && echo yes || echo no; }

# run_points POINT... : builds the daemon where none is given, and runs each point.
run_points() {
  local point
  [[ -n ${MESH-} ]] || cargo build --release --example mesh 8>&-
  for point in "$@"; do
    printf '\n-- %s (%d s)\n' "$point" "$SECONDS"
    "point_${point//-/_}"
    all_down
  done
  checks_done
}
