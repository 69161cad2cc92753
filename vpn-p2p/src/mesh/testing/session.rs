//! A session like WireGuard's: two messages, then data with counters; with its timers (whitepaper §6).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use bytes::BytesMut;
use vpn_core::DropReason;

use super::clock::Clock;
use super::keys::{
    CODE, DATA_HEADER, INITIATION, RESPONSE, draw, is_authentic, long, mix, seal, word,
};
use crate::session::{Opened, Session, Ticked};
use crate::wg_quick::PublicKey;

const REKEY_AFTER: Duration = Duration::from_secs(120);
const REJECT_AFTER: Duration = Duration::from_secs(180);
const REKEY_ATTEMPT: Duration = Duration::from_secs(90);
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Jitter of repeated initiations (§6.1), in milliseconds.
const JITTER: u64 = 334;

/// One set of keys.
#[derive(Debug)]
struct Pair {
    /// Our name and the peer's.
    ours: u32,
    theirs: u32,
    /// One key for each direction: what is reflected is not taken for the peer's.
    seals: u64,
    opens: u64,
    made: Duration,
    sent: u64,
    /// The largest counter received and one, and which before it.
    top: u64,
    seen: u128,
}

impl Pair {
    fn new(ours: u32, theirs: u32, [seals, opens]: [u64; 2], made: Duration) -> Self {
        Self {
            ours,
            theirs,
            seals,
            opens,
            made,
            sent: 0,
            top: 0,
            seen: 0,
        }
    }

    /// Whether this counter is new.
    fn take(&mut self, counter: u64) -> bool {
        if counter >= self.top {
            let by = counter + 1 - self.top;
            let by = u32::try_from(by).unwrap_or(u32::MAX);
            self.seen = self.seen.checked_shl(by).unwrap_or(0) | 1;
            self.top = counter + 1;
            return true;
        }
        let back = self.top - 1 - counter;
        let bit = if back < 128 {
            1_u128 << back
        } else {
            return false;
        };
        let is_new = self.seen & bit == 0;
        self.seen |= bit;
        is_new
    }
}

/// A handshake of ours that is not answered yet.
#[derive(Debug)]
struct Attempt {
    ours: u32,
    random: u64,
    begun: Duration,
    sent: Duration,
}

/// One peer's session.
pub(super) struct FakeSession {
    public: PublicKey,
    shared: u64,
    clock: Clock,
    indices: Arc<AtomicU32>,
    attempt: Option<Attempt>,
    /// Agreed as responder; the peer has not shown yet that it has the keys.
    next: Option<Pair>,
    current: Option<Pair>,
    previous: Option<Pair>,
    is_initiator: bool,
    /// The newest initiation of the peer; older ones are replays.
    stamp: u64,
    own_stamp: u64,
    made: Duration,
    /// Since when data was received and nothing sent, and data sent and nothing received.
    owes: Option<Duration>,
    waits: Option<Duration>,
    data_sent: Option<Duration>,
    data_received: Option<Duration>,
}

impl FakeSession {
    pub(super) fn new(
        public: PublicKey,
        shared: u64,
        clock: Clock,
        indices: Arc<AtomicU32>,
    ) -> Self {
        Self {
            public,
            shared,
            made: clock.elapsed(),
            clock,
            indices,
            attempt: None,
            next: None,
            current: None,
            previous: None,
            is_initiator: false,
            stamp: 0,
            own_stamp: 0,
            owes: None,
            waits: None,
            data_sent: None,
            data_received: None,
        }
    }

