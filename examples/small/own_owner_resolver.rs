//! An owner resolver of your own: the host answers, a moment later, as an Android `VpnService`
//! would. Packets wait for the answer; who is not known gets nothing.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Mutex, mpsc};
use vpn_core::testing::conformance::{OwnerFixture, owner_resolver};
use vpn_core::testing::{build, memory_device, memory_transport};
use vpn_core::{
    Action, Assigned, DropReason, FlowKey, Owner, OwnerAnswer, OwnerDetail, OwnerMatch, OwnerQuery,
    OwnerResolver, Protocol, Rule, RuleId, RuleMatch, RuleSnapshot, TunnelId,
};
use vpn_routing::RouterConfig;
use vpn_routing::engine::Engine;
use vpn_routing::rules::{CompiledRules, RuleCache, Target};

/// Questions that may wait for the host; beyond that the answer is Unknown, which blocks.
const MAX_QUESTIONS: usize = 64;

/// Asks the host over one channel and hears from it over another.
#[derive(Debug)]
struct AskHost {
    questions: mpsc::Sender<OwnerQuery>,
    answers: Mutex<mpsc::Receiver<(OwnerQuery, OwnerAnswer)>>,
}

#[async_trait]
impl OwnerResolver for AskHost {
    fn resolve(&self, query: &OwnerQuery) -> OwnerAnswer {
        match self.questions.try_send(*query) {
            Ok(()) => OwnerAnswer::Pending,
            Err(_) => OwnerAnswer::Unknown,
        }
    }

    async fn resolved(&self) -> (OwnerQuery, OwnerAnswer) {
        // Cancel-safe: `recv` takes nothing unless it returns.
        match self.answers.lock().await.recv().await {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}

/// The host: it knows its apps by their ports.
async fn host(
    mut questions: mpsc::Receiver<OwnerQuery>,
    answers: mpsc::Sender<(OwnerQuery, OwnerAnswer)>,
) {
    while let Some(query) = questions.recv().await {
        let answer = match query.flow.src_port() {
            4000..5000 => OwnerAnswer::Known(Owner::user(1001)),
            _ => OwnerAnswer::Unknown,
        };
        if answers.send((query, answer)).await.is_err() {
            return;
        }
    }
}

/// For the conformance kit: whose flows are whose.
struct Fixture(Arc<AskHost>);

impl OwnerFixture for Fixture {
    fn resolver(&self) -> &dyn OwnerResolver {
        &self.0
    }
    fn known(&self) -> Vec<(OwnerQuery, Owner)> {
        vec![(query(4000), Owner::user(1001))]
    }
    fn unknown(&self) -> Vec<OwnerQuery> {
        vec![query(9999)]
    }
}

fn query(port: u16) -> OwnerQuery {
    let (app, site) = ([10, 5, 0, 2].into(), [203, 0, 113, 10].into());
    OwnerQuery {
        flow: FlowKey::new(Protocol::UDP, (app, port), (site, 7)),
        detail: OwnerDetail::Uid,
    }
}

/// Starts a host, and the resolver that asks it.
fn ask_host() -> Arc<AskHost> {
    let (questions, asked) = mpsc::channel(MAX_QUESTIONS);
    let (answer, answers) = mpsc::channel(MAX_QUESTIONS);
    tokio::spawn(host(asked, answer));
    Arc::new(AskHost {
        questions,
        answers: Mutex::new(answers),
    })
}

fn only_user(uid: u32) -> Result<CompiledRules, Box<dyn Error>> {
    let rule = Rule::new(
        RuleId(1),
        RuleMatch {
            owner: Some(OwnerMatch::Uid(uid)),
            ..RuleMatch::default()
        },
        Action::Tunnel("provider".to_owned()),
    );
    Ok(CompiledRules::compile(
        &RuleSnapshot::from(vec![rule]),
        &|name: &str| (name == "provider").then_some(TunnelId::new(0)),
        Target::Block(DropReason::BlockedByDefault),
    )?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    owner_resolver(async || Fixture(ask_host())).await?;

    let (owners, rules) = (ask_host(), RuleCache::new());
    rules.swap(only_user(1001)?);
    let (device, apps) = memory_device(64, 1500);
    let mut engine = Engine::new(Arc::new(device), owners, rules, RouterConfig::default());
    let (transport, far) = memory_transport(64, 1420);
    far.up(Assigned {
        addresses: vec!["10.5.0.2/32".parse()?],
        mtu: 1420,
        ..Assigned::default()
    });
    engine.add_tunnel("provider", Arc::new(transport))?;
    let (handle, task) = (engine.handle(), tokio::spawn(engine.run()));

    apps.inject(&build::udp("10.5.0.2:9999", "203.0.113.10:7", b"whose?"))?;
    let ours = build::udp("10.5.0.2:4000", "203.0.113.10:7", b"ours");
    apps.inject(&ours)?;
    let carried = far.take_wait().await.ok_or("the tunnel ended")?;
    assert_eq!(carried.bytes(), ours);
    assert!(far.take().is_none());

    handle.stop().await;
    let accounts = task.await??.accounts;
    assert_eq!(accounts.drops.get(DropReason::OwnerUnknown), 1);
    assert!(accounts.balance());
    println!(
        "the app that is known got through, the other did not: {:?}",
        accounts.drops
    );
    Ok(())
}
