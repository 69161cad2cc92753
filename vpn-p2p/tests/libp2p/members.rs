//! Who is let in.

use std::time::Duration;

use super::world::{Member, PATIENCE, address, config, everybody, identity, own};
use tokio::time::{sleep, timeout};
use vpn_core::{DropCounters, PacketBatch, TunnelTransport as _};
use vpn_p2p::directory::Draft;
use vpn_p2p::libp2p::body::{Body, TERMS};
use vpn_p2p::libp2p::{Admission, Certificate};

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn who_is_not_on_the_list_is_not_connected() {
    let bootstrap = Member::new(1, &[]).await;
    let places = bootstrap.node.addresses();
    // It would let everybody in.
    let both = Admission::list([identity(1).id(), identity(99).id()]);
    let stranger = Member::with(99, config(both, &places), own(&[address(99)])).await;
    until("turned away", || bootstrap.node.status().turned_away > 0).await;
    let member = Member::new(2, &places).await;
    member.up().await;
    let admitted = || bootstrap.node.status().admitted;
    until("admitted", || admitted() == [identity(2).id()]).await;
    assert_eq!(stranger.node.status().admitted, []);
}

#[tokio::test]
async fn with_a_network_key_members_are_who_has_a_certificate() {
    let network = identity(50);
    let admission = || Admission::Network(network.id());
    let certified = |n: u8, by: &vpn_p2p::identity::Identity| {
        let mut own = own(&[address(n)]);
        let certificate = Certificate::issue(by, identity(n).id(), u64::MAX, &[address(n)]);
        own.certificate = Some(certificate);
        own
    };
    let one = Member::with(1, config(admission(), &[]), certified(1, &network)).await;
    let places = one.node.addresses();
    let two = Member::with(2, config(admission(), &places), certified(2, &network)).await;
    two.up().await;
    // One without a certificate, one with somebody else's signature, one with another's address.
    let without = Member::with(3, config(everybody(), &places), own(&[address(3)])).await;
    let forged = Member::with(4, config(everybody(), &places), certified(4, &identity(4))).await;
    let mut other = certified(5, &network);
    other.addresses = own(&[address(2)]).addresses;
    let thief = Member::with(5, config(everybody(), &places), other).await;
    until("refused", || one.node.status().not_believed >= 3).await;
    until("disconnected", || one.node.status().peers.len() == 1).await;
    assert_eq!(one.node.status().admitted, [identity(2).id()]);
    two.send(&one, 1);
    assert_eq!(one.receive().await, (two.address, 1));
    drop((without, forged, thief));
}

/// Two claim one address: at every node the same one has it, and each tells of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_claims_have_one_winner_and_are_told_of() {
    let bootstrap = Member::new(1, &[]).await;
    let places = bootstrap.node.addresses();
    let claim = |n: u8| Member::with(n, config(everybody(), &places), own(&[address(77)]));
    let (one, two) = (claim(2).await, claim(3).await);
    until("told", || {
        !bootstrap.transport.status().conflicts.is_empty()
    })
    .await;
    let conflict = bootstrap.transport.status().conflicts[0].clone();
    assert_eq!(conflict.address, address(77));
    let observer = Member::new(4, &places).await;
    observer.up().await;
    observer.send_from(observer.address, address(77), 5);
    let (winner, loser) = match conflict.winner == one.node.id() {
        true => (&one, &two),
        false => (&two, &one),
    };
    assert_eq!(winner.receive().await, (observer.address, 5));
    // The loser's packets are no one's.
    bootstrap.is_found_by(loser).await;
    loser.up().await;
    winner.send_from(address(77), bootstrap.address, 7);
    assert_eq!(bootstrap.receive().await, (address(77), 7));
    until("counted", || {
        // A packet may be lost where two connections become one: it is said until it is heard.
        loser.send_from(address(77), bootstrap.address, 6);
        let (mut batch, mut drops) = (PacketBatch::new(4, 2048), DropCounters::default());
        let taken = bootstrap.transport.try_recv(&mut batch, &mut drops);
        assert_eq!(taken.unwrap(), 0);
        bootstrap.transport.status().spoofed > 0
    })
    .await;
}

/// Without a bootstrap node a directory that others keep introduces members; strangers it cannot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_meet_by_a_directory_that_they_do_not_keep() {
    let one = Member::new(1, &[]).await;
    let two = Member::new(2, &[]).await;
    let stranger = Member::with(30, config(everybody(), &[]), own(&[address(30)])).await;
    for (met, n, is_member) in [(&two, 2, true), (&stranger, 30, false)] {
        let body = Body {
            endpoints: met.node.endpoints().borrow().clone(),
            ..Body::default()
        };
        let now = vpn_p2p::directory::UnixClock::default().now();
        let draft = Draft {
            addresses: vec![met.address],
            sequence: 1,
            expires: now + 60,
            body: body.encode().into(),
        };
        let record = draft.sign(&identity(n), &TERMS).unwrap();
        assert_eq!(one.node.meet(record).is_ok(), is_member);
    }
    one.up().await;
    two.up().await;
    assert!(!one.node.is_admitted(stranger.node.id()));
}
