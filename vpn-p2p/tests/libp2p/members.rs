//! Who is let in.

use std::time::{Duration, Instant};

use super::world::{Member, PATIENCE, address, config, everybody, identity, own};
use tokio::time::{sleep, timeout};
use vpn_core::{DropCounters, PacketBatch, PeerDirectory as _, TunnelTransport as _};
use vpn_p2p::directory::Draft;
use vpn_p2p::libp2p::body::{Body, TERMS};
use vpn_p2p::libp2p::{Admission, Certificate, Node, Own};

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

/// Strangers of a network with a key that say nothing, and come again when they are put out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_do_not_take_the_places_of_members() {
    let admission = || Admission::Network(identity(50).id());
    let mut few = config(admission(), &[]);
    few.max_connections = 16;
    let one = Member::with(1, few, until_then(1, 600)).await;
    let places = one.node.addresses();
    let strangers: Vec<_> = (60..84)
        .map(|n| {
            let only = config(Admission::list([identity(1).id()]), &places);
            Node::start(only, &identity(n)).unwrap()
        })
        .collect();
    let connected = || strangers.iter().map(|s| s.status().counters.connections);
    until("all of them knocked", || connected().all(|times| times > 0)).await;
    let here = || one.node.status().peers.len();
    until("a quarter is theirs", || here() <= 4).await;
    // How long so many take to knock is not of interest: they go on, and who is there came just now.
    let begun = Instant::now();
    let two = Member::with(2, config(admission(), &places), until_then(2, 600)).await;
    until("admitted", || one.node.is_admitted(two.node.id())).await;
    // It did not wait until the ten seconds of who was there were over.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(9), "{took:?}");
    two.is_found_by(&one).await;
    assert_eq!(one.node.status().admitted, [two.node.id()]);
}

/// What a member says is said in one network: it is not believed in another one with the same members.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_another_network_are_none_of_this_one() {
    let named = |name: &str, places: &[_]| {
        let mut config = config(everybody(), places);
        config.network = name.to_owned();
        config
    };
    let one = Member::with(1, named("home", &[]), own(&[address(1)])).await;
    let places = one.node.addresses();
    let other = Member::with(2, named("work", &places), own(&[address(2)])).await;
    // Both say who they are; who hears it first puts the other one out, which then says nothing any more.
    let not_believed = |member: &Member| member.node.status().not_believed;
    until("refused", || {
        not_believed(&one) + not_believed(&other) > 0 && one.node.status().admitted.is_empty()
    })
    .await;
    let two = Member::with(3, named("home", &places), own(&[address(3)])).await;
    two.up().await;
    two.is_found_by(&one).await;
    assert_eq!(one.node.status().admitted, [two.node.id()]);
    let found = one.directory.resolve(other.node.id()).await;
    assert_eq!(found.unwrap(), None);
}

/// Certified by network 50 for so many seconds.
fn until_then(n: u8, lives: u64) -> Own {
    let mut own = own(&[address(n)]);
    let end = vpn_p2p::directory::UnixClock::default().now() + lives;
    let certificate = Certificate::issue(&identity(50), identity(n).id(), end, &[]);
    own.certificate = Some(certificate);
    own
}

/// Who is connected when its certificate ends is a member no longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_one_until_its_certificate_ends() {
    let admission = || Admission::Network(identity(50).id());
    let one = Member::with(1, config(admission(), &[]), until_then(1, 600)).await;
    let places = one.node.addresses();
    // Long enough to be admitted by it on a busy machine.
    let two = Member::with(2, config(admission(), &places), until_then(2, 12)).await;
    until("admitted", || one.node.is_admitted(two.node.id())).await;
    until("put out", || one.node.status().peers.is_empty()).await;
    assert!(!one.node.is_admitted(two.node.id()));
    assert!(one.node.status().turned_away > 0);
}

/// The next certificate is said before the first one ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_a_new_certificate_stays() {
    let admission = || Admission::Network(identity(50).id());
    let one = Member::with(1, config(admission(), &[]), until_then(1, 600)).await;
    let places = one.node.addresses();
    // Long enough to be admitted by it, and to say the next one, on a busy machine.
    let first = until_then(2, 12);
    let over = vpn_p2p::directory::UnixClock::default().now() + 12;
    let two = Member::with(2, config(admission(), &places), first).await;
    until("admitted", || one.node.is_admitted(two.node.id())).await;
    let directory = two.directory.clone();
    let again = two
        .node
        .announce(until_then(2, 600), identity(2), directory);
    again.unwrap();
    // It is looked at every second.
    while vpn_p2p::directory::UnixClock::default().now() < over + 2 {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(one.node.is_admitted(two.node.id()));
    assert_eq!(one.node.status().turned_away, 0);
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
