//! What the names in rules stand for, and what decides where no rule does: shared between the
//! feed that compiles rules and whoever changes the configuration.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use ipnet::IpNet;
use tokio::sync::watch;
use vpn_core::{DropReason, GroupId, RuleSnapshot, TunnelId};
use vpn_routing::rules::{Compile, CompiledRules, Names, RuleError, Target};

use crate::direct;
use crate::host::{self, Interfaces};

/// Tunnels and groups by name, the default, and the interfaces of the host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) tunnels: BTreeMap<String, TunnelId>,
    pub(crate) groups: BTreeMap<String, GroupId>,
    /// The tunnel past all others, if there is one.
    pub(crate) direct: Option<TunnelId>,
    /// Whether it is opened when a rule asks for it.
    pub(crate) on_demand: bool,
    /// `block`, `direct`, or the name of a tunnel or group.
    pub(crate) default: String,
    pub(crate) interfaces: Interfaces,
}

impl Known {
    /// What decides flows that no rule matches.
    fn default_target(&self) -> Target {
        let tunnel = || Some(Target::Tunnel(self.tunnel(&self.default)?));
        let group = || Some(Target::Group(self.group(&self.default)?));
        let direct = || Some(Target::Tunnel(self.direct?));
        let found = match self.default.as_str() {
            direct::NAME => direct(),
            _ => tunnel().or_else(group),
        };
        found.unwrap_or(Target::Block(DropReason::BlockedByDefault))
    }

    /// Whether a rule of today could name this.
    pub(crate) fn has(&self, name: &str) -> bool {
        match name {
            "block" => true,
            direct::NAME => self.direct.is_some(),
            name => self.tunnels.contains_key(name) || self.groups.contains_key(name),
        }
    }

    /// The rule that asks for a way past the tunnels, where there is none yet and may be one.
    fn direct_asked_by(&self, rules: &RuleSnapshot) -> Option<String> {
        let may_open = self.on_demand && self.direct.is_none();
        may_open.then(|| direct::asked_by(rules)).flatten()
    }

    /// What is wrong with these rules.
    pub(crate) fn problems(&self, rules: &RuleSnapshot) -> Vec<RuleError> {
        CompiledRules::check(rules, self)
    }
}

impl Names for Known {
    fn tunnel(&self, name: &str) -> Option<TunnelId> {
        self.tunnels.get(name).copied()
    }

    fn group(&self, name: &str) -> Option<GroupId> {
        self.groups.get(name).copied()
    }

    fn direct(&self) -> Option<TunnelId> {
        self.direct
    }

    fn interface(&self, name: &str) -> Option<Vec<IpNet>> {
        let nets = self.interfaces.get(name)?;
        Some(nets.iter().map(IpNet::trunc).collect())
    }
}

/// What is known now. Clones share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    known: Arc<RwLock<Known>>,
    /// The rule in force that waits for a way past the tunnels.
    waiting: watch::Sender<Option<String>>,
}

impl Policy {
    pub(crate) fn new(known: Known) -> Self {
        Self {
            known: Arc::new(RwLock::new(known)),
            ..Self::default()
        }
    }

    pub(crate) fn get(&self) -> Known {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Changes what is known. Rules have to be compiled anew to follow.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Looks at the interfaces again: whether they changed.
    pub(crate) fn look_at_interfaces(&self) -> bool {
        let now = host::interfaces();
        if self.get().interfaces == now {
            return false;
        }
        self.change(|known| known.interfaces = now);
        true
    }

    /// The rule in force that waits for a way past the tunnels, in words: it blocks until there is one.
    pub(crate) fn waiting(&self) -> watch::Receiver<Option<String>> {
        self.waiting.subscribe()
    }

    /// Compiles rules by what is known at that time.
    pub(crate) fn compile(&self) -> Compile {
        let policy = self.clone();
        Arc::new(move |rules: &RuleSnapshot| {
            let known = policy.get();
            let now = known.direct_asked_by(rules);
            policy.waiting.send_if_modified(|waiting| {
                let is_other = *waiting != now;
                *waiting = now;
                is_other
            });
            CompiledRules::compile(rules, &known, known.default_target())
        })
    }
}
