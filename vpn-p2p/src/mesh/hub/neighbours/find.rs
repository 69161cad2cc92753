//! Decides who is asked for a node that is no member here, and what the answers come to.

use std::time::{Duration, Instant};

use super::questions::{Asker, Came, Question};
use super::{At, Hub, MAX_HOPS};
use crate::mesh::hub::Origin;
use crate::mesh::hub::sessions::SessionId;
use crate::mesh::record::{Record, SignedRecord};
use crate::mesh::wire::{Asked, Between, Tag, ToMember, What};

/// How soon a question that is open is asked again, whoever repeats it: members do so sooner than this at
/// no time but by mistake.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Somebody's record, and whether it is connected.
type Answer = (Vec<u8>, bool);

impl Hub {
    /// Answers a member's question, now or when the neighbours did.
    pub(in crate::mesh::hub) fn answer(
        &mut self,
        session: SessionId,
        from: Origin,
        id: u32,
        what: What,
        now: Instant,
    ) {
        let Some(asker) = self.sessions.get(session).map(|held| Tag::from(held.peer)) else {
            return;
        };
        let ours = self.find(asker, what);
        let is_here = ours.as_ref().is_some_and(|(_, online)| *online);
        let reaches = self.hubs_behind() > 0 && self.crosses(asker);
        if is_here || !reaches || self.neighbours_up()[0] == 0 {
            self.tell(session, from, &said(id, ours));
            return;
        }
        if let Some(remote) = self.neighbours.fresh(what, now) {
            let (of, answer) = (
                Tag::from(remote.record.record().peer),
                remote.record.to_bytes(),
            );
            self.watch.ask(asker, of);
            self.tell(session, from, &said(id, Some((answer, true))));
            return;
        }
        let asker = Asker::Member(asker, id);
        if let Some(open) = self.neighbours.questions.own(what) {
            // The one who asked before did not hear: a question or its answer was lost.
            if self.neighbours.questions.join(open, asker) {
                self.ask_again(open, now);
            }
            return;
        }
        let is_nobody = self.neighbours.questions.is_nobody(what, now);
        if !is_nobody && !self.may_ask(asker, now) {
            self.status.limited += 1;
            return;
        }
        let asked = self.name_question();
        let mut question = Question::new(what, asker, self.hubs_behind(), Vec::new(), now);
        let away = ours
            .and_then(|_| self.holder(what))
            .and_then(|tag| self.members.get(&tag));
        question.away = away.map(|member| (member.record.clone(), 0));
        if is_nobody {
            self.settle(asked, question);
        } else {
            self.ask(asked, question, now);
        }
    }

    /// Whether neighbours may be asked for this member now.
    fn may_ask(&mut self, asker: Asker, now: Instant) -> bool {
        let rate = self.config.limits.questions;
        let Asker::Member(tag, _) = asker else {
            return true;
        };
        let member = self.members.get_mut(&tag);
        member.is_some_and(|member| member.questions.take(rate, 1, now))
    }

    /// A name for a question of our own members.
    fn name_question(&mut self) -> Asked {
        self.neighbours.named = self.neighbours.named.wrapping_add(1);
        let count = self.neighbours.named.to_be_bytes();
        Asked {
            hub: Tag::from(self.id()).0,
            number: self.cookies.hash(&[b"question", &count[..]].concat()),
        }
    }

