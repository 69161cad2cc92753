//! Loading everything: from another etcd than before, and with what others wrote below the prefix.

use super::*;
use etcd_client::Client;
use vpn_lab_etcd::Wire;

async fn client(server: &Server) -> Client {
    Client::connect([server.endpoint()], None).await.unwrap()
}

/// A key of the prefix that no directory writes so long a value under.
async fn rubbish(server: &Server, key: &str, bytes: usize) {
    let mut client = client(server).await;
    client.put(key, vec![b'x'; bytes], None).await.unwrap();
}

#[tokio::test]
async fn another_etcd_is_loaded_also_if_that_fails_at_first() {
    let (Some(one), Some(other)) = (Server::start(), Server::start()) else {
        return;
    };
    let mut wire = Wire::to(&one);
    let follower = directory(wire.endpoint(), 9);
    let gone = record(1, 1, Vec::new());
    directory(one.endpoint(), 1)
        .publish(gone.clone())
        .await
        .unwrap();
    // The first one's revision is beyond all records of the other, and below the other's.
    for _ in 0..100 {
        rubbish(&one, "elsewhere", 1).await;
    }
    sees(&follower, &gone, 10).await;
    let mut there = Vec::new();
    for node in 20..80 {
        let record = record(node, 1, Vec::new());
        let directory = directory(other.endpoint(), node);
        directory.publish(record.clone()).await.unwrap();
        there.push((record, directory));
    }
    for _ in 0..100 {
        rubbish(&other, "elsewhere", 1).await;
    }
    // It is asked how it stands, and breaks off while everything is loaded.
    wire.cut();
    wire.lead_to(&other, 4096);
    wire.mend();
    becomes("it is not tried again", 20, async || wire.carried() > 3).await;
    assert!(!follower.status().following);
    wire.cut();
    wire.lead_to(&other, u64::MAX);
    wire.mend();
    follower.followed().await;
    let mut missing = Vec::new();
    for (record, _) in &there {
        if !knows(&follower, record).await {
            missing.push(record.peer);
        }
    }
    assert!(missing.is_empty(), "{} are missing", missing.len());
    assert!(!knows(&follower, &gone).await);
}

#[tokio::test]
async fn what_others_wrote_below_the_prefix_keeps_nobody_from_loading() {
    // One entry may be longer than a page here.
    let options = ["--max-request-bytes=20000000".to_owned()];
    let Some(server) = Server::start_with("http", &options) else {
        return;
    };
    // Before, between and behind the records.
    for number in 0..12 {
        rubbish(&server, &format!("vpn/address/{number}"), 1 << 20).await;
        rubbish(&server, &format!("vpn/record/{number:x}junk"), 1 << 20).await;
        rubbish(&server, &format!("vpn/z{number}"), 1 << 20).await;
    }
    let hex = |node: u32| -> String {
        let peer = identity(node).id();
        peer.0.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    rubbish(&server, "vpn/address/10.7.0.1", 9 << 20).await;
    rubbish(&server, &format!("vpn/record/{}", hex(99)), 9 << 20).await;
    // Not asked for at all.
    rubbish(&server, "vpn/rules/1", 9 << 20).await;
    let mut all = Vec::new();
    for node in 0..20 {
        let record = record(node, 1, Vec::new());
        let directory = directory(server.endpoint(), node);
        directory.publish(record.clone()).await.unwrap();
        all.push((record, directory));
    }
    let late = directory(server.endpoint(), 50);
    let loaded = timeout(Duration::from_secs(20), late.followed()).await;
    assert!(loaded.is_ok(), "{:?}", late.status());
    for (record, _) in &all {
        assert!(knows(&late, record).await, "{:?}", late.status());
    }
    let status = late.status();
    assert_eq!(status.records, 20);
    // The two that are too long; what is under no key of ours is none of our business.
    assert_eq!(status.refused, 2, "{status:?}");
}

#[tokio::test]
async fn what_others_wrote_keeps_nobody_from_leasing_and_publishing() {
    let options = ["--max-request-bytes=20000000".to_owned()];
    let Some(server) = Server::start_with("http", &options) else {
        return;
    };
    let node = identity(1).id();
    let hex: String = node.0.iter().map(|byte| format!("{byte:02x}")).collect();
    rubbish(&server, &format!("vpn/record/{hex}"), 9 << 20).await;
    rubbish(&server, &format!("vpn/node/{hex}/10.7.0.0_31"), 9 << 20).await;
    // Taken addresses are listed when those that were tried blindly are taken.
    for number in 0..6 {
        let long = format!("vpn/address/{}{number}", "x".repeat(1 << 20));
        rubbish(&server, &long, 1).await;
    }
    let pools = [pool("10.7.0.0/31")];
    let two = directory(server.endpoint(), 2);
    let first = two.lease(&pools, &[]).await.unwrap();
    let one = directory(server.endpoint(), 1);
    let address = one.lease(&pools, &first).await.unwrap();
    assert_ne!(address, first);
    let refused = directory(server.endpoint(), 3).lease(&pools, &[]).await;
    assert!(
        matches!(refused, Err(EtcdError::Exhausted { .. })),
        "{refused:?}"
    );
    let said = record(1, 1, address);
    one.publish(said.clone()).await.unwrap();
    two.followed().await;
    sees(&two, &said, 10).await;
}

/// Whoever may write there could otherwise name a number that leaves none larger.
#[tokio::test]
async fn what_a_peer_did_not_sign_for_this_is_no_reason_to_refuse_its_record() {
    let Some(server) = Server::start() else {
        return;
    };
    let (own, purpose) = (pool("10.7.0.0/24"), Terms::new(b"another purpose\0"));
    let one = directory(server.endpoint(), 1);
    let address = one.lease(&[own], &[]).await.unwrap();
    let peer = identity(1).id();
    let clock = UnixClock::default();
    let config = config(server.endpoint());
    let other = EtcdDirectory::start(config, peer, Book::new(purpose), clock).unwrap();
    let draft = Draft {
        addresses: Vec::new(),
        sequence: u64::MAX - 1,
        expires: UnixClock::default().now() + 3600,
        body: Default::default(),
    };
    let signed = draft.sign(&identity(1), &purpose).unwrap();
    other.publish(signed).await.unwrap();
    let said = record(1, 1, address);
    one.publish(said.clone()).await.unwrap();
    assert_eq!(one.resolve(peer).await.unwrap(), Some(said));
}

#[tokio::test]
async fn more_news_than_one_message_may_have_are_loaded() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut wire = Wire::to(&server);
    let follower = directory(wire.endpoint(), 9);
    follower.followed().await;
    wire.cut();
    becomes("it is not noticed", 10, async || {
        !follower.status().following
    })
    .await;
    let one = directory(server.endpoint(), 1);
    one.publish(record(1, 1, Vec::new())).await.unwrap();
    // etcd tells a thousand changes at once.
    for _ in 0..70 {
        rubbish(&server, "vpn/rubbish", 1 << 20).await;
    }
    let said = record(1, 2, Vec::new());
    one.publish(said.clone()).await.unwrap();
    wire.mend();
    becomes("it is not followed again", 20, async || {
        follower.status().following && knows(&follower, &said).await
    })
    .await;
}
