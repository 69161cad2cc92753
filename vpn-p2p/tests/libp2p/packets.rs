//! Packets between members.

use super::world::{Member, address};
use vpn_core::{DropReason, TunnelTransport as _};

/// The thinnest thread: a bootstrap node and two members that know nothing but it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_members_find_each_other_and_the_first_packet_arrives() {
    let bootstrap = Member::new(1, &[]).await;
    let one = Member::new(2, &bootstrap.node.addresses()).await;
    let two = Member::new(3, &bootstrap.node.addresses()).await;
    for member in [&one, &two] {
        member.up().await;
        member.is_found_by(&bootstrap).await;
    }
    for number in 0..5 {
        one.send(&two, number);
    }
    for number in 0..5 {
        assert_eq!(two.receive().await, (one.address, number));
    }
    two.send(&one, 7);
    assert_eq!(one.receive().await, (two.address, 7));
    for member in [&one, &two, &bootstrap] {
        member.transport.close().await;
    }
}

/// What is for nobody waits, and is dropped and counted.
#[tokio::test]
async fn nobody_is_asked_about_once_and_remembered() {
    let bootstrap = Member::new(1, &[]).await;
    let one = Member::new(2, &bootstrap.node.addresses()).await;
    one.up().await;
    for number in 0..3 {
        assert_eq!(one.send_from(one.address, address(99), number).total(), 0);
    }
    let dropped = async {
        while one.transport.status().drops.get(DropReason::NoSession) < 3 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(super::world::PATIENCE, dropped)
        .await
        .unwrap();
    assert_eq!(one.transport.status().lookups, 1);
    let drops = one.send_from(one.address, address(99), 3);
    assert_eq!(drops.get(DropReason::NoSession), 1);
    assert_eq!(one.transport.status().lookups, 1);
}

/// A member sends from an address that is another's (P15).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spoofed_source_is_dropped_and_counted() {
    let bootstrap = Member::new(1, &[]).await;
    let one = Member::new(2, &bootstrap.node.addresses()).await;
    one.up().await;
    bootstrap.is_found_by(&one).await;
    one.send(&bootstrap, 1);
    assert_eq!(bootstrap.receive().await, (one.address, 1));
    // By streams of their own, so they may come later than what is sent after them.
    let counted = async {
        while bootstrap.transport.status().spoofed < 2 {
            for source in [address(99), address(1)] {
                one.send_from(source, bootstrap.address, 2);
            }
            one.send(&bootstrap, 3);
            assert_eq!(bootstrap.receive().await, (one.address, 3));
        }
    };
    tokio::time::timeout(super::world::PATIENCE, counted)
        .await
        .unwrap();
}

/// The bootstrap node dies; the others go on, and find whom they did not know yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_bootstrap_node_everything_goes_on() {
    let bootstrap = Member::new(1, &[]).await;
    let places = bootstrap.node.addresses();
    let mut members = Vec::new();
    for n in 2..=5 {
        members.push(Member::new(n, &places).await);
    }
    for member in &members {
        member.up().await;
        member.is_found_by(&bootstrap).await;
    }
    members[0].send(&members[1], 1);
    assert_eq!(members[1].receive().await.1, 1);
    // Each has its share of the directory, and knows the way to some of the others.
    for member in &members {
        for other in &members {
            member.is_found_by(other).await;
        }
    }
    bootstrap.transport.close().await;
    members[0].send(&members[1], 2);
    assert_eq!(members[1].receive().await.1, 2);
    members[3].send(&members[2], 3);
    assert_eq!(members[2].receive().await, (members[3].address, 3));
}
