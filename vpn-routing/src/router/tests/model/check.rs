//! What the real router did, compared with what the naive one says.

use std::collections::HashMap;
use std::time::Duration;

use vpn_core::packet::{Message, Packet, Parsed, Quoted, tcp_flags};
use vpn_core::testing::verify_checksums;
use vpn_core::{DropCounters, DropReason, FlowKey, Protocol, TunnelId};

use super::super::world::{SITE, addr};
use super::oracle::{Oracle, RESOLVER, Way};
use super::real::{Came, DEVICE, Delivered, Last, MAX_FLOWS, Real};
use super::transition::{Change, NAMES, TUNNELS};
use crate::dns::DnsLimits;
use crate::router::tests::measure::balances;
use crate::router::{Egress, RouterConfig};

/// What a packet that an application sent ends with.
pub(super) fn number(bytes: &[u8]) -> u32 {
    let mut last = [0; 4];
    last.copy_from_slice(&bytes[bytes.len() - 4..]);
    u32::from_be_bytes(last)
}

/// Where in its datagram a packet's payload begins, in bytes; 0 for a whole one.
fn offset(bytes: &[u8]) -> u16 {
    let field = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    match bytes[0] >> 4 {
        4 => (field(6) & 0x1fff) * 8,
        _ if bytes[6] == 44 => field(42) & 0xfff8,
        _ => 0,
    }
}

fn parsed(bytes: &[u8]) -> Parsed {
    Parsed::from_bytes(bytes).unwrap()
}

impl Real {
    /// After every step.
    pub(super) fn check(&mut self, oracle: &Oracle) {
        let accounts = self.router.accounts();
        assert!(accounts.balance(), "{accounts:?}");
        let mut snapshot = vpn_core::metrics::Snapshot::default();
        self.router.status().measure(&mut snapshot);
        assert!(balances(&snapshot), "{snapshot:?}");
        let limits = RouterConfig::default().hold;
        let workers = self.router.routers.len();
        assert!(accounts.held <= (limits.flows * limits.flow_packets * workers) as u64);
        self.check_flows();
        // What the router says to applications by itself.
        for bytes in self.take_device() {
            verify_checksums(&bytes).unwrap();
            let parsed = parsed(&bytes);
            let own = matches!(parsed.message, Message::IcmpError | Message::Tcp(_));
            assert!(own, "nobody sent {:?}", parsed.flow);
            let here = DEVICE.concat();
            assert!(
                here.iter().any(|text| addr(text) == parsed.flow.dst()),
                "for {:?}",
                parsed.flow
            );
        }
        let ready: Vec<Egress> = self.router.ready().collect();
        for tunnel in 0..TUNNELS {
            let at = usize::from(tunnel);
            let (target, stalled) = (Egress::Tunnel(self.ids[at]), oracle.stalled[at]);
            let mut queued: Vec<Vec<u8>> = Vec::new();
            let _ = self.router.transmit::<()>(target, |queue, _| {
                queued.extend(queue.packets().iter().map(|p| p.bytes().to_vec()));
                if stalled {
                    return Ok(0);
                }
                queue.clear();
                Ok(queued.len())
            });
            assert_eq!(ready.contains(&target), !queued.is_empty());
            let seen = std::mem::take(&mut self.seen[at]);
            for bytes in &queued {
                let parsed = parsed(bytes);
                verify_checksums(bytes).unwrap();
                self.check_source(oracle, tunnel, &parsed);
                let own = matches!(parsed.message, Message::Tcp(flags) if flags & tcp_flags::RST != 0)
                    && usize::from(parsed.payload) == bytes.len();
                let known = seen.contains(&(number(bytes), offset(bytes)));
                match parsed.message {
                    _ if own => self.check_reset(tunnel, &parsed),
                    _ if known => {}
                    Message::IcmpError => self.check_error_routed(tunnel, bytes, &parsed),
                    _ => self.check_routed(oracle, tunnel, bytes, &parsed),
                }
            }
            if stalled {
                self.seen[at] = queued.iter().map(|b| (number(b), offset(b))).collect();
            }
        }
    }