    /// A neighbour asks.
    pub(super) fn asked(
        &mut self,
        by: At,
        asked: Asked,
        what: What,
        hops: u8,
        visited: Vec<[u8; 8]>,
        now: Instant,
    ) {
        let own = Tag::from(self.id()).0;
        let hops = hops.min(self.hubs_behind());
        let nobody = Between::NotFound { asked };
        if visited.len() > usize::from(MAX_HOPS) {
            self.status.malformed += 1;
            return;
        }
        if hops == 0 || asked.hub == own || visited.contains(&own) {
            self.status.looped += u64::from(hops > 0);
            self.say(by, nobody);
            return;
        }
        self.status.finds_beyond += 1;
        let asker = self.neighbours.known[by.0].tag();
        let ours = self.holder(what).filter(|tag| self.crosses(*tag));
        let ours = ours.and_then(|tag| Some((tag, self.members.get(&tag)?)));
        let ours = ours.map(|(tag, it)| (tag, it.record.clone(), it.here.is_some()));
        if let Some((tag, record, online)) = &ours {
            // It is told when this one comes back as well.
            self.watch.ask(asker, *tag);
            if *online || hops == 1 {
                let (record, online) = (record.to_bytes(), *online);
                let found = Between::Found {
                    asked,
                    record,
                    online,
                    hubs: 1,
                };
                self.say(by, found);
                return;
            }
        }
        let fresh = self.neighbours.fresh(what, now);
        if let Some(remote) = fresh.filter(|it| it.via != by && it.hubs < hops) {
            let (of, record) = (
                Tag::from(remote.record.record().peer),
                remote.record.to_bytes(),
            );
            let hubs = remote.hubs + 1;
            self.watch.ask(asker, of);
            self.say(
                by,
                Between::Found {
                    asked,
                    record,
                    online: true,
                    hubs,
                },
            );
            return;
        }
        let mut question = Question::new(what, Asker::Hub(by), hops - 1, visited, now);
        question.away = ours.map(|(_, record, _)| (record, 0));
        match self.neighbours.questions.came(asked, by, hops, now) {
            Came::New => self.ask(asked, question, now),
            Came::Again => self.ask_again(asked, now),
            Came::Before => self.settle(asked, question),
        }
    }

    /// Asks every neighbour that was not asked on this way.
    fn ask(&mut self, asked: Asked, mut question: Question, now: Instant) {
        let is_asker = |at: At| question.askers.contains(&Asker::Hub(at));
        if question.hops > 0 {
            question.waiting = (self.neighbours.all())
                .filter(|(at, known)| {
                    let was = question.visited.contains(&known.tag().0);
                    known.way().is_some() && !was && !is_asker(*at) && asked.hub != known.tag().0
                })
                .map(|(at, _)| at)
                .collect();
        }
        question.visited.push(Tag::from(self.id()).0);
        if question.waiting.is_empty() {
            self.settle(asked, question);
        } else if self.neighbours.questions.ask(asked, question, now) {
            self.ask_again(asked, now);
        }
    }

    /// Asks those that did not answer.
    fn ask_again(&mut self, asked: Asked, now: Instant) {
        let rate = self.config.limits.neighbours.questions;
        let Some(open) = self.neighbours.questions.get_mut(asked) else {
            return;
        };
        if now < open.again {
            return;
        }
        open.again = now + ASK_AGAIN;
        let (what, hops, visited) = (open.what, open.hops, open.visited.clone());
        for at in open.waiting.clone() {
            // No more than it takes: what is beyond it would drop.
            let known = self.neighbours.get_mut(at);
            if !known.is_some_and(|known| known.asked.take(rate, 1, now)) {
                self.status.limited += 1;
                continue;
            }
            let visited = visited.clone();
            self.say(
                at,
                Between::Find {
                    asked,
                    what,
                    hops,
                    visited,
                },
            );
        }
    }

