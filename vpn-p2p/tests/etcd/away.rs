//! etcd is away, or one node's way to it is cut: what goes on, and how all is as it should be afterwards.

use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use vpn_lab_etcd::Wire;

/// Brings an etcd that was made anew past a revision that was reached before.
async fn overtake(server: &Server, reached: i64) {
    let mut client = etcd_client::Client::connect([server.endpoint()], None)
        .await
        .unwrap();
    let mut now = 0;
    while now <= reached + 10 {
        let put = client.put("elsewhere", "", None).await.unwrap();
        now = put.header().unwrap().revision();
    }
}

#[tokio::test]
async fn while_etcd_is_away_all_goes_on_and_afterwards_leases_are_kept() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let pools = [pool("10.7.0.0/24")];
    let (one, two) = (
        directory(server.endpoint(), 1),
        directory(server.endpoint(), 2),
    );
    two.followed().await;
    let address = one.lease(&pools, &[]).await.unwrap();
    let said = record(1, 1, address.clone());
    one.publish(said.clone()).await.unwrap();
    sees(&two, &said, 5).await;
    for _ in 0..2 {
        server.kill();
        becomes("it is not noticed", 10, async || !two.status().following).await;
        // Longer than a lease.
        let until = Instant::now() + LEASE * 2;
        while Instant::now() < until {
            let found = two.resolve_address(address[0]).await.unwrap();
            assert_eq!(found, std::slice::from_ref(&said));
            assert!(knows(&two, &said).await);
            sleep(Duration::from_millis(200)).await;
        }
        assert!(two.resolve_address([10, 7, 0, 0].into()).await.is_err());
        assert!(two.status().trouble.is_some());
        server.run();
        let back = Instant::now();
        two.followed().await;
        println!("followed again {:?} after etcd was back", back.elapsed());
        // The address is still its own: nobody else gets it, also after a lease.
        sleep(LEASE * 2).await;
        let mut others = BTreeSet::from([address[0]]);
        assert!(others.insert(two.lease(&pools, &address).await.unwrap()[0]));
        assert_eq!(*one.addresses().borrow(), address);
        assert!(knows(&two, &said).await);
    }
    let next = record(1, 2, address.clone());
    one.publish(next.clone()).await.unwrap();
    becomes("changes do not come in", 5, async || {
        knows(&two, &next).await
    })
    .await;
}

#[tokio::test]
async fn an_etcd_that_lost_everything_is_filled_again() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let pools = [pool("10.7.0.0/24")];
    let (one, two) = (
        directory(server.endpoint(), 1),
        directory(server.endpoint(), 2),
    );
    two.followed().await;
    let address = one.lease(&pools, &[]).await.unwrap();
    for sequence in 1..20 {
        one.publish(record(1, sequence, address.clone()))
            .await
            .unwrap();
    }
    let said = record(1, 20, address.clone());
    one.publish(said.clone()).await.unwrap();
    sees(&two, &said, 5).await;
    server.kill();
    server.wipe();
    server.run();
    becomes("it is not there again", 30, async || {
        two.status().following && knows(&two, &said).await && two.status().records == 1
    })
    .await;
    assert_eq!(one.lease(&pools, &[]).await.unwrap(), address);
    let asked = directory(server.endpoint(), 3);
    asked.followed().await;
    becomes("a third does not see it", 10, async || {
        knows(&asked, &said).await
    })
    .await;
}

/// It has the same id, and no revision goes back: of what happened before that no watch tells.
#[tokio::test]
async fn an_etcd_that_was_made_anew_and_has_overtaken_us_is_loaded() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let pools = [pool("10.7.0.0/31")];
    let one = directory(server.endpoint(), 1);
    let address = one.lease(&pools, &[]).await.unwrap();
    let gone = record(1, 1, address.clone());
    one.publish(gone.clone()).await.unwrap();
    let mut wire = Wire::to(&server);
    let follower = directory(wire.endpoint(), 9);
    follower.followed().await;
    sees(&follower, &gone, 10).await;
    let reached = follower.status().revision.unwrap();
    wire.cut();
    drop(one);
    server.kill();
    server.wipe();
    server.run();
    // The address is another's now, before the revision that was reached.
    let two = directory(server.endpoint(), 2);
    assert_eq!(two.lease(&pools, &address).await.unwrap(), address);
    let said = record(2, 1, address.clone());
    two.publish(said.clone()).await.unwrap();
    overtake(&server, reached).await;
    wire.mend();
    becomes("what happened before is missed", 60, async || {
        let found = follower.resolve_address(address[0]).await;
        found.is_ok_and(|found| found == std::slice::from_ref(&said))
    })
    .await;
    assert_eq!(follower.status().records, 1);
}