    /// Every two flows of the table: no two look the same in one tunnel.
    fn check_flows(&self) {
        let flows = self.router.flows(usize::MAX);
        assert!(flows.len() <= MAX_FLOWS * self.router.routers.len());
        for (at, one) in flows.iter().enumerate() {
            for other in &flows[at + 1..] {
                assert_ne!(one.device, other.device);
                assert_ne!((one.tunnel, one.wire), (other.tunnel, other.wire));
                let udp = |f: &FlowKey| f.protocol() == Protocol::UDP;
                let shared = one.tunnel == other.tunnel && udp(&one.device) && udp(&other.device);
                let ends = |f: &FlowKey| (f.src(), f.src_port());
                if shared && ends(&one.wire) == ends(&other.wire) {
                    // RFC 4787 REQ-3.
                    assert_eq!(ends(&one.device), ends(&other.device), "{one:?} {other:?}");
                }
            }
        }
    }

    fn check_source(&self, oracle: &Oracle, tunnel: u8, parsed: &Parsed) {
        let source = parsed.flow.src();
        let assigned = oracle.assigned(tunnel);
        let has = assigned
            .iter()
            .flat_map(|assigned| &assigned.addresses)
            .any(|net| net.addr() == source);
        assert!(has, "{source} in tunnel {tunnel} with {assigned:?}");
    }

    /// A packet is in a tunnel's queue for the first time.
    fn check_routed(&mut self, oracle: &Oracle, tunnel: u8, bytes: &[u8], wire: &Parsed) {
        assert!(oracle.is_up(tunnel), "sent into a tunnel that is not up");
        let id = self.ids[usize::from(tunnel)];
        let (number, offset) = (number(bytes), offset(bytes));
        let again = self.routed.insert((number, offset), (id, oracle.step));
        if let Some((before, _)) = again {
            assert!(wire.first_fragment || offset > 0, "{number} twice");
            assert_eq!(before, id, "a fragment twice");
        }
        let sent = self.sent[number as usize].clone();
        let flow = sent.flow;
        let whole = offset == 0 && !wire.first_fragment;
        if whole {
            assert_eq!(bytes.len(), sent.bytes.len());
        }
        let steered = flow.dst() == addr(RESOLVER) && !flow.protocol().is_icmp();
        let resolver = oracle.assigned(tunnel).map(|a| a.dns[0]);
        let expected = if steered { resolver } else { Some(flow.dst()) };
        assert_eq!(Some(wire.flow.dst()), expected);
        if offset > 0 {
            // It follows the first one, wherever that went.
            let (first, _) = self.routed[&(number, 0)];
            assert_eq!(first, id, "a fragment follows another flow");
            return;
        }
        assert_eq!(wire.flow.dst_port(), flow.dst_port());
        let answered = self.check_tunnel(oracle, tunnel, &sent, number);
        let socket = oracle.holder(Self::port_of(&flow)).socket;
        let last = Last {
            id,
            answered: answered && !sent.new_connection,
            number,
            generation: self.router.generation(),
            socket,
        };
        self.last.insert(flow, last);
        self.remember(tunnel, bytes, wire.flow, oracle.now);
    }

    /// Who may have sent it, and what the rules say to each. Returns whether its connection was
    /// answered in this tunnel.
    fn check_tunnel(
        &self,
        oracle: &Oracle,
        tunnel: u8,
        sent: &super::real::Sent,
        number: u32,
    ) -> bool {
        let (flow, id) = (sent.flow, self.ids[usize::from(tunnel)]);
        let port = Self::port_of(&flow);
        let holders = oracle.holders_since(port, sent.step);
        let nobody = self.unowned.contains(&flow).then_some(None);
        let ways: Vec<_> = holders
            .iter()
            .map(|held| Some(held.user))
            .chain(nobody)
            .flat_map(|user| self.ways(oracle, user, &flow, sent.asks))
            .collect();
        let by_rule = ways
            .iter()
            .any(|(_, way, _)| matches!(way, Way::Through(all) if all.contains(&tunnel)));
        let last = self.last.get(&flow).copied();
        let same_tunnel = last.is_some_and(|last| last.id == id);
        let answered = same_tunnel && last.is_some_and(|last| last.answered);
        // A live connection cannot move; its rule may let it stay.
        let kept = ways
            .iter()
            .any(|(_, way, change)| *way != Way::Blocked && *change == Change::Keep);
        let stays = flow.protocol() == Protocol::TCP && !sent.new_connection && answered && kept;
        // An answer that was seen since does not move a flow.
        let named = self.book.iter().any(|((_, at, _), _)| *at == flow.dst());
        let undisturbed = named
            && same_tunnel
            && last.is_some_and(|last| {
                last.generation == self.router.generation()
                    && last.socket == oracle.holder(port).socket
            });
        assert!(
            by_rule || stays || undisturbed,
            "{flow} (packet {number}) in tunnel {tunnel}; the rules say {ways:?}"
        );
        if let Some(last) = last
            && last.number >= number
        {
            // Of two tunnels it cannot be told which got its packet first in one step.
            let (_, routed) = self.routed[&(last.number, 0)];
            assert!(
                last.id != id && routed == oracle.step,
                "{flow}: {number} after {}",
                last.number
            );
        }
        answered
    }

