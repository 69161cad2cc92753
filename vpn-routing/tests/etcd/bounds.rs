//! More than there is room for, longer than it may be, and what makes no sense at first.

use super::*;
use etcd_client::{DeleteOptions, Txn, TxnOp};
use vpn_lab_etcd::Wire;

#[tokio::test]
async fn what_is_too_long_is_told_and_keeps_no_other_rules_from_being_loaded() {
    let options = ["--max-request-bytes=40000000".to_owned()];
    let Some(server) = Server::start_with("http", &options) else {
        return;
    };
    let mut client = connect(&server).await;
    client.put("vpn/rules/z", text(&[6]), None).await.unwrap();
    let mut wire = Wire::to(&server);
    // A page of 24 MiB takes its time on a busy machine.
    let config = EtcdRulesConfig::new([wire.endpoint()], "vpn/rules/");
    let running = EtcdRules::start(config.request(LONG / 2)).unwrap();
    become_uids(&running, &[6]).await;
    wire.cut();
    // A page of these is longer than a page may be, and one of them is by itself.
    for (key, bytes) in (0..16).map(|key| (key, 3 << 20)).chain([(16, 33 << 20)]) {
        let key = format!("vpn/rules/long-{key:02}");
        client.put(key, vec![b'#'; bytes], None).await.unwrap();
    }
    let put = client.put("vpn/rules/z", text(&[7]), None).await.unwrap();
    let revision = put.header().unwrap().revision();
    client.compact(revision, None).await.unwrap();
    wire.mend();
    become_uids(&running, &[7]).await;
    told(&running, &["long-00", "1 MiB"]).await;
    // Who begins now does not know what they would forbid.
    let config = EtcdRulesConfig::new([server.endpoint()], "vpn/rules/");
    let beginner = EtcdRules::start(config.request(LONG / 2)).unwrap();
    told(&beginner, &["long-00", "1 MiB"]).await;
    let refused = format!("{:?}", beginner.load().await.unwrap_err());
    assert!(refused.contains("long-00"), "{refused}");
    for key in 0..16 {
        let key = format!("vpn/rules/long-{key:02}");
        client.delete(key, None).await.unwrap();
    }
    client.put("vpn/rules/z", text(&[8]), None).await.unwrap();
    become_uids(&running, &[8]).await;
    told(&running, &["long-16", "1 MiB"]).await;
    told(&beginner, &["long-16", "1 MiB"]).await;
    assert!(beginner.load().await.is_err());
    client.delete("vpn/rules/long-16", None).await.unwrap();
    loads(&beginner).await;
    assert_eq!(uids(&beginner).await, [8]);
}

/// Otherwise a typing error would let out on each host that starts what it blocks on all others.
#[tokio::test]
async fn an_entry_that_cannot_be_read_at_first_leaves_no_rules_and_later_those_of_before() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut client = connect(&server).await;
    client.put("vpn/rules/a", text(&[1]), None).await.unwrap();
    client.put("vpn/rules/b", "what", None).await.unwrap();
    let rules = rules(&server, "vpn/rules/");
    told(&rules, &["vpn/rules/b"]).await;
    let refused = format!("{:?}", rules.load().await.unwrap_err());
    assert!(refused.contains("vpn/rules/b"), "{refused}");
    client.put("vpn/rules/b", text(&[2]), None).await.unwrap();
    loads(&rules).await;
    assert_eq!(uids(&rules).await, [1, 2]);
    client.put("vpn/rules/c", "what", None).await.unwrap();
    told(&rules, &["vpn/rules/c"]).await;
    assert_eq!(uids(&rules).await, [1, 2]);
}

#[tokio::test]
async fn more_entries_than_there_is_room_for_take_no_rules_out_of_force() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut client = connect(&server).await;
    client.put("vpn/rules/m", text(&[1]), None).await.unwrap();
    client.put("vpn/rules/z", text(&[2]), None).await.unwrap();
    let mut wire = Wire::to(&server);
    let config = EtcdRulesConfig::new([wire.endpoint()], "vpn/rules/");
    let running = EtcdRules::start(config).unwrap();
    become_uids(&running, &[1, 2]).await;
    wire.cut();
    // Keys before, between and behind.
    for begin in ["a", "n", "zz"] {
        for hundred in 0..41 {
            let put = |n| TxnOp::put(format!("vpn/rules/{begin}/{hundred}/{n}"), "", None);
            let all: Vec<_> = (0..100).map(put).collect();
            client.txn(Txn::new().and_then(all)).await.unwrap();
        }
    }
    let put = client.put("vpn/rules/z", text(&[3]), None).await.unwrap();
    let revision = put.header().unwrap().revision();
    client.compact(revision, None).await.unwrap();
    wire.mend();
    become_uids(&running, &[1, 3]).await;
    told(&running, &["too many"]).await;
    let beginner = rules(&server, "vpn/rules/");
    told(&beginner, &["too many"]).await;
    assert!(beginner.load().await.is_err());
    for begin in ["a", "n", "zz"] {
        let all = DeleteOptions::new().with_prefix();
        let all = client.delete(format!("vpn/rules/{begin}/"), Some(all));
        all.await.unwrap();
    }
    loads(&beginner).await;
    assert_eq!(uids(&beginner).await, [1, 3]);
    client.put("vpn/rules/n", text(&[5]), None).await.unwrap();
    become_uids(&running, &[1, 5, 3]).await;
    become_uids(&beginner, &[1, 5, 3]).await;
}

#[tokio::test]
async fn more_changes_than_one_message_may_have_are_loaded() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut client = connect(&server).await;
    client.put("vpn/rules/a", text(&[1]), None).await.unwrap();
    let mut wire = Wire::to(&server);
    let config = EtcdRulesConfig::new([wire.endpoint()], "vpn/rules/");
    let rules = EtcdRules::start(config).unwrap();
    become_uids(&rules, &[1]).await;
    wire.cut();
    // etcd tells a thousand changes at once.
    for _ in 0..70 {
        let long = vec![b'#'; 1 << 20];
        client.put("vpn/rules/b", long, None).await.unwrap();
    }
    client.put("vpn/rules/a", text(&[2]), None).await.unwrap();
    wire.mend();
    become_uids(&rules, &[2]).await;
}
