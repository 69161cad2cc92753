//! Decides a flow by rules that were compiled once.

use std::fmt;
use std::path::Path;

use hashbrown::HashMap;
use vpn_core::flow::FlowKey;
use vpn_core::{
    Action, DropReason, Generation, Owner, OwnerDetail, OwnerMatch, Rule, RuleId, RuleMatch,
    RuleSnapshot, TunnelId,
};

use super::table::{Entry, Table};

/// How many rules one snapshot may have: a hundred times what people write, a few milliseconds to
/// compile.
pub const MAX_RULES: usize = 100_000;

/// Where a decision sends a flow. There is no "direct": nothing can leave past the tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Through this tunnel and nowhere else.
    Tunnel(TunnelId),
    /// Nowhere, for this reason.
    Block(DropReason),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tunnel(tunnel) => write!(f, "{tunnel}"),
            Self::Block(reason) => write!(f, "block ({reason})"),
        }
    }
}

/// What rules say about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Where it goes.
    pub action: Target,
    /// The rule that says so; `None` if it is the default, or that the owner is unknown.
    pub rule: Option<RuleId>,
}

/// What is wrong with rules. At run time the rule that is named blocks what it matches.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// The rule names a tunnel that does not exist. Correct the name, or add the tunnel.
    #[error("{rule}: there is no tunnel {tunnel:?}; correct the name or add the tunnel")]
    NoSuchTunnel {
        /// The rule.
        rule: RuleId,
        /// The name it gives.
        tunnel: String,
    },
    /// The rule says direct, which this version cannot do. Name a tunnel or block.
    #[error("{rule}: direct is not available; name a tunnel or block")]
    DirectUnavailable {
        /// The rule.
        rule: RuleId,
    },
    /// The rule asks for something this version does not know. Update, or rewrite the rule.
    #[error("{rule}: {what} is not known to this version; update it or rewrite the rule")]
    Unsupported {
        /// The rule.
        rule: RuleId,
        /// What is not known.
        what: &'static str,
    },
    /// More rules than [`MAX_RULES`]. None of the snapshot is used.
    #[error(
        "{count} rules are more than {MAX_RULES}; use prefixes and port ranges to say it in fewer"
    )]
    TooMany {
        /// How many there are.
        count: usize,
    },
}

type Map<K> = HashMap<K, Table, foldhash::quality::RandomState>;

/// All rules of one snapshot, ready for lookup. Immutable; made by [`compile`](Self::compile).
///
/// Found by owner (hash), then by destination (prefix trie), then by port (binary search), so ten
/// thousand rules cost little more than ten.
#[derive(Debug)]
pub struct CompiledRules {
    generation: Generation,
    pub(super) entries: Vec<Entry>,
    pub(super) by_uid: Map<u32>,
    pub(super) by_executable: Map<Box<Path>>,
    pub(super) anybody: Table,
    /// Every distinct thing that rules with a user (an executable) say about flows, to tell
    /// whether the owner matters at all.
    uid_flows: Table,
    executable_flows: Table,
    default: Target,
    wants: Option<OwnerDetail>,
    problems: Vec<RuleError>,
}

impl CompiledRules {
    /// What is in force before any rules were loaded: everything is blocked.
    pub fn cold() -> Self {
        Self::empty(Target::Block(DropReason::RulesCold))
    }

    /// Compiles a snapshot. `tunnels` finds a tunnel by its name, `default` decides flows that no
    /// rule matches.
    ///
    /// Rules that cannot be carried out block what they match and are in
    /// [`problems`](Self::problems).
    ///
    /// # Errors
    ///
    /// [`RuleError::TooMany`] only.
    pub fn compile(
        snapshot: &RuleSnapshot,
        tunnels: &dyn Fn(&str) -> Option<TunnelId>,
        default: Target,
    ) -> Result<Self, RuleError> {
        let count = snapshot.rules.len();
        if count > MAX_RULES {
            return Err(RuleError::TooMany { count });
        }
        let mut compiled = Self::empty(default);
        compiled.entries.reserve_exact(count);
        for rule in &snapshot.rules {
            let target = match target_of(rule, tunnels) {
                Ok(target) => target,
                Err((reason, problem)) => {
                    compiled.problems.push(problem);
                    Target::Block(reason)
                }
            };
            let entry = Entry::new(rule, target);
            compiled.entries.push(entry);
        }
        compiled.index();
        Ok(compiled)
    }