    /// Liveness: nothing to wait for, and nothing dropped that need not be.
    pub(super) fn check_nothing_lost(
        &self,
        oracle: &Oracle,
        port: u8,
        flow: &FlowKey,
        asks: Option<u8>,
        before: &DropCounters,
    ) {
        let ways = self.ways(oracle, Some(oracle.holder(port).user), flow, asks);
        let [(_, Way::Through(tunnels), _)] = ways.as_slice() else {
            return;
        };
        let carried = tunnels.iter().all(|&tunnel| {
            let mut addresses = oracle
                .assigned(tunnel)
                .into_iter()
                .flat_map(|a| a.addresses);
            let carried = addresses.any(|net| net.addr().is_ipv6() == flow.src().is_ipv6());
            carried && !oracle.stalled[usize::from(tunnel)]
        });
        if oracle.slow || !carried {
            return;
        }
        let permitted = [
            DropReason::FlowTableFull,
            DropReason::OwnerQuota,
            // A live connection waits for its tunnel, or was ended.
            DropReason::TunnelDown,
            DropReason::FlowEnded,
            DropReason::QueueFull,
            DropReason::DnsPendingFull,
        ];
        for (reason, count) in self.router.accounts().drops.iter() {
            let lost = count - before.get(reason);
            assert!(
                lost == 0 || permitted.contains(&reason),
                "{flow}: dropped without need: {reason:?}; the rules say {ways:?}"
            );
        }
    }

    /// What came out at the device for an answer to `came` through tunnel `via`.
    pub(super) fn check_delivered(
        &mut self,
        oracle: &Oracle,
        came: &Came,
        via: u8,
        kind: u8,
        wire: &[u8],
        out: Vec<Vec<u8>>,
    ) {
        let through = self.ids[usize::from(via)];
        assert!(out.len() <= 1, "one packet in, {} out", out.len());
        let learned = self.sent[came.sent as usize].asks.map(|name| {
            let address = addr([SITE, "203.0.113.99"][usize::from(kind % 2)]);
            let name = NAMES[usize::from(name)].parse().unwrap();
            (Some(via), address, name)
        });
        let Some(bytes) = out.into_iter().next() else {
            // What a rule keeps from its reader may have been learned all the same.
            let perhaps = learned.map(|known| (known, Duration::ZERO));
            self.book.extend(perhaps);
            return;
        };
        verify_checksums(&bytes).unwrap();
        let got = parsed(&bytes).flow.reversed();
        // Whose wire key that is now: the last that used it in that tunnel.
        let mut latest = self.came.iter().rev();
        let asker = latest.find(|c| c.id == through && c.wire == came.wire);
        let another = "the answer to another flow";
        assert!(
            self.asked(&got, asker) || self.took_over(&got, asker),
            "{another}: {got}"
        );
        if let Some(known) = learned {
            let first = self.answered.insert(came.sent);
            assert!(first, "a query is answered twice");
            let waited = oracle.now - came.at;
            assert!(waited <= DnsLimits::default().patience, "answered late");
            assert_eq!((came.id, came.tunnel), (through, via), "answered elsewhere");
            let until = oracle.now + DnsLimits::default().shortest;
            self.book.push((known, until));
        }
        if let Some(last) = self.last.get_mut(&got) {
            last.answered |= last.id == through;
        }
        self.delivered.push(Delivered {
            id: through,
            wire: wire.to_vec(),
            bytes,
        });
    }

    /// Whether this is the flow of which a packet went through the tunnel.
    fn asked(&self, flow: &FlowKey, asker: Option<&Came>) -> bool {
        asker.is_some_and(|asker| self.sent[asker.sent as usize].flow == *flow)
    }

