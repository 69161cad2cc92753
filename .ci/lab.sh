# shellcheck shell=bash
# The shared provider lab, a daemon in it, apps and captures (sourced, not run).

LAB=$ROOT/../shared/lab
[[ $EUID -eq 0 ]] || { echo "SKIPPED: not root"; exit 0; }
[[ -x $LAB/providers.sh ]] || { echo "SKIPPED: there is no ../shared/lab"; exit 0; }
need jq curl dig ping tcpdump setpriv python3

LAB_STATE=${LAB_STATE:-/tmp/vpn-lab}
BIN=${MULTI_REGION:-${CARGO_TARGET_DIR:-$ROOT/target}/release/examples/multi-region}
SITE4=203.0.113.10 SITE6=2001:db8:113::10 RESOLVER=198.18.0.53
REGIONS=(uk fr us)
declare -A UID_OF=([uk]=1001 [fr]=1002 [us]=1003)
# OFFLOAD=auto: with super-packets, where a point does not say otherwise.
OF_INTERFACE=${OFFLOAD:+$'[interface]\noffload = "'$OFFLOAD'"'}
# What a point adds to the configuration: keys at the top, keys of a tunnel, tables at the end.
TOP='' TABLES=''
declare -A OF_TUNNEL=() MTU_OF=()
# Which users go through which tunnels; tunnel_tables writes them. A point may say other ones.
declare -A TUNNEL_OF=([1001]=uk [1002]=fr [1003]=us)
STRANGER=1004                             # has no rule
PYTHON=$(PATH=/usr/bin:$PATH command -v python3)

DAEMON='' SNIFFER='' HOLDERS=()
WORK=$(mktemp -d)
chmod 755 "$WORK"                         # the apps run as other users
CONF=$WORK/conf
mkdir -m 700 "$CONF"
cp "$LAB/labtool.py" "$WORK/"

exec 8>"${LAB_LOCK:-${TMPDIR:-/tmp}/lab.lock}"
flock -w 900 8 || { echo "another provider lab is running" >&2; exit 1; }

cleanup() {
  local pid
  for pid in $DAEMON $SNIFFER "${HOLDERS[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in $DAEMON $SNIFFER "${HOLDERS[@]}"; do wait "$pid" 2>/dev/null || true; done
  "$LAB/providers.sh" down 8>&- || true
  rm -rf "$WORK"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# --- the apps ---------------------------------------------------------------

inside() { nsenter --net=/run/netns/lab-client --wd=/ "$@" 8>&-; }
as() { local uid=$1; shift; inside setpriv --reuid "$uid" --regid "$uid" --clear-groups "$@"; }

# region UID URL [SECONDS] : the region that answers one request, or none.
region() { as "$1" curl -s -m "${3:-4}" "$2" 2>/dev/null | jq -r .region 2>/dev/null | grep . || echo none; }

# many UID URL COUNT : COUNT requests, each a process of its own: "regions seen" with their counts.
many() {
  # shellcheck disable=SC2016  # expanded by the inner shell
  as "$1" bash -c 'for ((i = 0; i < $2; i++)); do curl -s -m 4 "$1" || echo "{\"region\": \"none\"}"; done' \
    - "$2" "$3" | jq -r .region | tally
}
tally() { sort | uniq -c | awk '{ printf "%s%s %s", sep, $1, $2; sep = ", " }'; }

udp() { as "$1" "$PYTHON" "$WORK/labtool.py" udp "$2" 7 hi 2>/dev/null; }
txt() { as "$1" dig +short +time=1 +tries=3 TXT whoami.test @"$2" 2>/dev/null | tr -d '"' | head -1; }
pings() { as "$1" ping -q -c 5 -i 0.2 -W 2 "$2" 2>/dev/null | sed -n 's/.* \([0-9]*\) received.*/\1/p'; }

# --- lab, daemon, capture -------------------------------------------------------

lab_up() { env "$@" "$LAB/providers.sh" up 8>&- >"$WORK/lab.log" 2>&1 || { cat "$WORK/lab.log"; return 1; }
  # Ping without raw sockets, as distributions set it: a raw socket has no single owner.
  inside sh -c 'echo "0 2147483647" > /proc/sys/net/ipv4/ping_group_range'
}
own4() { case $1 in uk) echo 203.0.113.21 ;; fr) echo 203.0.113.22 ;; us) echo 203.0.113.23 ;; esac; }
rule() { "$BIN" rule add --rules "$CONF/rules.db" --uid "$1" --to "$2" >>"$WORK/rules.log" 2>&1; }
lab_drops() { "$LAB/providers.sh" drops 8>&- | jq '[.[] | .[]] | add'; }