    /// The problems of a snapshot, for a check before it is used; empty if all is well.
    pub fn check(
        snapshot: &RuleSnapshot,
        tunnels: &dyn Fn(&str) -> Option<TunnelId>,
    ) -> Vec<RuleError> {
        match Self::compile(
            snapshot,
            tunnels,
            Target::Block(DropReason::BlockedByDefault),
        ) {
            Ok(compiled) => compiled.problems,
            Err(error) => vec![error],
        }
    }

    /// Decides a flow. `owner` is `None` if it is unknown, `flow` as the application sees it.
    ///
    /// Where the owner matters (see [`needs_owner`](Self::needs_owner)) and is not known well
    /// enough, the answer is [`DropReason::OwnerUnknown`], never a guess.
    pub fn decide(&self, owner: Option<&Owner>, flow: &FlowKey) -> Decision {
        let known = match owner {
            None => None,
            Some(owner) if owner.executable.is_none() => Some(OwnerDetail::Uid),
            Some(_) => Some(OwnerDetail::Process),
        };
        // No flow needs more than all rules together: mostly that answers it without a search.
        if self.wants > known && self.needs_owner(flow) > known {
            return Decision {
                action: Target::Block(DropReason::OwnerUnknown),
                rule: None,
            };
        }
        let of_owner = owner.and_then(|owner| {
            let tables = self.tables_of(owner);
            let best = |table: Option<&Table>| table?.best(&self.entries, flow);
            best(tables.0).max_by_rank(best(tables.1), &self.entries)
        });
        match of_owner.or_else(|| self.anybody.best(&self.entries, flow)) {
            Some(index) => self.entries[index as usize].decision(),
            None => Decision {
                action: self.default,
                rule: None,
            },
        }
    }