    fn begin(&mut self) -> BytesMut {
        let now = self.clock.elapsed();
        let begun = self.attempt.as_ref().map_or(now, |attempt| attempt.begun);
        let ours = draw(&self.indices);
        let micros = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        self.own_stamp = micros.max(self.own_stamp).saturating_add(1);
        let random = mix(self.shared ^ u64::from(ours) ^ micros << 20);
        let mut out = Vec::with_capacity(INITIATION);
        out.extend_from_slice(&[1, 0, 0, 0]);
        out.extend_from_slice(&ours.to_le_bytes());
        out.extend_from_slice(self.public.as_bytes());
        out.extend_from_slice(&random.to_le_bytes());
        out.extend_from_slice(&self.own_stamp.to_le_bytes());
        out.resize(INITIATION - CODE, 0);
        seal(self.shared, &mut out, 0);
        self.attempt = Some(Attempt {
            ours,
            random,
            begun,
            sent: now,
        });
        BytesMut::from(&out[..])
    }

    fn initiation(&mut self, message: &[u8]) -> Opened {
        if message.len() != INITIATION || !is_authentic(self.shared, message) {
            return Opened::Rejected(DropReason::NotAuthentic);
        }
        let (theirs, random, stamp) = (word(message, 4), long(message, 40), long(message, 48));
        if stamp <= self.stamp {
            return Opened::Rejected(DropReason::NotAuthentic);
        }
        self.stamp = stamp;
        let now = self.clock.elapsed();
        let ours = draw(&self.indices);
        let answer = mix(self.shared ^ u64::from(ours) << 32 ^ random);
        let mut out = Vec::with_capacity(RESPONSE);
        out.extend_from_slice(&[2, 0, 0, 0]);
        out.extend_from_slice(&ours.to_le_bytes());
        out.extend_from_slice(&theirs.to_le_bytes());
        out.extend_from_slice(&answer.to_le_bytes());
        out.resize(RESPONSE - CODE, 0);
        seal(mix(self.shared ^ random), &mut out, 0);
        let key = mix(self.shared ^ random ^ answer.rotate_left(9));
        self.next = Some(Pair::new(ours, theirs, [mix(key), key], now));
        self.waits = None;
        self.owes = None;
        Opened::Reply(BytesMut::from(&out[..]))
    }

    fn response(&mut self, message: &[u8]) -> Opened {
        let Some(attempt) = &self.attempt else {
            return Opened::Rejected(DropReason::NoSession);
        };
        let key = mix(self.shared ^ attempt.random);
        let ours = attempt.ours;
        if message.len() != RESPONSE || word(message, 8) != ours || !is_authentic(key, message) {
            return Opened::Rejected(DropReason::NotAuthentic);
        }
        let (theirs, answer) = (word(message, 4), long(message, 12));
        let key = mix(self.shared ^ attempt.random ^ answer.rotate_left(9));
        self.attempt = None;
        self.is_initiator = true;
        self.adopt(Pair::new(
            ours,
            theirs,
            [key, mix(key)],
            self.clock.elapsed(),
        ));
        let mut keepalive = Vec::new();
        self.write(&[], &mut keepalive);
        Opened::Reply(BytesMut::from(&keepalive[..]))
    }

    /// From now on these keys seal.
    fn adopt(&mut self, pair: Pair) {
        self.made = pair.made;
        self.waits = None;
        self.previous = self.current.replace(pair);
    }

    fn data(&mut self, mut message: BytesMut) -> Opened {
        let name = word(&message, 4);
        let pairs = [&mut self.current, &mut self.next, &mut self.previous];
        let pair = pairs.into_iter().flatten().find(|pair| pair.ours == name);
        let Some(pair) = pair else {
            return Opened::Rejected(DropReason::NoSession);
        };
        let is_whole = message.len() >= DATA_HEADER + CODE;
        let counter = long(&message, 8);
        if !is_whole || !is_authentic(pair.opens, &message) || !pair.take(counter) {
            return Opened::Rejected(DropReason::NotAuthentic);
        }
        if self.next.as_ref().is_some_and(|next| next.ours == name)
            && let Some(next) = self.next.take()
        {
            self.is_initiator = false;
            self.attempt = None;
            self.adopt(next);
        }
        self.waits = None;
        let plain = message.len() - DATA_HEADER - CODE;
        if plain == 0 {
            return Opened::Keepalive;
        }
        let now = self.clock.elapsed();
        self.owes.get_or_insert(now);
        self.data_received = Some(now);
        message.truncate(DATA_HEADER + plain);
        Opened::Packet(message.split_off(DATA_HEADER))
    }