# The tunnels' tables, and the providers' files beside them.
tunnel_tables() {
  local r
  for r in "${REGIONS[@]}"; do
    install -m 600 "$LAB_STATE/clients/$r.conf" "$CONF/$r.conf"
    [[ -z ${MTU_OF[$r]-} ]] || sed -i "/^MTU/d; s/^\\[Interface\\]/&\\nMTU = ${MTU_OF[$r]}/" "$CONF/$r.conf"
    printf '\n[tunnel.%s]\nwireguard = "%s.conf"\n%s\n' "$r" "$r" "${OF_TUNNEL[$r]-}"
  done
}

configure() {
  local top=${TOP:-$OF_INTERFACE}
  [[ $TABLES != *'[interface]'* ]] || top=$TOP
  cat >"$CONF/multi-region.toml" <<TOML
default = "block"
on_exit = "${ON_EXIT:-open}"
rules = "rules.db"
$top
[dns]
apply = "none"
$(tunnel_tables)
$TABLES
TOML
}

daemon_start() {
  local uid i
  rm -f "$CONF"/*
  configure
  for uid in "${!TUNNEL_OF[@]}"; do rule "$uid" "${TUNNEL_OF[$uid]}"; done
  : >"$WORK/daemon.out"
  nsenter --net=/run/netns/lab-client "$BIN" run --config "$CONF/multi-region.toml" \
    >"$WORK/daemon.out" 2>"$WORK/daemon.log" 8>&- &
  DAEMON=$!
  for ((i = 0; i < 100; i++)); do
    grep -qx ready "$WORK/daemon.out" && break
    kill -0 "$DAEMON" 2>/dev/null || break
    sleep 0.1
  done
  check "daemon prints ready within 10 s" ready "$(grep -x ready "$WORK/daemon.out" || tail -3 "$WORK/daemon.log")"
}

daemon_stop() {                           # daemon_stop SIGNAL
  [[ -n $DAEMON ]] || return 0
  kill "-$1" "$DAEMON" 2>/dev/null || true
  local i
  for ((i = 0; i < 100; i++)); do kill -0 "$DAEMON" 2>/dev/null || break; sleep 0.1; done
  if kill -0 "$DAEMON" 2>/dev/null; then
    check "daemon ends within 10 s of SIG$1" ended running
    kill -KILL "$DAEMON"
  fi
  wait "$DAEMON" 2>/dev/null || true
  DAEMON=''
}

# Everything on the client's cable but the tunnels themselves and the neighbours' business.
capture_start() {
  : >"$WORK/tcpdump.log"
  nsenter --net=/run/netns/lab-isp tcpdump -i p-client -n -U -w "$WORK/direct.pcap" \
    'not port 51820 and not port 1194 and
     ((ip and not igmp) or (ip6 and (tcp or udp or ip6[40] == 128 or ip6[40] == 129)))' \
    >"$WORK/tcpdump.log" 2>&1 8>&- &
  SNIFFER=$!
  local i
  for ((i = 0; i < 50; i++)); do grep -q listening "$WORK/tcpdump.log" && return; sleep 0.1; done
  check "capture on the direct path starts" listening "$(cat "$WORK/tcpdump.log")"
}
capture_end() {                           # capture_end WHAT
  sleep 0.5
  kill -INT "$SNIFFER" 2>/dev/null || true
  wait "$SNIFFER" 2>/dev/null || true
  SNIFFER=''
  check "$1: packets of apps on the direct path" 0 "$(tcpdump -n -r "$WORK/direct.pcap" 2>/dev/null | wc -l)"
  tcpdump -n -r "$WORK/direct.pcap" -c 5 2>/dev/null || true
}

# status JQ : a figure of the daemon's status.
status() { inside "$BIN" status --control "$CONF/multi-region.sock" --json | jq -r "$1"; }

# counts JQ FLOW... : waits until the daemon's `explain` says so of new flows, as after a rule was added:
# after how many milliseconds, most of which are the processes that ask. The 50 ms that are promised are
# measured by examples/tests/lab.rs.
counts() {
  local what=$1 from i
  shift
  from=$(date +%s%N)
  for ((i = 0; i < 500; i++)); do
    if inside "$BIN" explain --control "$CONF/multi-region.sock" --json "$@" | jq -e "$what" >/dev/null; then
      echo $((($(date +%s%N) - from) / 1000000))
      return
    fi
    sleep 0.01
  done
  echo never
}

# run_points POINT... : builds the daemon where none is given, and runs each point.
run_points() {
  local point
  [[ -n ${MULTI_REGION-} ]] || cargo build --release --example multi-region 8>&-
  for point in "$@"; do
    printf '\n-- %s (%d s)\n' "$point" "$SECONDS"
    TOP='' TABLES='' OF_TUNNEL=() MTU_OF=()
    "point_$point"
  done
  checks_done
}
