//! Decides what becomes of questions to the directory, and which answers count.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::kad::store::MemoryStore;
use libp2p::kad::{
    self, GetRecordOk, InboundRequest, QueryId, QueryResult, Quorum, Record, RecordKey,
};
use tokio::sync::oneshot;

use super::driver::Driver;
use super::hello::unix;
use super::keep::Keep;
use crate::directory::kademlia::slot::{NotKept, Slot, unpack};
use crate::libp2p::key::from_libp2p;
use crate::libp2p::membership::Membership;

type Kad = kad::Behaviour<MemoryStore>;

/// Questions at the same time; further ones are told to come again.
const MAX_QUERIES: usize = 256;

/// Answers with something that is believed after which a question is over: nodes disagree while a record
/// is on its way to them.
const ENOUGH: usize = 4;

/// How long others may take after the first answer.
const SETTLE: Duration = Duration::from_millis(500);

/// How long others may take to answer where this node has something itself: it may be old.
const OWN: Duration = Duration::from_secs(2);

type Answers = Result<Vec<Vec<u8>>, String>;

#[derive(Debug)]
enum Query {
    Get {
        reply: oneshot::Sender<Answers>,
        slot: Slot,
        found: Vec<Vec<u8>>,
        /// Until when others may answer too, once there is something.
        until: Option<Instant>,
    },
    Put(oneshot::Sender<Result<(), String>>),
}

/// Questions that are open.
#[derive(Debug, Default)]
pub(super) struct Queries(HashMap<QueryId, Query>);

impl Queries {
    pub(super) fn get(&mut self, kad: &mut Kad, key: Vec<u8>, reply: oneshot::Sender<Answers>) {
        let problem = match Slot::from_key(&key) {
            None => NotKept::Key.to_string(),
            Some(_) if self.0.len() >= MAX_QUERIES => too_many(),
            Some(slot) => {
                let id = kad.get_record(RecordKey::from(key));
                let get = Query::Get {
                    reply,
                    slot,
                    found: Vec::new(),
                    until: None,
                };
                self.0.insert(id, get);
                return;
            }
        };
        let _ = reply.send(Err(problem));
    }

    #[allow(clippy::too_many_arguments, reason = "one call, from one place")]
    pub(super) fn put(
        &mut self,
        kad: &mut Kad,
        keep: &mut Keep,
        membership: &Membership,
        key: Vec<u8>,
        value: Vec<u8>,
        lives: Duration,
        reply: oneshot::Sender<Result<(), String>>,
    ) {
        if self.0.len() >= MAX_QUERIES {
            let _ = reply.send(Err(too_many()));
            return;
        }
        // With what is here already: libp2p puts it into our own part as it is.
        let value = match keep.merge(kad, membership, &key, &value) {
            Ok((merged, _)) => merged,
            Err(NotKept::Old) => value,
            Err(error) => {
                let _ = reply.send(Err(error.to_string()));
                return;
            }
        };
        let mut record = Record::new(key, value);
        record.expires = Some(Instant::now() + lives);
        match kad.put_record(record, Quorum::One) {
            Ok(id) => {
                self.0.insert(id, Query::Put(reply));
            }
            Err(error) => {
                let _ = reply.send(Err(error.to_string()));
            }
        }
    }

    /// What came for a question; false if it is an answer without anything that is believed. `is_last`:
    /// nothing more will come.
    fn progress(
        &mut self,
        kad: &mut Kad,
        membership: &Membership,
        id: QueryId,
        result: QueryResult,
        is_last: bool,
    ) -> bool {
        match (self.0.get_mut(&id), result) {
            (
                Some(Query::Get {
                    slot, found, until, ..
                }),
                QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(record))),
            ) => {
                let patience = if record.peer.is_some() { SETTLE } else { OWN };
                let value = record.record.value;
                let now = unix();
                let is_believed = unpack(&value)
                    .into_iter()
                    .any(|record| slot.holds(&record) && membership.believe(record, now).is_ok());
                // Rubbish must not end a question that others would answer.
                if is_believed {
                    found.push(value);
                    let at = Instant::now() + patience;
                    *until = Some(until.map_or(at, |until| until.min(at)));
                }
                let is_enough = found.len() >= ENOUGH;
                if is_enough && let Some(mut query) = kad.query_mut(&id) {
                    query.finish();
                }
                if is_enough || is_last {
                    self.answer(id, Ok(()));
                }
                return is_believed;
            }
            (
                Some(Query::Get { .. }),
                QueryResult::GetRecord(Err(kad::GetRecordError::Timeout { .. })),
            ) => {
                self.answer(id, Err("nobody answered in time".to_owned()));
            }
            (Some(Query::Put(_)), QueryResult::PutRecord(outcome)) => {
                self.answer(id, outcome.map(drop).map_err(|error| error.to_string()));
            }
            _ if is_last => self.answer(id, Ok(())),
            _ => {}
        }
        true
    }

    /// Ends questions that have an answer and wait for others: nodes that cannot be reached hold them up
    /// for ten seconds, and who asks holds packets for five. Those that nobody waits for end too.
    pub(super) fn settle(&mut self, kad: &mut Kad, now: Instant) {
        let is_late = |until: Option<Instant>| until.is_some_and(|until| now >= until);
        let late = self.0.iter().filter_map(|(id, query)| match query {
            Query::Get { until, reply, .. } if is_late(*until) || reply.is_closed() => Some(*id),
            _ => None,
        });
        for id in late.collect::<Vec<_>>() {
            if let Some(mut query) = kad.query_mut(&id) {
                query.finish();
            }
            self.answer(id, Ok(()));
        }
    }

    fn answer(&mut self, id: QueryId, outcome: Result<(), String>) {
        // Who asked may have given up.
        match self.0.remove(&id) {
            Some(Query::Get { reply, found, .. }) if !found.is_empty() => {
                drop(reply.send(Ok(found)));
            }
            Some(Query::Get { reply, found, .. }) => drop(reply.send(outcome.map(|()| found))),
            Some(Query::Put(reply)) => drop(reply.send(outcome)),
            None => {}
        }
    }
}

fn too_many() -> String {
    format!("{MAX_QUERIES} questions are open already")
}

impl Driver {
    pub(super) fn on_directory(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed {
                id,
                result,
                stats,
                step,
            } => {
                let kad = &mut self.swarm.behaviour_mut().kad;
                let membership = self.shared.door.membership();
                let counts = self
                    .queries
                    .progress(kad, membership, id, result, step.last);
                let counters = &mut self.shared.standing().counters;
                counters.rubbish += u64::from(!counts);
                if step.last {
                    counters.queries += 1;
                    counters.requests += u64::from(stats.num_requests());
                    counters.unanswered += u64::from(stats.num_failures());
                }
            }
            kad::Event::InboundRequest { request } => {
                self.shared.standing().counters.asked += 1;
                if let InboundRequest::PutRecord {
                    source,
                    record: Some(record),
                    ..
                } = request
                {
                    self.keep(record, from_libp2p(&source));
                }
            }
            _ => {}
        }
    }
}