    /// Whether this flow may have the wire key of `asker`, or of nobody, although nothing of it came
    /// out: its first packet found a full queue, or was a query in pieces.
    fn took_over(&self, flow: &FlowKey, asker: Option<&Came>) -> bool {
        let later = &self.sent[asker.map_or(0, |asker| asker.sent as usize)..];
        let drops = self.router.accounts().drops;
        let refused = self.in_pieces.contains(flow) || drops.get(DropReason::QueueFull) > 0;
        refused && later.iter().any(|sent| sent.flow == *flow)
    }

    /// An ICMP error about `came` through tunnel `via`: what it quotes is what was sent.
    pub(super) fn check_error_delivered(&self, came: &Came, via: u8, out: Vec<Vec<u8>>) {
        let through = self.ids[usize::from(via)];
        let Some(bytes) = out.into_iter().next() else {
            return;
        };
        verify_checksums(&bytes).unwrap();
        let outer = parsed(&bytes);
        let quoted = &bytes[usize::from(outer.transport) + 8..];
        let mut latest = self.came.iter().rev();
        let asker = latest.find(|c| c.id == through && c.wire == came.wire);
        let inner = parsed(quoted);
        let another = "the error of another flow";
        assert!(
            self.asked(&inner.flow, asker) || self.took_over(&inner.flow, asker),
            "{another}: {}",
            inner.flow
        );
        assert_eq!(outer.flow.dst(), inner.flow.src());
        let original = &self.sent[came.sent as usize];
        // Of a fragment only the first is quoted, and its identification may be another.
        if original.flow == inner.flow && !inner.first_fragment {
            assert_eq!(quoted, original.bytes, "quoted as it was sent");
        }
    }

    /// The router ends a connection at its far end.
    fn check_reset(&self, tunnel: u8, reset: &Parsed) {
        let id = self.ids[usize::from(tunnel)];
        let mut came = self.came.iter();
        assert!(
            came.any(|came| came.id == id && came.wire == reset.flow),
            "{} is reset, and nothing of it came through tunnel {tunnel}",
            reset.flow
        );
    }

    /// This host's ICMP error about an answer went out.
    fn check_error_routed(&self, tunnel: u8, bytes: &[u8], outer: &Parsed) {
        let id = self.ids[usize::from(tunnel)];
        let icmp = usize::from(outer.transport);
        let v6 = outer.flow.src().is_ipv6();
        if (bytes[icmp], bytes[icmp + 1]) == if v6 { (2, 0) } else { (3, 4) } {
            return self.check_narrow(id, &bytes[icmp..], Quoted::of(bytes, outer).unwrap());
        }
        let inner = parsed(&bytes[icmp + 8..]);
        let mut answers = self.delivered.iter();
        // An error about what came before the flow moved is not told from one about what came
        // since; but something of it has come through this tunnel.
        assert!(
            answers.any(|d| d.id == id && parsed(&d.wire).flow == inner.flow),
            "an error in tunnel {tunnel} about what did not come through it"
        );
        assert_eq!(outer.flow.dst(), inner.flow.src());
        assert_eq!(outer.flow.src(), inner.flow.dst());
    }

    /// The far end of a live connection is told that its tunnel became narrower.
    fn check_narrow(&self, id: TunnelId, icmp: &[u8], quoted: Quoted) {
        let told = u16::from_be_bytes([icmp[6], icmp[7]]);
        let status = self.router.status();
        let tunnel = status.tunnels.iter().find(|t| t.id == id).unwrap();
        assert_eq!(told, tunnel.mtu);
        assert_eq!(quoted.flow.protocol(), Protocol::TCP);
        let wire = quoted.flow.reversed();
        let mut came = self.came.iter();
        assert!(came.any(|c| c.id == id && c.wire == wire), "who is {wire}?");
    }

    /// At the end nothing is held for ever.
    pub(super) fn check_end(&self) {
        assert_eq!(self.router.accounts().held, 0);
    }
}

/// How many transitions of each kind were run.
#[derive(Clone, Debug, Default)]
pub(super) struct Count(HashMap<&'static str, u64>);

impl Count {
    pub(super) fn add(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    pub(super) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    pub(super) fn text(&self) -> String {
        let mut kinds: Vec<_> = self.0.iter().collect();
        kinds.sort();
        let kinds = kinds
            .into_iter()
            .map(|(name, count)| format!("{name} {count}"));
        kinds.collect::<Vec<_>>().join(", ")
    }
}

#[test]
fn a_packet_is_known_by_its_last_bytes() {
    let packet = Packet::from_slice(&[0, 0, 0, 0, 7]);
    assert_eq!(number(packet.bytes()), 7);
}
