//! Sources and resolvers in memory keep their contracts.

use async_trait::async_trait;
use vpn_core::testing::conformance::{OwnerFixture, RuleFixture, owner_resolver, rule_source};
use vpn_core::{
    FlowKey, Owner, OwnerAnswer, OwnerDetail, OwnerQuery, OwnerResolver, Protocol, Rule, RuleSource,
};
use vpn_routing::owner::MemoryOwners;
use vpn_routing::source::StaticRules;

struct Rules(StaticRules);

#[async_trait]
impl RuleFixture for Rules {
    fn source(&self) -> &dyn RuleSource {
        &self.0
    }
    async fn set(&self, rules: &[Rule]) -> bool {
        self.0.set(rules.iter().cloned());
        true
    }
}

#[tokio::test]
async fn static_rules_conform() {
    let make = async || Rules(StaticRules::new([]));
    rule_source(make).await.unwrap();
}

/// Port 1 is known, port 2 is answered when it is told to, and nobody has port 3.
struct Owners(MemoryOwners);

impl Owners {
    fn new() -> Self {
        let owners = MemoryOwners::new();
        let local = |port| ([0, 0, 0, 0], port).into();
        owners.set(Protocol::UDP, local(1), Owner::user(1));
        owners.set_pending(Protocol::UDP, local(2));
        Self(owners)
    }
}

fn query(port: u16) -> OwnerQuery {
    OwnerQuery {
        flow: FlowKey::new(
            Protocol::UDP,
            ([10, 5, 0, 2].into(), port),
            ([192, 0, 2, 1].into(), 53),
        ),
        detail: OwnerDetail::Uid,
    }
}

#[async_trait]
impl OwnerFixture for Owners {
    fn resolver(&self) -> &dyn OwnerResolver {
        &self.0
    }
    fn known(&self) -> Vec<(OwnerQuery, Owner)> {
        [1, 2].map(|n| (query(n), Owner::user(n.into()))).into()
    }
    fn unknown(&self) -> Vec<OwnerQuery> {
        vec![query(3)]
    }
    async fn answer(&self) {
        for query in self.0.waiting() {
            let owner = OwnerAnswer::Known(Owner::user(2));
            self.0.answer(&query, owner);
        }
    }
}

#[tokio::test]
async fn owners_in_memory_conform() {
    owner_resolver(async || Owners::new()).await.unwrap();
}
