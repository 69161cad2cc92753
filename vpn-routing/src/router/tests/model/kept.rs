//! Orders of transitions that failed once.

use super::run_all;
use super::transition::*;

/// For a moment the tunnel is one that is down, and what waits for it goes on by the fallback.
#[test]
fn a_packet_waits_for_a_tunnel_that_is_removed() {
    let rule = Short {
        fallback: Some(0),
        ..Short::of_user(2, Lead::Tunnel(2))
    };
    let (tunnel, state) = (2, State::Connecting);
    run_all(&[
        Transition::Rule {
            place: 3,
            rule: Some(rule),
        },
        Transition::Take { port: 1, user: 2 },
        Transition::Tunnel { tunnel, state },
        Transition::Send {
            port: 1,
            kind: Kind::Udp,
            to: To::Site,
            count: 1,
        },
        Transition::Replace { tunnel: 2 },
    ]);
}

/// A flow whose first packet found a full queue is a flow all the same, and has a wire key that was
/// another's before.
#[test]
fn a_flow_of_which_nothing_came_out_has_a_wire_key() {
    let send = |port, kind, to, count| Transition::Send {
        port,
        kind,
        to,
        count,
    };
    run_all(&[
        send(0, Kind::Rst, To::Site6, 1),
        Transition::Stall {
            tunnel: 0,
            stalled: true,
        },
        send(0, Kind::Udp, To::Site, 33),
        Transition::Advance { ms: 10_001 },
        send(3, Kind::Syn, To::Site6, 1),
        Transition::Reply {
            which: 0,
            wrong: false,
            kind: 0,
        },
    ]);
}

/// An answer that a rule keeps from its reader is learned from all the same.
#[test]
fn an_answer_to_a_name_that_is_blocked_meanwhile() {
    let send = |to| Transition::Send {
        port: 1,
        kind: Kind::Udp,
        to,
        count: 1,
    };
    let rule = Short {
        domain: Some(0),
        ..Short::of_user(1, Lead::Block)
    };
    run_all(&[
        send(To::Resolver(0)),
        Transition::Rule {
            place: 3,
            rule: Some(rule),
        },
        Transition::Reply {
            which: 0,
            wrong: false,
            kind: 0,
        },
        send(To::Site),
    ]);
}

/// A query in fragments is refused, and its flow has the wire key of one that is over all the same.
#[test]
fn a_query_in_fragments_has_a_wire_key() {
    run_all(&[
        Transition::Send {
            port: 0,
            kind: Kind::Udp,
            to: To::Resolver(0),
            count: 1,
        },
        Transition::Advance { ms: 300_000 },
        Transition::Fragments {
            port: 3,
            to: To::Resolver(0),
            first: 0,
            backwards: false,
        },
        Transition::ErrorIn {
            which: 0,
            wrong: false,
        },
    ]);
}

/// A port has had two users since a connection of the first, and answers about both come late.
#[test]
fn several_workers_and_a_port_of_three_users() {
    super::WORKERS.set(2);
    let send = |port, kind, to| Transition::Send {
        port,
        kind,
        to,
        count: 1,
    };
    let answer = |which| Transition::Answer {
        which,
        twice: false,
        nobody: false,
    };
    run_all(&[
        send(0, Kind::Syn, To::Resolver(0)),
        send(0, Kind::Udp, To::Site),
        Transition::Take { port: 0, user: 1 },
        Transition::SlowOwners(true),
        send(0, Kind::Udp, To::Site),
        send(0, Kind::Syn, To::Site),
        send(0, Kind::Syn, To::Resolver(0)),
        send(0, Kind::Echo, To::Resolver(0)),
        Transition::Rule {
            place: 0,
            rule: Some(Short::of_user(0, Lead::Tunnel(0))),
        },
        Transition::Fragments {
            port: 0,
            to: To::Site443,
            first: 0,
            backwards: false,
        },
        Transition::Take { port: 0, user: 2 },
        send(1, Kind::Udp, To::Site),
        send(0, Kind::Udp, To::Site6),
        send(0, Kind::Udp, To::Resolver(0)),
        send(1, Kind::Syn, To::Site),
        answer(0),
        Transition::Advance { ms: 499 },
        Transition::SlowOwners(false),
        Transition::Advance { ms: 0 },
        answer(4458),
        answer(1381),
        send(0, Kind::Udp, To::Site),
        send(0, Kind::Udp, To::Site),
        send(0, Kind::Syn, To::Resolver(0)),
        answer(14_023),
        send(0, Kind::Udp, To::Site),
    ]);
}