    /// A neighbour found somebody.
    pub(super) fn found(
        &mut self,
        by: At,
        asked: Asked,
        record: SignedRecord,
        online: bool,
        hubs: u8,
        now: Instant,
    ) {
        let is_in_mesh = match self
            .neighbours
            .questions
            .get_mut(asked)
            .map(|open| open.what)
        {
            Some(What::Address(address)) => self.is_in_mesh(address),
            _ => false,
        };
        let questions = &mut self.neighbours.questions;
        let open = questions
            .get_mut(asked)
            .filter(|open| open.waiting.contains(&by));
        let Some(open) = open.filter(|open| is_who(open.what, record.record(), is_in_mesh)) else {
            return;
        };
        if hubs == 0 || hubs > open.hops || !self.may_be(&record) {
            self.nobody_at(by, asked, now);
            return;
        }
        if !online {
            // It was there, and says that it is not any more: another way may be taken.
            let tag = Tag::from(record.record().peer);
            self.neighbours.remotes.gone(tag, by);
            let questions = &mut self.neighbours.questions;
            if let Some(open) = questions.get_mut(asked) {
                let is_newer = |(known, _): &(SignedRecord, u8)| record.replaces(known);
                if open.away.as_ref().is_none_or(is_newer) {
                    open.away = Some((record, hubs));
                }
            }
            self.nobody_at(by, asked, now);
            return;
        }
        self.enter_remote(record.clone(), by, hubs, now);
        let Some(question) = self.neighbours.questions.close(asked) else {
            return;
        };
        for asker in question.askers {
            self.give(asked, asker, Some((&record, true, hubs)));
        }
    }

    /// A neighbour knows nobody.
    pub(super) fn nobody_at(&mut self, by: At, asked: Asked, now: Instant) {
        if let Some(question) = self.neighbours.questions.nobody_at(asked, by) {
            // One that came from elsewhere did not have all the hops that ours have.
            let ours = matches!(question.askers.first(), Some(Asker::Member(..)));
            if ours && question.away.is_none() {
                self.neighbours.questions.nobody(question.what, now);
            }
            self.settle(asked, question);
        }
    }

    /// Questions that some neighbour did not answer.
    pub(super) fn give_up(&mut self, now: Instant) {
        while let Some((asked, question)) = self.neighbours.questions.overdue(now) {
            self.settle(asked, question);
        }
    }

    /// Nobody found anybody that is connected.
    fn settle(&mut self, asked: Asked, question: Question) {
        let away = question.away.as_ref();
        for asker in question.askers {
            let found = away.map(|(record, hubs)| (record, false, *hubs));
            self.give(asked, asker, found);
        }
    }

    /// Gives an answer to one who waits for it; that one is told of changes from then on.
    fn give(&mut self, asked: Asked, asker: Asker, found: Option<(&SignedRecord, bool, u8)>) {
        let of = found.map(|(record, ..)| Tag::from(record.record().peer));
        match asker {
            Asker::Member(tag, id) => {
                if let Some(of) = of {
                    self.watch.ask(tag, of);
                }
                let answer = found.map(|(record, online, _)| (record.to_bytes(), online));
                self.tell_answer(tag, id, answer);
            }
            Asker::Hub(at) => {
                if let Some(of) = of {
                    let tag = self.neighbours.known[at.0].tag();
                    self.watch.ask(tag, of);
                }
                let message = match found {
                    Some((record, online, hubs)) => Between::Found {
                        asked,
                        record: record.to_bytes(),
                        online,
                        hubs: hubs + 1,
                    },
                    None => Between::NotFound { asked },
                };
                self.say(at, message);
            }
        }
    }

    /// Tells a member, if it is here.
    fn tell_answer(&mut self, tag: Tag, id: u32, answer: Option<Answer>) {
        let Some((session, origin)) = self.members.get(&tag).and_then(|member| member.here) else {
            return;
        };
        self.tell(session, origin, &said(id, answer));
    }
}

/// The answer as members are told.
fn said(id: u32, answer: Option<Answer>) -> ToMember {
    answer.map_or(ToMember::NotFound { id }, |(record, online)| {
        ToMember::Found { id, record, online }
    })
}

/// Whether a record is of who was asked for: of an address of the mesh never who has a network around it.
fn is_who(what: What, record: &Record, is_in_mesh: bool) -> bool {
    match what {
        What::Address(address) => {
            let behind = || record.routes.iter().any(|net| net.contains(&address));
            record.addresses.contains(&address) || (!is_in_mesh && behind())
        }
        What::Peer(key) => record.peer.0 == key,
        What::Tag(tag) => record.peer.0.starts_with(&tag),
    }
}
