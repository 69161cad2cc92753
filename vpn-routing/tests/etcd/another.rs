//! Another etcd than before: empty, restored, or made anew.

use super::*;
use vpn_lab_etcd::Wire;

/// Waits until it is told that the rules of before stay.
async fn kept(rules: &EtcdRules) {
    let told = async {
        while !format!("{:?}", rules.trouble()).contains("those of before stay") {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG, told).await.unwrap();
}

/// Whoever lost all rules did not mean it.
#[tokio::test]
async fn an_etcd_that_came_back_empty_takes_no_rules_away() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let mut client = connect(&server).await;
    for uid in 1..5 {
        client.put("vpn/rules/a", text(&[uid]), None).await.unwrap();
    }
    let rules = rules(&server, "vpn/rules/");
    become_uids(&rules, &[4]).await;
    server.kill();
    server.wipe();
    server.run();
    kept(&rules).await;
    assert_eq!(uids(&rules).await, [4]);
    client = connect(&server).await;
    client.put("vpn/rules/a", text(&[9]), None).await.unwrap();
    become_uids(&rules, &[9]).await;
    client.delete("vpn/rules/a", None).await.unwrap();
    become_uids(&rules, &[]).await;
}

#[tokio::test]
async fn another_etcd_is_loaded_also_if_that_fails_at_first() {
    let (Some(one), Some(other)) = (Server::start(), Server::start()) else {
        return;
    };
    let (mut first, mut second) = (connect(&one).await, connect(&other).await);
    let mut wire = Wire::to(&one);
    let config = EtcdRulesConfig::new([wire.endpoint()], "vpn/rules/");
    let rules = EtcdRules::start(config).unwrap();
    first.put("vpn/rules/a", text(&[1]), None).await.unwrap();
    // The first one's revision is beyond all rules of the other, and below the other's.
    for _ in 0..50 {
        first.put("elsewhere", "", None).await.unwrap();
    }
    become_uids(&rules, &[1]).await;
    first.put("vpn/rules/a", text(&[2]), None).await.unwrap();
    become_uids(&rules, &[2]).await;
    let long = format!("#{}\n", "x".repeat(8192));
    second
        .put("vpn/rules/b", long + &text(&[3]), None)
        .await
        .unwrap();
    for _ in 0..100 {
        second.put("elsewhere", "", None).await.unwrap();
    }
    // It is asked how it stands, and breaks off while everything is loaded.
    wire.cut();
    wire.lead_to(&other, 4096);
    wire.mend();
    let tried = timeout(LONG, async {
        while wire.carried() < 4 {
            sleep(Duration::from_millis(50)).await;
        }
    });
    tried.await.unwrap();
    assert_eq!(uids(&rules).await, [2]);
    wire.cut();
    wire.lead_to(&other, u64::MAX);
    wire.mend();
    become_uids(&rules, &[3]).await;
}

/// It has the same id, and no revision goes back.
#[tokio::test]
async fn an_etcd_that_was_made_anew_and_has_overtaken_us_is_another_one() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let mut client = connect(&server).await;
    client.put("vpn/rules/a", text(&[1]), None).await.unwrap();
    client.put("vpn/rules/b", text(&[2]), None).await.unwrap();
    let before = client.get("x", None).await.unwrap();
    let mut wire = Wire::to(&server);
    let config = EtcdRulesConfig::new([wire.endpoint()], "vpn/rules/");
    let rules = EtcdRules::start(config).unwrap();
    become_uids(&rules, &[1, 2]).await;
    wire.cut();
    server.kill();
    server.wipe();
    server.run();
    client = connect(&server).await;
    // All that is new happens before the revision that was reached.
    client.put("vpn/rules/b", text(&[3]), None).await.unwrap();
    for _ in 0..100 {
        client.put("elsewhere", "", None).await.unwrap();
    }
    let now = client.get("x", None).await.unwrap();
    let (before, now) = (before.header().unwrap(), now.header().unwrap());
    assert_eq!(before.cluster_id(), now.cluster_id());
    assert!(before.revision() < now.revision());
    wire.mend();
    become_uids(&rules, &[3]).await;
}

/// As above, and what it could be known by is gone: nobody can tell whether somebody deleted the rules.
#[tokio::test]
async fn an_etcd_that_was_made_anew_has_overtaken_us_and_forgot_it_takes_no_rules_away() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let mut client = connect(&server).await;
    client.put("vpn/rules/a", text(&[1]), None).await.unwrap();
    let mut wire = Wire::to(&server);
    let config = EtcdRulesConfig::new([wire.endpoint()], "vpn/rules/");
    let rules = EtcdRules::start(config).unwrap();
    become_uids(&rules, &[1]).await;
    wire.cut();
    server.kill();
    server.wipe();
    server.run();
    client = connect(&server).await;
    let mut now = 0;
    for _ in 0..100 {
        let put = client.put("elsewhere", "", None).await.unwrap();
        now = put.header().unwrap().revision();
    }
    client.compact(now, None).await.unwrap();
    wire.mend();
    kept(&rules).await;
    assert_eq!(uids(&rules).await, [1]);
    client.put("vpn/rules/b", text(&[2]), None).await.unwrap();
    become_uids(&rules, &[2]).await;
}

/// What is newest was there already when the copy was made: by that alone it would be the same.
#[tokio::test]
async fn an_etcd_that_was_restored_and_has_overtaken_us_is_loaded() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let mut client = connect(&server).await;
    client.put("vpn/rules/a", text(&[1]), None).await.unwrap();
    client.put("vpn/rules/b", text(&[2]), None).await.unwrap();
    server.kill();
    server.save();
    server.run();
    let mut wire = Wire::to(&server);
    let config = EtcdRulesConfig::new([wire.endpoint()], "vpn/rules/");
    let rules = EtcdRules::start(config).unwrap();
    become_uids(&rules, &[1, 2]).await;
    client = connect(&server).await;
    let gone = client.delete("vpn/rules/a", None).await.unwrap();
    become_uids(&rules, &[2]).await;
    wire.cut();
    server.kill();
    server.restore();
    server.run();
    client = connect(&server).await;
    let mut now = 0;
    while now <= gone.header().unwrap().revision() + 10 {
        let put = client.put("elsewhere", "", None).await.unwrap();
        now = put.header().unwrap().revision();
    }
    wire.mend();
    become_uids(&rules, &[1, 2]).await;
}
