//! The rules of one owner, by source: a rule that names a source beats one that names none.

use ipnet::IpNet;

use super::entries::Entries;
use super::entry::{Entry, Question};
use super::table::Table;

/// The best rule that was found, and how long the source prefix is that it names (plus one).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) source: u8,
    pub(super) index: u32,
}

/// The rules of one owner.
#[derive(Debug, Default)]
pub(super) struct Who {
    /// By source prefix, the longest first. Few in practice: one for a container network each.
    sources: Box<[(IpNet, Table)]>,
    anywhere: Table,
}

impl Who {
    pub(super) fn build(entries: &[Entry], mut rules: Vec<(Option<IpNet>, u32)>) -> Self {
        rules.sort_by_key(|&(net, _)| net.map(|net| (u8::MAX - net.prefix_len(), net.trunc())));
        let split = rules.partition_point(|(net, _)| net.is_none());
        let list = |group: &[(Option<IpNet>, u32)]| group.iter().map(|&(_, index)| index).collect();
        let same = |a: &(Option<IpNet>, u32), b: &(Option<IpNet>, u32)| {
            a.0.map(|net| net.trunc()) == b.0.map(|net| net.trunc())
        };
        let (anywhere, sourced) = rules.split_at(split);
        let groups = sourced.chunk_by(same);
        Self {
            sources: groups
                .filter_map(|group| Some((group[0].0?.trunc(), Table::build(entries, list(group)))))
                .collect(),
            anywhere: Table::build(entries, list(anywhere)),
        }
    }

    pub(super) fn best(&self, entries: &Entries, question: Question<'_>) -> Option<Hit> {
        self.best_of_source(entries, question).or_else(|| {
            let index = self.anywhere.best(entries, question)?;
            Some(Hit { source: 0, index })
        })
    }

    /// The best of the rules that name a source.
    pub(super) fn best_of_source(&self, entries: &Entries, question: Question<'_>) -> Option<Hit> {
        let src = question.flow.src();
        let mut meant = self.sources.iter().filter(|(net, _)| net.contains(&src));
        meant.find_map(|(net, table)| {
            let index = table.best(entries, question)?;
            let source = net.prefix_len() + 1;
            Some(Hit { source, index })
        })
    }

    /// Every rule that is for this flow's source, in no order.
    pub(super) fn for_each(&self, question: Question<'_>, visit: &mut dyn FnMut(Hit)) {
        let src = question.flow.src();
        for (net, table) in self.sources.iter().filter(|(net, _)| net.contains(&src)) {
            let source = net.prefix_len() + 1;
            table.for_each(&mut |index| visit(Hit { source, index }));
        }
        self.anywhere
            .for_each(&mut |index| visit(Hit { source: 0, index }));
    }
}