    /// How much of the owner the decision of this flow depends on; `None` if nothing does.
    pub fn needs_owner(&self, flow: &FlowKey) -> Option<OwnerDetail> {
        let meant = |table: &Table| table.best(&self.entries, flow).is_some();
        if meant(&self.executable_flows) {
            Some(OwnerDetail::Process)
        } else if meant(&self.uid_flows) {
            Some(OwnerDetail::Uid)
        } else {
            None
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

    /// What decides flows that no rule matches.
    pub fn default_action(&self) -> Target {
        self.default
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number a [`RuleCache`](super::RuleCache) gave; cold before.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    pub(super) fn set_generation(&mut self, generation: Generation) {
        self.generation = generation;
    }

    pub(super) fn tables_of(&self, owner: &Owner) -> (Option<&Table>, Option<&Table>) {
        let executable = owner.executable.as_deref();
        (
            self.by_uid.get(&owner.uid),
            executable.and_then(|path| self.by_executable.get(path)),
        )
    }

    fn empty(default: Target) -> Self {
        Self {
            generation: Generation::COLD,
            entries: Vec::new(),
            by_uid: Map::default(),
            by_executable: Map::default(),
            anybody: Table::default(),
            uid_flows: Table::default(),
            executable_flows: Table::default(),
            default,
            wants: None,
            problems: Vec::new(),
        }
    }

    fn index(&mut self) {
        let mut uids: HashMap<u32, Vec<u32>, _> = HashMap::with_hasher(Default::default());
        let mut executables: HashMap<&Path, Vec<u32>, foldhash::quality::RandomState> =
            HashMap::default();
        let mut anybody = Vec::new();
        let (mut uid_flows, mut executable_flows) = (Distinct::default(), Distinct::default());
        for (index, entry) in (0u32..).zip(&self.entries) {
            match &entry.matches.owner {
                Some(OwnerMatch::Uid(uid)) => {
                    uids.entry(*uid).or_default().push(index);
                    uid_flows.add(&entry.matches, index);
                }
                Some(OwnerMatch::Executable(path)) => {
                    executables.entry(path).or_default().push(index);
                    executable_flows.add(&entry.matches, index);
                }
                // An owner this version does not know may be anybody: the rule (a block, by
                // `target_of`) must not be passed over.
                Some(_) | None => anybody.push(index),
            }
        }
        let build = |rules: Vec<u32>| Table::build(&self.entries, rules);
        let seeded = foldhash::quality::RandomState::default;
        let mut by_uid: Map<u32> = HashMap::with_capacity_and_hasher(uids.len(), seeded());
        let uids: HashMap<u32, Vec<u32>, foldhash::quality::RandomState> = uids;
        by_uid.extend(uids.into_iter().map(|(uid, rules)| (uid, build(rules))));
        let mut by_executable: Map<Box<Path>> =
            HashMap::with_capacity_and_hasher(executables.len(), seeded());
        let paths = executables.into_iter();
        by_executable.extend(paths.map(|(path, rules)| (path.into(), build(rules))));
        self.wants = match (by_executable.is_empty(), by_uid.is_empty()) {
            (false, _) => Some(OwnerDetail::Process),
            (true, false) => Some(OwnerDetail::Uid),
            (true, true) => None,
        };
        let tables = (
            build(anybody),
            build(uid_flows.rules),
            build(executable_flows.rules),
        );
        (self.anybody, self.uid_flows, self.executable_flows) = tables;
        (self.by_uid, self.by_executable) = (by_uid, by_executable);
    }
}

/// Rules that differ in what they say about flows; one of each is kept.
#[derive(Default)]
struct Distinct {
    seen: hashbrown::HashSet<RuleMatch, foldhash::quality::RandomState>,
    rules: Vec<u32>,
}

impl Distinct {
    fn add(&mut self, matches: &RuleMatch, index: u32) {
        let flow_part = RuleMatch {
            owner: None,
            ..matches.clone()
        };
        if self.seen.insert(flow_part) {
            self.rules.push(index);
        }
    }
}

/// The better of two candidates.
trait MaxByRank {
    fn max_by_rank(self, other: Self, entries: &[Entry]) -> Self;
}

impl MaxByRank for Option<u32> {
    fn max_by_rank(self, other: Self, entries: &[Entry]) -> Self {
        let (Some(a), Some(b)) = (self, other) else {
            return self.or(other);
        };
        let rank = |index: &u32| entries[*index as usize].rank();
        Some(std::cmp::max_by_key(a, b, rank))
    }
}

fn target_of(
    rule: &Rule,
    tunnels: &dyn Fn(&str) -> Option<TunnelId>,
) -> Result<Target, (DropReason, RuleError)> {
    let id = rule.id;
    let unsupported = |what| {
        let problem = RuleError::Unsupported { rule: id, what };
        Err((DropReason::BlockedByRule, problem))
    };
    match &rule.matches.owner {
        None | Some(OwnerMatch::Uid(_) | OwnerMatch::Executable(_)) => {}
        Some(_) => return unsupported("its kind of owner"),
    }
    match &rule.action {
        Action::Tunnel(name) => tunnels(name).map(Target::Tunnel).ok_or_else(|| {
            let problem = RuleError::NoSuchTunnel {
                rule: id,
                tunnel: name.clone(),
            };
            (DropReason::NoSuchTunnel, problem)
        }),
        Action::Block => Ok(Target::Block(DropReason::BlockedByRule)),
        Action::Direct => Err((
            DropReason::BlockedByRule,
            RuleError::DirectUnavailable { rule: id },
        )),
        _ => unsupported("its action"),
    }
}
