//! Decides what a node says about itself, and when it signs that anew: when it can be reached elsewhere,
//! and well before its record ends. Pure.
//!
//! Time is that of the wall clock, since the record's end is: a machine that slept for an hour has to
//! sign anew at once, whatever its timers say.

use std::time::Duration;

use ipnet::IpNet;
use libp2p::Multiaddr;
use vpn_core::PeerRecord;

use crate::directory::records::{Draft, RecordError};
use crate::identity::Identity;
use crate::libp2p::admission::Certificate;
use crate::libp2p::body::{Body, TERMS};
use crate::libp2p::membership::NetworkId;

/// For how long a record is valid: a node that is gone for good is forgotten after that.
pub(super) const VALIDITY: Duration = Duration::from_secs(60 * 60);

/// After how long it is signed anew: twice before the one before expires, and nodes that joined the
/// directory since then get their share.
pub(super) const RENEW: Duration = Duration::from_secs(20 * 60);

/// By how much the clock may go back before what was signed with it counts as signed in the future.
const BACK: Duration = Duration::from_secs(60);

/// What a node says about itself.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// What people call it.
    pub name: String,
    /// Its virtual addresses, each with its network.
    pub addresses: Vec<IpNet>,
    /// That it is a member, where the network has a key. A record ends with it.
    pub certificate: Option<Certificate>,
}

/// Who speaks for a node: what it says, its key, and what it said last.
pub(super) struct Voice {
    own: Own,
    identity: Identity,
    network: NetworkId,
    /// The largest number used, or known of.
    last: u64,
    said: Option<Said>,
}

struct Said {
    record: PeerRecord,
    endpoints: Vec<Multiaddr>,
    at: Duration,
}

impl std::fmt::Debug for Voice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Voice")
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

impl Voice {
    /// Has said nothing yet.
    pub(super) const fn new(own: Own, identity: Identity, network: NetworkId) -> Self {
        Self {
            own,
            identity,
            network,
            last: 0,
            said: None,
        }
    }

    /// The record for these places. It is the one before as long as that is young and nothing changed.
    /// `now` is the time since the Unix epoch.
    ///
    /// # Errors
    ///
    /// [`RecordError`]: nobody would believe such a record.
    pub(super) fn say(
        &mut self,
        endpoints: &[Multiaddr],
        now: Duration,
    ) -> Result<PeerRecord, RecordError> {
        if let Some(said) = &self.said
            && said.endpoints == endpoints
            && !said.is_old(now)
            && said.record.sequence >= self.last
        {
            return Ok(said.record.clone());
        }
        self.sign(endpoints.to_vec(), now)
    }

    /// The last record, signed anew if it is old; `None` if nothing was said.
    pub(super) fn again(&mut self, now: Duration) -> Option<PeerRecord> {
        let said = self.said.as_ref()?;
        if !said.is_old(now) {
            return Some(said.record.clone());
        }
        // What was said once makes sense.
        self.sign(said.endpoints.clone(), now).ok()
    }

    /// Somebody has a record of this node with this number: what is said next is newer. False if there
    /// is no larger number.
    pub(super) fn outdated(&mut self, have: u64) -> bool {
        let Some(newer) = have.checked_add(1) else {
            return false;
        };
        self.last = self.last.max(newer);
        true
    }

    /// Until when the certificate counts, in seconds since the Unix epoch.
    pub(super) fn certified_until(&self) -> Option<u64> {
        self.own.certificate.as_ref().map(Certificate::expires)
    }

    fn sign(
        &mut self,
        endpoints: Vec<Multiaddr>,
        now: Duration,
    ) -> Result<PeerRecord, RecordError> {
        // Milliseconds: larger than in any record before, unless the clock went back; who has a larger
        // one says so.
        let time = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let used = self.said.as_ref().map(|said| said.record.sequence);
        let next = used.map_or(0, |used| used.saturating_add(1));
        let sequence = time.max(self.last).max(next);
        let body = Body {
            network: self.network,
            name: self.own.name.clone(),
            endpoints: endpoints.clone(),
            certificate: self.own.certificate.clone(),
        };
        let end = now.as_secs().saturating_add(VALIDITY.as_secs());
        let draft = Draft {
            addresses: self.own.addresses.iter().map(IpNet::addr).collect(),
            sequence,
            expires: self.certified_until().map_or(end, |until| until.min(end)),
            body: body.encode().into(),
        };
        let record = draft.sign(&self.identity, &TERMS)?;
        self.last = sequence;
        self.said = Some(Said {
            record: record.clone(),
            endpoints,
            at: now,
        });
        Ok(record)
    }
}

impl Said {
    fn is_old(&self, now: Duration) -> bool {
        now >= self.at + RENEW || now + BACK < self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000);

    fn voice(certificate: Option<Certificate>) -> Voice {
        let own = Own {
            addresses: vec!["10.7.0.1/16".parse().unwrap()],
            certificate,
            ..Own::default()
        };
        Voice::new(own, Identity::from_bytes(&[1; 32]), NetworkId::default())
    }

    fn places(port: u16) -> Vec<Multiaddr> {
        vec![format!("/ip4/192.0.2.1/tcp/{port}").parse().unwrap()]
    }

    #[test]
    fn nothing_is_said_before_it_is_known_where_and_the_same_while_it_is_young() {
        let mut voice = voice(None);
        assert!(voice.again(NOW).is_none());
        let first = voice.say(&places(1), NOW).unwrap();
        let young = NOW + RENEW - Duration::from_secs(1);
        assert_eq!(voice.say(&places(1), young).unwrap(), first);
        assert_eq!(voice.again(young), Some(first.clone()));
        let elsewhere = voice.say(&places(2), NOW).unwrap();
        assert!(elsewhere.sequence > first.sequence);
    }

    /// Nobody was there to publish at, or the machine slept: what peers are told lives all the same.
    #[test]
    fn it_never_says_what_is_over() {
        let mut voice = voice(None);
        let mut last = voice.say(&places(1), NOW).unwrap();
        for hours in [1, 2, 30] {
            let later = NOW + Duration::from_secs(hours * 3600);
            let record = voice.again(later).unwrap();
            assert!(record.sequence > last.sequence);
            assert_eq!(record.expires, later.as_secs() + VALIDITY.as_secs());
            last = record;
        }
        // The clock was wrong, and is put right: the record would be valid for too long.
        let record = voice.again(NOW).unwrap();
        assert!(record.sequence > last.sequence);
        assert_eq!(record.expires, NOW.as_secs() + VALIDITY.as_secs());
    }

    #[test]
    fn after_a_larger_number_it_says_a_larger_one() {
        let mut voice = voice(None);
        let first = voice.say(&places(1), NOW).unwrap();
        let have = first.sequence + 1_000_000;
        assert!(voice.outdated(have));
        let next = voice.say(&places(1), NOW).unwrap();
        assert_eq!(next.sequence, have + 1);
        assert_eq!(voice.again(NOW), Some(next));
        assert!(!voice.outdated(u64::MAX));
    }

    #[test]
    fn a_record_ends_with_its_certificate() {
        let [network, member] = [9, 1].map(|n| Identity::from_bytes(&[n; 32]).clone());
        let until = NOW.as_secs() + 600;
        let certificate = Certificate::issue(&network, member.id(), until, &[]);
        let record = voice(Some(certificate)).say(&places(1), NOW).unwrap();
        assert_eq!(record.expires, until);
    }
}
