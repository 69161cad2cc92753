//! Decides what of a neighbour's messages is believed, and what follows.

use std::time::Instant;

use ipnet::IpNet;

use super::{At, Hub};
use crate::mesh::hub::register::check_lifetime;
use crate::mesh::record::SignedRecord;
use crate::mesh::wire::{Between, Frame, Tag, ToMember, What};

impl Hub {
    /// A message that only this neighbour can have sealed.
    pub(in crate::mesh::hub) fn hear(&mut self, by: At, message: Between, now: Instant, unix: u64) {
        let limits = self.config.limits.neighbours;
        let Some(known) = self.neighbours.get_mut(by) else {
            return;
        };
        known.heard = now;
        let allowed = match message {
            Between::Find { .. } => known.asks.take(limits.questions, 1, now),
            _ => known.control.take(limits.control, 1, now),
        };
        if !allowed {
            self.status.limited += 1;
            return;
        }
        match message {
            Between::Find {
                asked,
                what,
                hops,
                visited,
            } => {
                self.asked(by, asked, what, hops, visited, now);
            }
            Between::Found {
                asked,
                record,
                online,
                hubs,
            } => {
                if let Some(record) = self.read(&record, unix) {
                    self.found(by, asked, record, online, hubs, now);
                }
            }
            Between::NotFound { asked } => self.nobody_at(by, asked, now),
            Between::Introduce {
                to,
                record,
                hops,
                hubs,
            } => {
                self.introduced(by, Tag(to), &record, hops, hubs, now, unix);
            }
            Between::Changed { record, hubs } => self.changed(by, &record, hubs, now, unix),
            Between::Have { peer, sequence } => {
                let of = Tag::from(vpn_core::PeerId(peer));
                let watcher = self.neighbours.known[by.0].tag();
                self.watch.have(watcher, of, sequence);
            }
            Between::Absent { to, from, hops } => {
                self.absent_there(by, Tag(to), Tag(from), hops, now);
            }
        }
    }

    /// A record that is signed by whom it is of, and valid for no longer than one of ours may be.
    fn read(&mut self, record: &[u8], unix: u64) -> Option<SignedRecord> {
        let record = SignedRecord::from_bytes(record, unix).ok();
        let record = record.filter(|it| check_lifetime(it.record(), unix).is_ok());
        self.status.refused_record += u64::from(record.is_none());
        record
    }

    /// A member of another hub is about to begin with one of ours, or of a hub behind us.
    #[expect(clippy::too_many_arguments, reason = "the message, from whom and when")]
    fn introduced(
        &mut self,
        by: At,
        to: Tag,
        record: &[u8],
        hops: u8,
        hubs: u8,
        now: Instant,
        unix: u64,
    ) {
        let hops = hops.min(self.hubs_behind());
        if hops == 0 || hubs == 0 || hubs > self.hubs_behind() {
            self.status.no_hops += 1;
            return;
        }
        let Some(record) = self.read(record, unix) else {
            return;
        };
        if !self.may_be(&record) {
            return;
        }
        let bytes = record.to_bytes();
        let from = Tag::from(record.record().peer);
        self.enter_remote(record, by, hubs, now);
        if let Some((id, origin)) = self.members.get(&to).and_then(|member| member.here) {
            if self.crosses(to) {
                self.tell(id, origin, &ToMember::Changed { record: bytes });
            } else {
                self.status.isolated += 1;
            }
            return;
        }
        match self.next_hop(by, to, hops, now) {
            Ok((at, _, hops)) => {
                let (to, record, hubs) = (to.0, bytes, hubs + 1);
                self.say(
                    at,
                    Between::Introduce {
                        to,
                        record,
                        hops,
                        hubs,
                    },
                );
            }
            Err(why) => self.undeliverable(why, by, [to, from], 1, now),
        }
    }

    /// A member of ours is about to begin with one of another hub.
    pub(in crate::mesh::hub) fn introduce_beyond(&mut self, from: Tag, to: Tag) {
        let record = self
            .members
            .get(&from)
            .map(|member| member.record.to_bytes());
        let via = self.neighbours.remotes.get(to).map(|remote| remote.via);
        if let (Some(record), Some(via)) = (record, via) {
            let (to, hops, hubs) = (to.0, self.hubs_behind(), 1);
            self.say(
                via,
                Between::Introduce {
                    to,
                    record,
                    hops,
                    hubs,
                },
            );
        }
    }

