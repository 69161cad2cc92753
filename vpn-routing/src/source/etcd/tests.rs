//! Users that are made, or cannot be looked up, while their rules are in etcd.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use etcd_client::Client;
use tokio::time::{sleep, timeout};
use vpn_core::{OwnerMatch, RuleSource};
use vpn_lab_etcd::Server;

use super::text::{NOBODY, Users};
use super::{EtcdRules, EtcdRulesConfig};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

const TEXT: &str = "[[rule]]\nuid = 1\nto = \"uk\"\n[[rule]]\nuser = \"ghost\"\nto = \"block\"\n";

async fn owners(rules: &EtcdRules) -> Option<Vec<u32>> {
    let all = rules.load().await.ok()?.rules;
    let uid = |owner| match owner {
        Some(OwnerMatch::Uid(uid)) => uid,
        other => panic!("{other:?}"),
    };
    Some(
        all.into_iter()
            .map(|rule| uid(rule.matches.owner))
            .collect(),
    )
}

async fn become_owners(rules: &EtcdRules, wanted: &[u32]) {
    let waited = timeout(LONG, async {
        while owners(rules).await.as_deref() != Some(wanted) {
            rules.changed().await;
        }
    });
    assert!(waited.await.is_ok(), "they do not become {wanted:?}");
}

#[tokio::test]
async fn a_rule_is_about_its_user_when_it_is_made_and_about_nobody_before() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut client = Client::connect([server.endpoint()], None).await.unwrap();
    client.put("r/a", TEXT, None).await.unwrap();
    let is_made = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_made);
    let users = Users::new(Box::new(move |_| Ok(seen.load(SeqCst).then_some(1000))));
    let config = EtcdRulesConfig::new([server.endpoint()], "r/");
    let rules = EtcdRules::start_with(config, users).unwrap();
    become_owners(&rules, &[1, NOBODY]).await;
    let said = rules.trouble().unwrap().to_string();
    assert!(said.contains("ghost"), "{said}");
    is_made.store(true, SeqCst);
    become_owners(&rules, &[1, 1000]).await;
    assert!(rules.trouble().is_none());
}

/// Name services wait for their network, and this is what leads there.
#[tokio::test]
async fn a_name_service_that_hangs_holds_up_nobody_and_one_that_fails_lets_nothing_out() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut client = Client::connect([server.endpoint()], None).await.unwrap();
    client.put("r/a", TEXT, None).await.unwrap();
    let (is_asked, hangs, fails) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(true)),
        Arc::new(AtomicBool::new(true)),
    );
    let look_up = {
        let (is_asked, hangs, fails) = (is_asked.clone(), hangs.clone(), fails.clone());
        move |_: &str| {
            is_asked.store(true, SeqCst);
            // Not for ever, so that a test that fails ends.
            for _ in 0..2000 {
                if hangs.load(SeqCst) {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            is_asked.store(false, SeqCst);
            match fails.load(SeqCst) {
                true => Err("the name service is away".to_owned()),
                false => Ok(Some(1000)),
            }
        }
    };
    let config = EtcdRulesConfig::new([server.endpoint()], "r/");
    let rules = EtcdRules::start_with(config, Users::new(Box::new(look_up))).unwrap();
    let rules = Arc::new(rules);
    // This test has one thread: it would not get any further.
    let asked = async {
        while !is_asked.load(SeqCst) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, asked).await.unwrap();
    let state = Arc::clone(&rules);
    let looked = tokio::task::spawn_blocking(move || drop(state.trouble()));
    timeout(LONG, looked).await.unwrap().unwrap();
    assert!(is_asked.load(SeqCst), "it answered meanwhile");
    hangs.store(false, SeqCst);
    let told = async {
        while !format!("{:?}", rules.trouble()).contains("is away") {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, told).await.unwrap();
    let refused = format!("{:?}", rules.load().await.unwrap_err());
    assert!(refused.contains("r/a"), "{refused}");
    fails.store(false, SeqCst);
    become_owners(&rules, &[1, 1000]).await;
    assert!(rules.trouble().is_none());
}

/// A name service may not answer at all.
#[tokio::test]
async fn a_name_service_that_never_answers_is_told_and_holds_up_no_rules_without_users() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut client = Client::connect([server.endpoint()], None).await.unwrap();
    let uid = |uid| format!("[[rule]]\nuid = {uid}\nto = \"uk\"\n");
    client.put("r/a", uid(1), None).await.unwrap();
    let hangs = Arc::new(AtomicBool::new(true));
    let look_up = {
        let hangs = Arc::clone(&hangs);
        move |_: &str| {
            // Not for ever, so that a test that fails ends.
            let asked = std::time::Instant::now();
            while hangs.load(SeqCst) && asked.elapsed() < LONG * 2 {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(Some(1000))
        }
    };
    let mut users = Users::new(Box::new(look_up));
    users.patience = Duration::from_millis(200);
    let config = EtcdRulesConfig::new([server.endpoint()], "r/");
    let rules = EtcdRules::start_with(config, users).unwrap();
    become_owners(&rules, &[1]).await;
    client.put("r/b", TEXT, None).await.unwrap();
    client.put("r/c", uid(3), None).await.unwrap();
    become_owners(&rules, &[1, 3]).await;
    let said = rules.trouble().unwrap().to_string();
    assert!(said.contains("r/b") && said.contains("too long"), "{said}");
    hangs.store(false, SeqCst);
    become_owners(&rules, &[1, 1, 1000, 3]).await;
}