/// What is newest was there already when the copy was made: by that alone it would be the same.
#[tokio::test]
async fn an_etcd_that_was_restored_and_has_overtaken_us_is_loaded() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let long = |endpoint: String, node| {
        let mut config = config(endpoint);
        // Nobody's is to end by itself.
        config.lease = Duration::from_secs(300);
        with(config, node)
    };
    let (gone, there) = (record(1, 1, Vec::new()), record(2, 1, Vec::new()));
    // Nobody is there to write them anew.
    for (node, record) in [(1, &gone), (2, &there)] {
        let passing = long(server.endpoint(), node);
        passing.publish(record.clone()).await.unwrap();
    }
    server.kill();
    server.save();
    server.run();
    let mut wire = Wire::to(&server);
    let follower = directory(wire.endpoint(), 9);
    follower.followed().await;
    assert!(knows(&follower, &gone).await && knows(&follower, &there).await);
    let mut client = etcd_client::Client::connect([server.endpoint()], None)
        .await
        .unwrap();
    let peer = gone.peer.0.iter().map(|byte| format!("{byte:02x}"));
    let key = format!("vpn/record/{}", peer.collect::<String>());
    let deleted = client.delete(key, None).await.unwrap();
    assert_eq!(deleted.deleted(), 1);
    becomes("what is gone stays", 60, async || {
        !knows(&follower, &gone).await
    })
    .await;
    let reached = follower.status().revision.unwrap();
    wire.cut();
    server.kill();
    server.restore();
    server.run();
    overtake(&server, reached).await;
    wire.mend();
    becomes("what is there again is missed", 60, async || {
        knows(&follower, &gone).await && follower.status().records == 2
    })
    .await;
}

/// As on a router whose clock begins in 1970, and one whose clock is ahead for a while.
#[tokio::test]
async fn who_had_a_wrong_clock_knows_everybody_soon_after_it_is_right() {
    let Some(server) = Server::start() else {
        return;
    };
    let one = directory(server.endpoint(), 1);
    let address: IpAddr = [10, 7, 0, 1].into();
    let said = record(1, 1, vec![address]);
    one.publish(said.clone()).await.unwrap();
    let wrong = Arc::new(AtomicU64::new(1));
    let clock = {
        let (right, wrong) = (UnixClock::default(), Arc::clone(&wrong));
        UnixClock::new(move || match wrong.load(SeqCst) {
            0 => right.now(),
            wrong => wrong,
        })
    };
    let (config, peer) = (config(server.endpoint()), identity(9).id());
    let follower = EtcdDirectory::start(config, peer, Book::new(TERMS), clock).unwrap();
    follower.followed().await;
    let is_known = async || {
        let found = follower.resolve_address(address).await;
        found.is_ok_and(|found| found == std::slice::from_ref(&said))
    };
    assert!(!is_known().await);
    // Longer than records live.
    for next in [0, UnixClock::default().now() + 100_000, 0] {
        let refused = follower.status().refused;
        wrong.store(next, SeqCst);
        // By a clock that is ahead it is not only expired: it is loaded, and refused.
        becomes("the clock does not count", 60, async || {
            is_known().await == (next == 0) && (next == 0 || follower.status().refused > refused)
        })
        .await;
    }
}

#[tokio::test]
async fn who_was_cut_off_across_a_compaction_has_everything_afterwards() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut wire = Wire::to(&server);
    let follower = directory(wire.endpoint(), 9);
    let writer = directory(server.endpoint(), 1);
    follower.followed().await;
    let gone = directory(server.endpoint(), 3);
    let passing = record(3, 1, Vec::new());
    gone.publish(passing.clone()).await.unwrap();
    sees(&follower, &passing, 5).await;
    let before = follower.status().revision.unwrap();
    wire.cut();
    becomes("it is not noticed", 10, async || {
        !follower.status().following
    })
    .await;
    gone.close().await.unwrap();
    for sequence in 1..50 {
        writer
            .publish(record(1, sequence, Vec::new()))
            .await
            .unwrap();
    }
    let mut client = etcd_client::Client::connect([server.endpoint()], None)
        .await
        .unwrap();
    let now = client
        .get("x", None)
        .await
        .unwrap()
        .header()
        .unwrap()
        .revision();
    client.compact(now, None).await.unwrap();
    assert!(before < now);
    wire.mend();
    let last = record(1, 49, Vec::new());
    becomes("the last is not seen", 20, async || {
        knows(&follower, &last).await
    })
    .await;
    becomes("what is gone stays", 5, async || {
        !knows(&follower, &passing).await
    })
    .await;
    let next = record(1, 50, Vec::new());
    writer.publish(next.clone()).await.unwrap();
    becomes("changes do not come in", 5, async || {
        knows(&follower, &next).await
    })
    .await;
}

#[tokio::test]
async fn who_was_cut_off_for_longer_than_its_lease_gets_another_address_if_its_own_is_taken() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut wire = Wire::to(&server);
    let pools = [pool("10.7.0.0/31")];
    let (one, two) = (
        directory(wire.endpoint(), 1),
        directory(server.endpoint(), 2),
    );
    two.followed().await;
    let mut told = one.addresses();
    let address = one.lease(&pools, &[]).await.unwrap();
    assert_eq!(*told.borrow_and_update(), address);
    let said = record(1, 1, address.clone());
    one.publish(said.clone()).await.unwrap();
    sees(&two, &said, 5).await;
    wire.cut();
    becomes("the record stays", 20, async || !knows(&two, &said).await).await;
    assert_eq!(two.lease(&pools, &address).await.unwrap(), address);
    wire.mend();
    timeout(Duration::from_secs(20), told.changed())
        .await
        .unwrap()
        .unwrap();
    let now = told.borrow_and_update().clone();
    assert_eq!(now.len(), 1);
    assert_ne!(now, address);
    // Its record claims the old address still, and that does not count.
    becomes("the record is not back", 10, async || {
        knows(&two, &said).await
    })
    .await;
    assert_eq!(two.resolve_address(address[0]).await.unwrap(), []);
    let refused = one.publish(said.clone()).await;
    assert!(matches!(
        refused,
        Err(DirectoryError::Stale { have: 1, .. })
    ));
}