    fn write(&mut self, plain: &[u8], out: &mut Vec<u8>) -> bool {
        let now = self.clock.elapsed();
        let Some(pair) = self.current.as_mut() else {
            return false;
        };
        if now - pair.made > REJECT_AFTER {
            return false;
        }
        let start = out.len();
        out.extend_from_slice(&[4, 0, 0, 0]);
        out.extend_from_slice(&pair.theirs.to_le_bytes());
        out.extend_from_slice(&pair.sent.to_le_bytes());
        out.extend_from_slice(plain);
        seal(pair.seals, out, start);
        pair.sent += 1;
        self.owes = None;
        if !plain.is_empty() {
            self.waits.get_or_insert(now);
            self.data_sent = Some(now);
        }
        true
    }

    fn wants_handshake(&self, now: Duration) -> bool {
        if let Some(attempt) = &self.attempt {
            let jitter = Duration::from_millis(attempt.random % JITTER);
            return now - attempt.sent >= REKEY_TIMEOUT + jitter;
        }
        let age = now.saturating_sub(self.made);
        let since = |at: Option<Duration>| at.is_some_and(|at| at > self.made);
        let old = self.is_initiator
            && self.current.is_some()
            && (since(self.data_sent) && age >= REKEY_AFTER
                || since(self.data_received) && age >= REJECT_AFTER - KEEPALIVE - REKEY_TIMEOUT);
        let silent = self
            .waits
            .is_some_and(|since| now - since >= KEEPALIVE + REKEY_TIMEOUT);
        old || silent
    }
}

impl Session for FakeSession {
    fn seal(&mut self, plain: BytesMut, out: &mut Vec<u8>) -> bool {
        self.write(&plain, out)
    }

    fn open(&mut self, datagram: BytesMut) -> Opened {
        match datagram.first() {
            Some(1) => self.initiation(&datagram),
            Some(2) => self.response(&datagram),
            Some(4) => self.data(datagram),
            _ => Opened::Rejected(DropReason::Malformed),
        }
    }

    fn initiate(&mut self, again: bool) -> Option<BytesMut> {
        (self.attempt.is_none() || again).then(|| self.begin())
    }

    fn forget(&mut self) {
        self.attempt = None;
        self.next = None;
        self.current = None;
        self.previous = None;
        self.owes = None;
        self.waits = None;
        self.made = self.clock.elapsed();
    }

    fn tick(&mut self) -> Ticked {
        let now = self.clock.elapsed();
        for pair in [&mut self.current, &mut self.next, &mut self.previous] {
            if pair
                .as_ref()
                .is_some_and(|pair| now - pair.made > REJECT_AFTER)
            {
                *pair = None;
            }
        }
        let gave_up = |attempt: &Attempt| now - attempt.begun >= REKEY_ATTEMPT;
        if self.attempt.as_ref().is_some_and(gave_up) || now - self.made >= REJECT_AFTER * 3 {
            self.forget();
            return Ticked::Expired;
        }
        if self.wants_handshake(now) {
            self.waits = None;
            return Ticked::Send(self.begin());
        }
        let mut out = Vec::new();
        if self.owes.is_some_and(|since| now - since >= KEEPALIVE) && self.write(&[], &mut out) {
            return Ticked::Send(BytesMut::from(&out[..]));
        }
        Ticked::Idle
    }

    fn is_ready(&self) -> bool {
        self.current.is_some()
    }

    fn handshake_age(&self) -> Option<Duration> {
        let pair = self.current.as_ref()?;
        Some(self.clock.elapsed() - pair.made)
    }
}

impl fmt::Debug for FakeSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeSession")
            .field("ready", &self.is_ready())
            .finish_non_exhaustive()
    }
}
