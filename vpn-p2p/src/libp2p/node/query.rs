//! Decides what becomes of questions to the directory, and of what others want kept.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::kad::store::{MemoryStore, RecordStore as _};
use libp2p::kad::{
    self, GetRecordOk, InboundRequest, QueryId, QueryResult, Quorum, Record, RecordKey,
};
use tokio::sync::oneshot;

use super::driver::Driver;
use super::hello::unix;
use super::status::Counters;
use crate::directory::kademlia::slot::{NotKept, Slot, unpack};
use crate::libp2p::membership::Membership;

type Kad = kad::Behaviour<MemoryStore>;

/// Questions at the same time; further ones are told to come again.
const MAX_QUERIES: usize = 256;

/// Answers after which a question is over: nodes disagree while a record is on its way to them.
const ENOUGH: usize = 4;

type Answers = Result<Vec<Vec<u8>>, String>;

#[derive(Debug)]
enum Query {
    Get(oneshot::Sender<Answers>, Vec<Vec<u8>>),
    Put(oneshot::Sender<Result<(), String>>),
}

/// Questions that are open.
#[derive(Debug, Default)]
pub(super) struct Queries(HashMap<QueryId, Query>);

impl Queries {
    pub(super) fn get(&mut self, kad: &mut Kad, key: Vec<u8>, reply: oneshot::Sender<Answers>) {
        if self.0.len() >= MAX_QUERIES {
            let _ = reply.send(Err(format!("{MAX_QUERIES} questions are open already")));
            return;
        }
        let id = kad.get_record(RecordKey::from(key));
        self.0.insert(id, Query::Get(reply, Vec::new()));
    }

    pub(super) fn put(
        &mut self,
        kad: &mut Kad,
        membership: &Membership,
        key: Vec<u8>,
        value: Vec<u8>,
        lives: Duration,
        reply: oneshot::Sender<Result<(), String>>,
    ) {
        if self.0.len() >= MAX_QUERIES {
            let _ = reply.send(Err(format!("{MAX_QUERIES} questions are open already")));
            return;
        }
        // With what is here already: libp2p puts it into our own part as it is.
        let value = match merged(kad, membership, &key, &value) {
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

    /// What came for a question. `is_last`: nothing more will.
    fn progress(&mut self, kad: &mut Kad, id: QueryId, result: QueryResult, is_last: bool) {
        match (self.0.get_mut(&id), result) {
            (
                Some(Query::Get(_, found)),
                QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(record))),
            ) => {
                found.push(record.record.value);
                if found.len() >= ENOUGH
                    && let Some(mut query) = kad.query_mut(&id)
                {
                    query.finish();
                }
                if found.len() >= ENOUGH || is_last {
                    self.answer(id, Ok(()));
                }
            }
            (
                Some(Query::Get(..)),
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
    }

    fn answer(&mut self, id: QueryId, outcome: Result<(), String>) {
        // Who asked may have given up.
        match self.0.remove(&id) {
            Some(Query::Get(reply, found)) if !found.is_empty() => drop(reply.send(Ok(found))),
            Some(Query::Get(reply, found)) => drop(reply.send(outcome.map(|()| found))),
            Some(Query::Put(reply)) => drop(reply.send(outcome)),
            None => {}
        }
    }

    /// Throws away what expired.
    #[allow(clippy::unused_self)]
    pub(super) fn sweep(&self, kad: &mut Kad, now: Instant) {
        kad.store_mut().retain(|_, record| !record.is_expired(now));
    }
}

/// What our part has under this key once this is entered, and when the last of it expires.
fn merged(
    kad: &mut Kad,
    membership: &Membership,
    key: &[u8],
    value: &[u8],
) -> Result<(Vec<u8>, Duration), NotKept> {
    let slot = Slot::from_key(key).ok_or(NotKept::Key)?;
    let now = unix();
    let known = kad.store_mut().get(&RecordKey::from(key.to_vec()));
    let known = known.map(|record| record.value.clone()).unwrap_or_default();
    let merged = slot.merge(&known, value, |record| {
        membership.believe(record.clone(), now).is_ok()
    })?;
    let last = unpack(&merged).iter().map(|record| record.expires).max();
    let lives = last.unwrap_or(now).saturating_sub(now);
    Ok((merged, Duration::from_secs(lives)))
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
                if step.last {
                    let counters = &mut self.shared.standing().counters;
                    counters.queries += 1;
                    counters.requests += u64::from(stats.num_requests());
                    counters.unanswered += u64::from(stats.num_failures());
                }
                let kad = &mut self.swarm.behaviour_mut().kad;
                self.queries.progress(kad, id, result, step.last);
            }
            kad::Event::InboundRequest { request } => {
                self.shared.standing().counters.asked += 1;
                if let InboundRequest::PutRecord {
                    source,
                    record: Some(record),
                    ..
                } = request
                {
                    let from = crate::libp2p::key::from_libp2p(&source);
                    let is_member =
                        from.is_some_and(|from| self.shared.standing().admitted.contains(&from));
                    self.keep(record, is_member);
                }
            }
            _ => {}
        }
    }

    /// Somebody wants this kept.
    fn keep(&mut self, record: Record, is_member: bool) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        let membership = self.shared.door.membership();
        let key = record.key.to_vec();
        let kept = match is_member {
            true => merged(kad, membership, &key, &record.value),
            false => Err(NotKept::Invalid),
        };
        let count = |count: fn(&mut Counters)| count(&mut self.shared.standing().counters);
        match kept {
            Ok((value, lives)) => {
                let bytes = value.len() as u64;
                let record = Record {
                    value,
                    publisher: None,
                    expires: Some(Instant::now() + lives),
                    ..record
                };
                if kad.store_mut().put(record).is_ok() {
                    let counters = &mut self.shared.standing().counters;
                    counters.kept += 1;
                    counters.kept_bytes += bytes;
                } else {
                    count(|counters| counters.full += 1);
                }
            }
            Err(NotKept::Old) => count(|counters| counters.old += 1),
            Err(error) => {
                tracing::warn!(%error, "a record for the directory is not kept");
                count(|counters| counters.invalid += 1);
            }
        }
    }
}