    /// Somebody that was asked for says something new.
    fn changed(&mut self, by: At, record: &[u8], hubs: u8, now: Instant, unix: u64) {
        let Some(record) = self.read(record, unix) else {
            return;
        };
        let (peer, sequence) = (record.record().peer, record.record().sequence);
        self.say(
            by,
            Between::Have {
                peer: peer.0,
                sequence,
            },
        );
        if hubs == 0 || hubs > self.hubs_behind() || !self.may_be(&record) {
            return;
        }
        // What comes here by several ways is told once.
        if self.enter_remote(record, by, hubs, now) {
            self.tell_change(Tag::from(peer), sequence, now);
        }
    }

    /// A neighbour has nobody of this name.
    fn absent_there(&mut self, by: At, to: Tag, from: Tag, hops: u8, now: Instant) {
        self.neighbours.remotes.gone(to, by);
        if let Some((_, origin)) = self.members.get(&from).and_then(|member| member.here) {
            let hint = Frame::Absent { tag: to }.to_bytes();
            self.out.push_back((origin, hint));
            return;
        }
        let hops = hops.min(self.hubs_behind());
        if let Ok((at, _, hops)) = self.next_hop(by, from, hops, now) {
            let (to, from) = (to.0, from.0);
            self.say(at, Between::Absent { to, from, hops });
        }
    }

    /// What is known last of who is a member, here or of another hub.
    pub(in crate::mesh::hub) fn newest(&self, of: Tag) -> Option<&SignedRecord> {
        let member = self.members.get(&of).map(|member| &member.record);
        let remote = self.neighbours.remotes.get(of).map(|remote| &remote.record);
        match (member, remote) {
            (Some(member), Some(remote)) if remote.replaces(member) => Some(remote),
            (member, remote) => member.or(remote),
        }
    }

    /// Tells a hub that asked for this one of its new record; `false` if no hub is named so.
    pub(in crate::mesh::hub) fn tell_beyond(&mut self, watcher: Tag, of: Tag) -> bool {
        let Some(at) = self.neighbours.with_tag(watcher) else {
            return false;
        };
        let remote = self.neighbours.remotes.get(of).map(|it| (it.via, it.hubs));
        let hubs = match remote {
            // It knows.
            Some((via, _)) if via == at => return true,
            Some((_, hubs)) => hubs + 1,
            None if self.crosses(of) => 1,
            None => return true,
        };
        if let Some(record) = self.newest(of).map(SignedRecord::to_bytes) {
            self.status.changes += 1;
            self.say(at, Between::Changed { record, hubs });
        }
        true
    }

    /// Whether somebody who is no member here may have what its record says. Ours come first.
    pub(super) fn may_be(&mut self, record: &SignedRecord) -> bool {
        let said = record.record();
        let tag = Tag::from(said.peer);
        let taken = |address| {
            // A network that leads everywhere says nothing about whose an address is.
            let leads = |net: IpNet| net.prefix_len() > 0 && self.leads_to(net, address);
            let behind = self.claims.way_to(address).filter(|(net, _)| leads(*net));
            let holder = self.claims.holder(address).or(behind.map(|(_, tag)| tag));
            let pinned = self.list.pinned(address);
            holder.is_some_and(|holder| holder != tag)
                || pinned.is_some_and(|pinned| pinned != tag)
                || self.list.is_behind_another(address, tag)
        };
        // Keys that begin alike, a member that is here, and what is a hub's.
        let is_ours = self.members.get(&tag).is_some_and(|member| {
            member.here.is_some() || member.record.record().peer != said.peer
        });
        let fine = !is_ours && !said.addresses.iter().copied().any(taken);
        self.status.refused_beyond += u64::from(!fine);
        fine
    }

    /// Notes where somebody is. Whether what it says is new.
    pub(super) fn enter_remote(
        &mut self,
        record: SignedRecord,
        by: At,
        hubs: u8,
        now: Instant,
    ) -> bool {
        let said = record.record();
        let questions = &mut self.neighbours.questions;
        questions.somebody(What::Peer(said.peer.0));
        questions.somebody(What::Tag(Tag::from(said.peer).0));
        for address in &said.addresses {
            questions.somebody(What::Address(*address));
        }
        let known = &self.neighbours.known;
        let is_up = |at: At| known.get(at.0).is_some_and(|known| known.way().is_some());
        let remotes = &mut self.neighbours.remotes;
        remotes.enter(record, by, hubs, is_up, now)
    }
}
