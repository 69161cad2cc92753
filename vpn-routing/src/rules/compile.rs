//! Turns a snapshot into rules that can be looked up: names resolved, indexed by owner.

use std::path::Path;

use hashbrown::HashMap;
use ipnet::IpNet;
use vpn_core::{
    Action, Bypass, DropReason, Generation, OnDown, Owner, OwnerDetail, OwnerMatch, Rule,
    RuleMatch, RuleSnapshot,
};

use super::bypass::bypass;
use super::decide::Target;
use super::entries::{Entries, Users};
use super::entry::{Entry, Sources};
use super::error::RuleError;
use super::inbound::{InboundRules, MAX_INBOUND_RULES};
use super::names::Names;
use super::who::Who;
use crate::filter::Filters;

/// How many rules one snapshot may have: a hundred times what people write, a few milliseconds to
/// compile.
pub const MAX_RULES: usize = 100_000;

type Map<K> = HashMap<K, Who, foldhash::quality::RandomState>;

/// All rules of one snapshot, ready for lookup. Immutable; made by [`compile`](Self::compile).
///
/// Found by owner (hash), then by source, then by destination (prefix trie), then by port (binary
/// search), so ten thousand rules cost little more than ten.
#[derive(Debug)]
pub struct CompiledRules {
    generation: Generation,
    pub(super) entries: Entries,
    pub(super) users: Users,
    /// No rule names an owner by anything but its user.
    pub(super) only_users: bool,
    by_executable: Map<Box<Path>>,
    /// A rule for a cgroup is also for those below it.
    by_cgroup: Map<Box<Path>>,
    by_package: Map<Box<str>>,
    pub(super) anybody: Who,
    /// Every distinct thing that rules with a user (a process) say about flows, to tell whether
    /// the owner matters at all.
    pub(super) uid_flows: Who,
    pub(super) process_flows: Who,
    inbound: InboundRules,
    filters: Filters,
    default: Target,
    wants: Option<OwnerDetail>,
    bypass: Vec<Bypass>,
    problems: Vec<RuleError>,
}

impl CompiledRules {
    /// What is in force before any rules were loaded: everything is blocked.
    pub fn cold() -> Self {
        Self::empty(Target::Block(DropReason::RulesCold))
    }

    /// Compiles a snapshot. `names` says what the names in rules stand for (a closure from a
    /// tunnel's name to its id will do), `default` decides flows that no rule matches.
    ///
    /// Rules that cannot be carried out block what they match and are in
    /// [`problems`](Self::problems).
    ///
    /// # Errors
    ///
    /// [`RuleError::TooMany`] and [`RuleError::TooManyInOrder`] only.
    pub fn compile(
        snapshot: &RuleSnapshot,
        names: &dyn Names,
        default: Target,
    ) -> Result<Self, RuleError> {
        let count = snapshot.rules.len() + snapshot.inbound.len() + snapshot.filters.len();
        if count > MAX_RULES {
            return Err(RuleError::TooMany { count });
        }
        if snapshot.inbound.len() > MAX_INBOUND_RULES {
            return Err(RuleError::TooManyInOrder {
                what: "inbound",
                count: snapshot.inbound.len(),
                most: MAX_INBOUND_RULES,
            });
        }
        let mut compiled = Self::empty(default);
        let mut entries = Vec::with_capacity(snapshot.rules.len());
        let mut sources = Vec::with_capacity(snapshot.rules.len());
        for rule in &snapshot.rules {
            let entry = match targets_of(rule, names) {
                Ok((target, on_down)) => Entry::new(rule, target, on_down),
                Err((reason, problem)) => {
                    compiled.problems.push(problem);
                    Entry::blocked(rule, reason)
                }
            };
            let (entry, of_rule) = match sources_of(rule, names) {
                Ok(of_rule) => (entry, of_rule),
                // Whatever came in by it may be anything: what the rule else says is blocked.
                Err(problem) => {
                    compiled.problems.push(problem);
                    let blocked = Entry::blocked(rule, DropReason::BlockedByRule);
                    (blocked, vec![rule.matches.source])
                }
            };
            entries.push(entry);
            sources.push(of_rule);
        }
        compiled.index(&entries, &sources);
        if let Some(direct) = names.direct()
            && snapshot.filters.is_empty()
        {
            compiled.bypass = bypass(&entries, default, direct);
        }
        compiled.filters = Filters::compile(&snapshot.filters, names, &mut compiled.problems)?;
        compiled.inbound = InboundRules::compile(&snapshot.inbound, names, &mut compiled.problems);
        Ok(compiled)
    }

    /// The problems of a snapshot, for a check before it is used; empty if all is well.
    pub fn check(snapshot: &RuleSnapshot, names: &dyn Names) -> Vec<RuleError> {
        let block = Target::Block(DropReason::BlockedByDefault);
        match Self::compile(snapshot, names, block) {
            Ok(compiled) => compiled.problems,
            Err(error) => vec![error],
        }
    }

