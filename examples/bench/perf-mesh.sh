#!/usr/bin/env bash
# One side of a mesh of two members and a hub, for a throughput lab. The hub runs beside side a, which
# has to be started first; packets go directly unless told otherwise.
#
#   perf-mesh.sh start|stop SIDE NS     SIDE is a or b
#
# `start` leaves a member running in network namespace NS, with the interface $PERF_IF, whose address
# is $PERF_ADDR. Given in the environment:
#   PERF_IF PERF_ADDR PERF_MTU                             the tunnel; an MTU of at most 1400 is used
#   PERF_UNDERLAY PERF_PEER_UNDERLAY PERF_PORT             this side, the other, the members' port
#   PERF_DIR                                               a scratch directory of both sides
# and, if wanted:
#   MESH               the program (target/release/examples/mesh)
#   PERF_POLICY        allow, direct-only or relay-only (direct-only)
#   PERF_CARRIER       auto, udp or tls: how the hub is reached (auto)
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
program=${MESH:-${CARGO_TARGET_DIR:-$here/../../target}/release/examples/mesh}
[[ $# == 3 && $1 =~ ^(start|stop)$ && $2 =~ ^[ab]$ ]] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
side=$2 ns=$3 dir=$PERF_DIR/mesh

is_ours() {                              # is_ours NAME: not another process that got the number
  [[ -r $dir/$1.pid && $(readlink "/proc/$(<"$dir/$1.pid")/exe") == "$(realpath "$program")" ]]
}

launch() {                               # launch NAME ARGUMENT...
  ip netns exec "$ns" setsid "$program" "${@:2}" >"$dir/$1.log" 2>&1 </dev/null &
  echo $! >"$dir/$1.pid"
}

end() {                                  # end NAME
  is_ours "$1" || return 0
  local pid i
  pid=$(<"$dir/$1.pid")
  kill "$pid"
  for ((i = 0; i < 50; i++)); do is_ours "$1" || return 0; sleep 0.1; done
  kill -9 "$pid"
}

if [[ $1 == stop ]]; then
  end "$side"
  [[ $side != a ]] || { end hub; rm -rf "$dir"; }
  exit 0
fi

[[ -x $program ]] || { echo "$program is missing: cargo build --release --example mesh" >&2; exit 1; }
umask 077
if [[ $side == a ]]; then
  rm -rf "$dir"
  mkdir -p "$dir"
  for name in hub a b; do "$program" keygen --out "$dir/$name.key" >"$dir/$name.pub"; done
  net=${PERF_ADDR%/*} net=${net%.*}
  cat >"$dir/hub.toml" <<TOML
key = "hub.key"
listen = ["$PERF_UNDERLAY:$((PERF_PORT + 1))"]
control = "hub.sock"
[[members]]
name = "a"
key = "$(<"$dir/a.pub")"
addresses = ["$net.1"]
[[members]]
name = "b"
key = "$(<"$dir/b.pub")"
addresses = ["$net.2"]
TOML
  echo "$PERF_UNDERLAY:$((PERF_PORT + 1))" >"$dir/endpoint"
  launch hub hub --config "$dir/hub.toml"
fi
cat >"$dir/$side.toml" <<TOML
name = "$side"
key = "$side.key"
addresses = ["$PERF_ADDR"]
interface = "$PERF_IF"
listen = $PERF_PORT
control = "$side.sock"
mtu = $((PERF_MTU < 1400 ? PERF_MTU : 1400))
policy = "${PERF_POLICY:-direct-only}"
inbound = "any"
[[hubs]]
key = "$(<"$dir/hub.pub")"
endpoint = "$(<"$dir/endpoint")"
carrier = "${PERF_CARRIER:-auto}"
TOML
launch "$side" join --config "$dir/$side.toml"
for ((i = 0; i < 100; i++)); do
  if ip -n "$ns" -o addr show dev "$PERF_IF" 2>/dev/null | grep -q "${PERF_ADDR%/*}"; then exit 0; fi
  is_ours "$side" || [[ $i -lt 5 ]] || break
  sleep 0.1
done
cat "$dir/$side.log" >&2
exit 1
