#!/usr/bin/env bash
# One side of a WireGuard tunnel between two multi-region daemons, for a throughput lab.
#
#   perf-peer.sh start|stop SIDE NS     SIDE is a or b
#
# `start` leaves a daemon running in network namespace NS, with the interface $PERF_IF, whose address
# is $PERF_ADDR as soon as the other side answers. All between the two addresses goes through the
# router, also what begins at the other end. Given in the environment:
#   PERF_IF PERF_ADDR PERF_PEER_ADDR PERF_MTU              the tunnel
#   PERF_PEER_UNDERLAY PERF_PORT                           where the other side is, and both ports
#   PERF_WG_PRIVATE PERF_WG_PEER_PUBLIC                    keys, base64
#   PERF_DIR                                               a scratch directory
# and, if wanted:
#   MULTI_REGION       the program (target/release/examples/multi-region)
#   PERF_OFFLOAD       auto or off (auto)
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
program=${MULTI_REGION:-${CARGO_TARGET_DIR:-$here/../../target}/release/examples/multi-region}
[[ $# == 3 && $1 =~ ^(start|stop)$ && $2 =~ ^[ab]$ ]] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
ns=$3 dir=$PERF_DIR/multi-region-$2

is_ours() {                              # not another process that got the number
  [[ -r $dir/pid && $(readlink "/proc/$(<"$dir/pid")/exe") == "$(realpath "$program")" ]]
}

if [[ $1 == stop ]]; then
  is_ours || exit 0
  pid=$(<"$dir/pid")
  kill "$pid"
  for ((i = 0; i < 50; i++)); do is_ours || exit 0; sleep 0.1; done
  kill -9 "$pid"
  exit 0
fi

[[ -x $program ]] || { echo "$program is missing: cargo build --release --example multi-region" >&2; exit 1; }
umask 077
mkdir -p "$dir"
cat >"$dir/peer.conf" <<CONF
[Interface]
PrivateKey = $PERF_WG_PRIVATE
Address = $PERF_ADDR
ListenPort = $PERF_PORT
MTU = $PERF_MTU
[Peer]
PublicKey = $PERF_WG_PEER_PUBLIC
AllowedIPs = $PERF_PEER_ADDR/32
Endpoint = $PERF_PEER_UNDERLAY:$PERF_PORT
CONF
cat >"$dir/multi-region.toml" <<TOML
on_exit = "open"
direct = "never"
[interface]
name = "$PERF_IF"
mtu = $PERF_MTU
offload = "${PERF_OFFLOAD:-auto}"
[dns]
apply = "none"
[tunnel.peer]
wireguard = "peer.conf"
[[rule]]
dst = "$PERF_PEER_ADDR/32"
to = "peer"
[[inbound]]
tunnel = "peer"
proto = "tcp"
[[inbound]]
tunnel = "peer"
proto = "udp"
[[inbound]]
tunnel = "peer"
proto = "icmp"
TOML
ip netns exec "$ns" setsid "$program" run --config "$dir/multi-region.toml" >"$dir/log" 2>&1 </dev/null &
echo $! >"$dir/pid"
for ((i = 0; i < 50; i++)); do
  if ip -n "$ns" link show "$PERF_IF" >/dev/null 2>&1; then exit 0; fi
  is_ours || [[ $i -lt 5 ]] || break
  sleep 0.1
done
cat "$dir/log" >&2
exit 1