    /// How much of owners any of the rules depends on; `None` if no rule names one.
    pub fn wants(&self) -> Option<OwnerDetail> {
        self.wants
    }

    /// What is wrong with the rules; they block what they match.
    pub fn problems(&self) -> &[RuleError] {
        &self.problems
    }

    /// What need not enter the device, in order: for
    /// [`InterfacePlan::bypass`](vpn_core::InterfacePlan::bypass). Empty without a direct tunnel,
    /// and while a packet filter is in force.
    pub fn bypass(&self) -> &[Bypass] {
        &self.bypass
    }

    /// What decides flows that no rule matches.
    pub fn default_action(&self) -> Target {
        self.default
    }

    /// Whether any rule says where to go while its tunnel is down.
    pub fn falls_back(&self) -> bool {
        self.entries.any_says(|_, on_down| on_down.is_some())
    }

    /// Whether any rule resets live connections when their way changes.
    pub fn resets(&self) -> bool {
        let reset = vpn_core::OnChange::Reset;
        self.entries.any_says(|on_change, _| on_change == reset)
    }

    /// What may not pass all the same.
    pub fn filters(&self) -> &Filters {
        &self.filters
    }

    /// Which flows that start behind a tunnel are let in.
    pub fn inbound(&self) -> &InboundRules {
        &self.inbound
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number a [`RuleCache`](super::RuleCache) gave; cold before.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    pub(super) fn set_generation(&mut self, generation: Generation) {
        self.generation = generation;
    }

    /// The rules that name this owner's process, by each way of naming one but cgroups.
    pub(super) fn of_process(&self, owner: &Owner) -> impl Iterator<Item = &Who> {
        let executable = owner.executable.as_deref();
        let package = owner.package.as_deref();
        [
            executable.and_then(|path| self.by_executable.get(path)),
            package.and_then(|name| self.by_package.get(name)),
        ]
        .into_iter()
        .flatten()
    }

    /// The rules that name this owner's cgroup or one it lies in, the nearest first.
    pub(super) fn of_cgroups(&self, owner: &Owner) -> impl Iterator<Item = &Who> {
        let cgroup = match self.by_cgroup.is_empty() {
            true => None,
            false => owner.cgroup.as_deref(),
        };
        let nested = cgroup.into_iter().flat_map(Path::ancestors);
        nested.filter_map(|path| self.by_cgroup.get(path))
    }

    fn empty(default: Target) -> Self {
        Self {
            generation: Generation::COLD,
            entries: Entries::default(),
            users: Users::default(),
            only_users: true,
            by_executable: Map::default(),
            by_cgroup: Map::default(),
            by_package: Map::default(),
            anybody: Who::default(),
            uid_flows: Who::default(),
            process_flows: Who::default(),
            inbound: InboundRules::default(),
            filters: Filters::default(),
            default,
            wants: None,
            bypass: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn index(&mut self, entries: &[Entry], sources: &[Sources]) {
        let mut uids: Lists<u32> = HashMap::default();
        let mut executables: Lists<&Path> = HashMap::default();
        let mut cgroups: Lists<&Path> = HashMap::default();
        let mut packages: Lists<&str> = HashMap::default();
        let mut anybody = Vec::new();
        let (mut uid_flows, mut process_flows) = (Distinct::default(), Distinct::default());
        for ((index, entry), sources) in (0u32..).zip(entries).zip(sources) {
            let placed = sources.iter().map(|&source| (source, index));
            match &entry.matches.owner {
                Some(OwnerMatch::Uid(uid)) => {
                    uids.entry(*uid).or_default().extend(placed);
                    uid_flows.add(&entry.matches, sources, index);
                }
                Some(OwnerMatch::Executable(path)) => {
                    executables.entry(path).or_default().extend(placed);
                    process_flows.add(&entry.matches, sources, index);
                }
                Some(OwnerMatch::Cgroup(path)) => {
                    cgroups.entry(path).or_default().extend(placed);
                    process_flows.add(&entry.matches, sources, index);
                }
                Some(OwnerMatch::Package(name)) => {
                    packages.entry(name).or_default().extend(placed);
                    process_flows.add(&entry.matches, sources, index);
                }
                // An owner this version does not know may be anybody: the rule (a block, by
                // `targets_of`) must not be passed over.
                Some(_) | None => anybody.extend(placed),
            }
        }
        let build = |rules: Vec<(Option<IpNet>, u32)>| Who::build(entries, rules);
        let users = Users::build(entries, uids.into_iter());
        let by_executable = map_of(executables, entries);
        let by_cgroup = map_of(cgroups, entries);
        let by_package = map_of(packages, entries);
        self.wants = match (process_flows.rules.is_empty(), uid_flows.rules.is_empty()) {
            (false, _) => Some(OwnerDetail::Process),
            (true, false) => Some(OwnerDetail::Uid),
            (true, true) => None,
        };
        let whos = (
            build(anybody),
            build(uid_flows.rules),
            build(process_flows.rules),
        );
        (self.anybody, self.uid_flows, self.process_flows) = whos;
        self.only_users = by_executable.is_empty() && by_cgroup.is_empty() && by_package.is_empty();
        (self.users, self.by_executable) = (users, by_executable);
        (self.by_cgroup, self.by_package) = (by_cgroup, by_package);
        self.entries = Entries::new(entries);
    }
}

type Lists<K> = HashMap<K, Vec<(Option<IpNet>, u32)>, foldhash::quality::RandomState>;

fn map_of<K, B: From<K> + Eq + std::hash::Hash>(lists: Lists<K>, entries: &[Entry]) -> Map<B> {
    let built = |(key, rules): (K, _)| (key.into(), Who::build(entries, rules));
    lists.into_iter().map(built).collect()
}

/// Rules that differ in what they say about flows; one of each is kept.
#[derive(Default)]
struct Distinct {
    seen: hashbrown::HashSet<RuleMatch, foldhash::quality::RandomState>,
    rules: Vec<(Option<IpNet>, u32)>,
}

impl Distinct {
    fn add(&mut self, matches: &RuleMatch, sources: &[Option<IpNet>], index: u32) {
        let flow_part = RuleMatch {
            owner: None,
            ..matches.clone()
        };
        if self.seen.insert(flow_part) {
            self.rules
                .extend(sources.iter().map(|&source| (source, index)));
        }
    }
}

/// The source prefixes a rule is for: what it names itself, within those of its interface.
fn sources_of(rule: &Rule, names: &dyn Names) -> Result<Sources, RuleError> {
    let source = rule.matches.source;
    let Some(interface) = &rule.matches.interface else {
        return Ok(vec![source]);
    };
    let prefixes = names.interface(interface).unwrap_or_default();
    if prefixes.is_empty() {
        return Err(RuleError::NoSuchInterface {
            rule: rule.id,
            interface: interface.clone(),
        });
    }
    let narrower = |prefix: IpNet| match source {
        None => Some(prefix),
        Some(source) if prefix.contains(&source) => Some(source),
        Some(source) if source.contains(&prefix) => Some(prefix),
        Some(_) => None,
    };
    Ok(prefixes
        .into_iter()
        .filter_map(narrower)
        .map(Some)
        .collect())
}

type Problem = (DropReason, RuleError);

/// Where a rule leads, and where while that is down.
fn targets_of(rule: &Rule, names: &dyn Names) -> Result<(Target, Option<Target>), Problem> {
    let unsupported = |what| {
        let problem = RuleError::Unsupported {
            rule: rule.id,
            what,
        };
        Err((DropReason::BlockedByRule, problem))
    };
    match &rule.matches.owner {
        None
        | Some(
            OwnerMatch::Uid(_)
            | OwnerMatch::Executable(_)
            | OwnerMatch::Cgroup(_)
            | OwnerMatch::Package(_),
        ) => {}
        Some(_) => return unsupported("its kind of owner"),
    }
    let target = match &rule.action {
        Action::Tunnel(name) => named(rule, names, name)?,
        Action::Group(name) => group(rule, names, name)?,
        Action::Block => Target::Block(DropReason::BlockedByRule),
        Action::Direct => direct(rule, names)?,
        _ => return unsupported("its action"),
    };
    let on_down = match &rule.on_down {
        OnDown::Block => None,
        OnDown::Fallback(name) => Some(named(rule, names, name)?),
        OnDown::Direct => Some(direct(rule, names)?),
        _ => return unsupported("what it does while its tunnel is down"),
    };
    if on_down == Some(target) {
        let problem = RuleError::FallbackLoop { rule: rule.id };
        return Err((DropReason::BlockedByRule, problem));
    }
    Ok((target, on_down))
}

/// The tunnel of a name, or the group: no group has the name of a tunnel.
fn named(rule: &Rule, names: &dyn Names, name: &str) -> Result<Target, Problem> {
    let tunnel = names.tunnel(name).map(Target::Tunnel);
    let found = tunnel.or_else(|| names.group(name).map(Target::Group));
    found.ok_or_else(|| {
        let problem = RuleError::NoSuchTunnel {
            rule: rule.id,
            tunnel: name.to_owned(),
        };
        (DropReason::NoSuchTunnel, problem)
    })
}

fn group(rule: &Rule, names: &dyn Names, name: &str) -> Result<Target, Problem> {
    names.group(name).map(Target::Group).ok_or_else(|| {
        let problem = RuleError::NoSuchGroup {
            rule: rule.id,
            group: name.to_owned(),
        };
        (DropReason::NoSuchTunnel, problem)
    })
}

fn direct(rule: &Rule, names: &dyn Names) -> Result<Target, Problem> {
    names.direct().map(Target::Tunnel).ok_or({
        let problem = RuleError::DirectUnavailable { rule: rule.id };
        (DropReason::BlockedByRule, problem)
    })
}
