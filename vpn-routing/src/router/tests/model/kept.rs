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
