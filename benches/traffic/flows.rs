//! First packets of flows, from both sides: what entering a flow costs.

use std::time::Duration;

use vpn_benches::world::{ASSIGNED, app, remote};
use vpn_core::packet::{Packet, tcp_flags};
use vpn_core::rule::RuleProtocol;
use vpn_core::testing::{build, verify_checksums};
use vpn_core::{InboundRule, Parsed, PortRange, RuleId, RuleSnapshot};
use vpn_routing::group::Policy;
use vpn_routing::router::Egress;

use super::case::Case;
use super::lane::{Lane, assigned, everything, of_a_user, settings, to_the_group, tunnel_name};

/// Flows that are entered before all are forgotten and it starts over. Fewer than one inbound rule
/// may have.
const ROUND: u32 = 4032;

/// Tunnels that a group chooses from.
const MEMBERS: u32 = 8;

/// A second application, which has the same ports at another address of the device.
const SECOND: &str = "10.5.0.9";

/// Where connections from behind a tunnel are let in.
const SERVED: u16 = 8080;

/// The first packet of flow number `flow`.
fn datagram(flow: u32) -> Vec<u8> {
    build::udp(app(flow), remote(flow), &[0; 64])
}

/// The same of the second application.
fn colliding(flow: u32) -> Vec<u8> {
    build::udp(second(flow), remote(flow), &[0; 64])
}

fn second(flow: u32) -> (std::net::IpAddr, u16) {
    (address(SECOND), app(flow).1)
}

#[allow(clippy::panic, reason = "constants are right")]
fn address(text: &str) -> std::net::IpAddr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// A flow with each packet, from that side. `renew` is called, off the clock, after all flows were
/// forgotten.
fn entering(
    name: &'static str,
    mut lane: Lane,
    from: Egress,
    packet: impl Fn(u32) -> Vec<u8> + 'static,
    renew: impl Fn(&mut Lane) + 'static,
) -> Case {
    let mut next = 0;
    renew(&mut lane);
    Case::new(name, lane, move |lane, count| {
        if next + count as u32 > ROUND {
            next = 0;
            lane.forget();
            renew(lane);
        }
        for flow in next..next + count as u32 {
            lane.put(&packet(flow));
        }
        next += count as u32;
        lane.route(from);
    })
}

fn flow_of(packets: &[Packet]) -> vpn_core::FlowKey {
    let [packet] = packets else {
        unreachable_packets(packets.len())
    };
    assert!(verify_checksums(packet.bytes()).is_ok());
    match packet.parse() {
        Ok(parsed) => parsed.flow,
        Err(_) => unreachable_packets(0),
    }
}

#[allow(clippy::panic, reason = "measuring what is lost would mislead")]
fn unreachable_packets(count: usize) -> ! {
    panic!("{count} packets where there has to be one")
}

/// New flows of applications.
pub(crate) fn new_flows() -> Vec<Case> {
    let lane = |rules| Lane::new(settings(256), vec![assigned(1420)], rules);
    let mut shared = lane(everything());
    let ours = flow_of(&shared.pass(Egress::Device, [&datagram(0)[..]]));
    let theirs = flow_of(&shared.pass(Egress::Device, [&colliding(0)[..]]));
    assert_eq!(
        (ours.src(), theirs.src()),
        (ASSIGNED.into(), ASSIGNED.into())
    );
    assert_eq!(ours.src_port(), app(0).1);
    assert_ne!(theirs.src_port(), app(0).1, "the port is the other's");
    shared.forget();
    vec![
        entering(
            "new flow, no rule asks whose",
            lane(everything()),
            Egress::Device,
            datagram,
            |_| (),
        ),
        entering(
            "new flow, owner asked, known at once",
            lane(of_a_user()),
            Egress::Device,
            datagram,
            |_| (),
        )
        .allocates(),
        entering(
            "new flow, its port is another's",
            shared,
            Egress::Device,
            colliding,
            |lane| {
                for flow in 0..ROUND {
                    lane.pass(Egress::Device, [&datagram(flow)[..]]);
                }
            },
        ),
    ]
}

/// New flows through a group.
pub(crate) fn members() -> Vec<Case> {
    let tunnels = || vec![assigned(1420); MEMBERS as usize];
    let lane = |policy| Lane::with_group(settings(256), tunnels(), Some(policy), to_the_group());
    let tolerance = Duration::from_millis(10);
    let policies = [
        ("new flow, the first of 8 members", Policy::Ordered),
        ("new flow, the fastest of 8", Policy::Latency { tolerance }),
        (
            "new flow, 8 by weight",
            Policy::Weighted((1..=MEMBERS).collect()),
        ),
    ];
    let none = Lane::new(settings(256), tunnels(), everything());
    let mut cases = vec![entering(
        "new flow, one tunnel of 8",
        none,
        Egress::Device,
        datagram,
        |_| (),
    )];
    for (name, policy) in policies {
        cases.push(entering(
            name,
            lane(policy),
            Egress::Device,
            datagram,
            |_| (),
        ));
    }
    cases
}

