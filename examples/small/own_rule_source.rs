//! A rule source of your own: lines of text, `UID TUNNEL`, that somebody edits. A line that makes
//! no sense is an error that names it, and the last good rules stay in force.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vpn_core::rule::RuleSourceError;
use vpn_core::{
    Action, DropReason, FlowKey, Owner, OwnerMatch, Protocol, Rule, RuleId, RuleMatch,
    RuleSnapshot, RuleSource, TunnelId,
};
use vpn_routing::rules::{CompiledRules, RuleCache, RuleFeed, Target};

/// Text that changes under us. `seen` keeps a change between `load` and `changed`.
#[derive(Debug)]
struct Lines {
    text: watch::Receiver<String>,
    seen: std::sync::Mutex<watch::Receiver<String>>,
}

impl Lines {
    fn new(text: watch::Receiver<String>) -> Self {
        Self {
            seen: text.clone().into(),
            text,
        }
    }

    fn parse(number: usize, line: &str) -> Result<Rule, RuleSourceError> {
        let invalid = |problem: &str| RuleSourceError::Invalid {
            place: "rules".to_owned(),
            entry: format!("line {number}"),
            problem: problem.to_owned(),
        };
        let (uid, tunnel) = line
            .split_once(' ')
            .ok_or_else(|| invalid("write a user id and a tunnel"))?;
        let uid = uid
            .parse()
            .map_err(|_| invalid("the user id is not a number"))?;
        Ok(Rule::new(
            RuleId(number as u64),
            RuleMatch {
                owner: Some(OwnerMatch::Uid(uid)),
                ..RuleMatch::default()
            },
            Action::Tunnel(tunnel.to_owned()),
        ))
    }
}

#[async_trait]
impl RuleSource for Lines {
    async fn load(&self) -> Result<RuleSnapshot, RuleSourceError> {
        let text = {
            let mut seen = self
                .seen
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            seen.borrow_and_update().clone()
        };
        let rules = (1..)
            .zip(text.lines())
            .map(|(number, line)| Self::parse(number, line));
        Ok(RuleSnapshot::from(rules.collect::<Result<Vec<_>, _>>()?))
    }

    async fn changed(&self) {
        // A clone remembers what the last `load` saw, so dropping this future loses nothing.
        let mut text = match self.seen.lock() {
            Ok(seen) => seen.clone(),
            Err(_) => self.text.clone(),
        };
        if text.changed().await.is_err() {
            // Nobody can edit the text any more.
            std::future::pending::<()>().await;
        }
    }
}

const TUNNELS: [&str; 2] = ["uk", "fr"];

fn tunnel(name: &str) -> Option<TunnelId> {
    TUNNELS
        .iter()
        .position(|t| *t == name)
        .map(|i| TunnelId::new(i as u16))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let editor = watch::Sender::new("1001 uk\n1002 fr".to_owned());
    let cache = RuleCache::new();
    let block = Target::Block(DropReason::BlockedByDefault);
    let feed = RuleFeed::new(
        Arc::new(Lines::new(editor.subscribe())),
        cache.clone(),
        Arc::new(move |snapshot| CompiledRules::compile(snapshot, &tunnel, block)),
    );
    let (mut status, stop) = (feed.status(), CancellationToken::new());
    let task = tokio::spawn(feed.run(stop.clone()));

    let (app, server) = ([10, 5, 0, 2].into(), [203, 0, 113, 10].into());
    let flow = FlowKey::new(Protocol::TCP, (app, 4000), (server, 443));
    let goes_to = |uid| {
        cache
            .current()
            .decide(Some(&Owner::user(uid)), &flow)
            .action
    };

    status.wait_for(|s| s.generation.0 == 1).await?;
    assert_eq!(goes_to(1001), Target::Tunnel(TunnelId::new(0)));
    assert_eq!(goes_to(1003), block);

    editor.send_replace("1001 fr".to_owned());
    status.wait_for(|s| s.generation.0 == 2).await?;
    assert_eq!(goes_to(1001), Target::Tunnel(TunnelId::new(1)));

    editor.send_replace("1001 fr\nnobody uk".to_owned());
    let error = status.wait_for(|s| s.error.is_some()).await?.error.clone();
    let error = error.unwrap_or_default();
    assert!(error.contains("line 2"), "{error}");
    assert_eq!(
        goes_to(1001),
        Target::Tunnel(TunnelId::new(1)),
        "the last good rules stay"
    );

    stop.cancel();
    task.await?;
    println!("two generations in force, and a bad line was told: {error}");
    Ok(())
}