/// A SYN that says `mss`.
fn syn(from: (std::net::IpAddr, u16), to: (std::net::IpAddr, u16), flags: u8, mss: u16) -> Vec<u8> {
    let [high, low] = mss.to_be_bytes();
    build::tcp_with_options(from, to, flags, 1, &[2, 4, high, low], &[])
}

fn mss_of(packets: &[Packet]) -> u16 {
    flow_of(packets);
    let bytes = packets[0].bytes();
    let at = Parsed::from_bytes(bytes).map_or(0, |parsed| usize::from(parsed.transport)) + 22;
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Handshakes through a tunnel that lowers what they say.
pub(crate) fn handshakes() -> Vec<Case> {
    const FITS: u16 = 1380;
    let lane = || Lane::new(settings(256), vec![assigned(FITS + 40)], everything());
    let out = |flow, mss| syn(app(flow), remote(flow), tcp_flags::SYN, mss);
    let back = |flow| {
        let flags = tcp_flags::SYN | tcp_flags::ACK;
        syn(remote(flow), (ASSIGNED.into(), app(flow).1), flags, 1460)
    };
    let mut answered = lane();
    let tunnel = answered.tunnel(0);
    let lowered = answered.pass(Egress::Device, [&out(0, 1460)[..]]);
    assert_eq!(mss_of(&lowered), FITS);
    assert_eq!(mss_of(&answered.pass(tunnel, [&back(0)[..]])), FITS);
    for flow in 1..64 {
        answered.pass(Egress::Device, [&out(flow, 1460)[..]]);
    }
    let answers: Vec<_> = (0..64).map(back).collect();
    vec![
        entering(
            "SYN, its MSS fits",
            lane(),
            Egress::Device,
            move |flow| out(flow, FITS),
            |_| (),
        ),
        entering(
            "SYN, its MSS is lowered",
            lane(),
            Egress::Device,
            move |flow| out(flow, 1460),
            |_| (),
        ),
        Case::new(
            "SYN ACK to it, its MSS is lowered",
            answered,
            move |lane, count| {
                for answer in &answers[..count as usize] {
                    lane.put(answer);
                }
                lane.route(tunnel);
            },
        ),
    ]
}

/// Flows from behind a tunnel that a rule lets in.
pub(crate) fn inbound() -> Vec<Case> {
    let rule = |protocol| InboundRule {
        id: RuleId(2),
        tunnel: tunnel_name(0),
        protocol,
        ports: Some(PortRange::single(SERVED)),
        to_port: Some(80),
        remote: None,
        behind: None,
    };
    let lane = |most| {
        let mut config = settings(256);
        config.max_flows_per_inbound_rule = most;
        let rules = RuleSnapshot {
            inbound: vec![
                rule(RuleProtocol::Tcp),
                InboundRule {
                    id: RuleId(3),
                    ..rule(RuleProtocol::Udp)
                },
            ],
            ..everything()
        };
        Lane::new(config, vec![assigned(1420)], rules)
    };
    let server = || (ASSIGNED.into(), SERVED);
    let client = |flow: u32| (remote(flow).0, app(flow).1);
    let opening = move |flow| build::tcp(client(flow), server(), tcp_flags::SYN, 1, &[]);
    let mut usual = lane(4096);
    let tunnel = usual.tunnel(0);
    let let_in = flow_of(&usual.pass(tunnel, [&opening(0)[..]]));
    assert_eq!(let_in.dst_port(), 80, "translated");
    usual.forget();
    let mut full = lane(1024);
    for flow in 0..1024 {
        full.pass(tunnel, [&opening(flow)[..]]);
    }
    let mut next = 1024;
    vec![
        entering(
            "datagram let in by a rule",
            lane(4096),
            tunnel,
            move |flow| build::udp(client(flow), server(), &[0; 64]),
            |_| (),
        ),
        entering("SYN let in by a rule", usual, tunnel, opening, |_| ()),
        Case::new(
            "SYN let in, the oldest half-open one goes",
            full,
            move |lane, count| {
                for flow in next..next + count as u32 {
                    lane.put(&opening(flow));
                }
                next += count as u32;
                lane.route(tunnel);
            },
        ),
    ]
}
