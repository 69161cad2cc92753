//! Any bytes from a peer: frames, however the bytes are split, into a pool that stays within its bounds
//! and accounts for every packet.
#![no_main]

use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use vpn_core::Packet;
use vpn_core::packet::PacketBatch;
use vpn_core::testing::build;
use vpn_p2p::streams::frame::{Control, Encoded, Frame, Purpose, Session, decode};
use vpn_p2p::streams::pool::{Action, Offer};
use vpn_p2p::streams::{Budget, Pool, PoolConfig, StreamId};

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    /// Bytes by one of the streams.
    Bytes(u8, &'a [u8]),
    /// A frame that is well-formed, with any numbers.
    Ack(u8, u64, u64),
    Stop(u8, bool, u8),
    Stopped(u8, bool, u8, u64),
    Bye(u8),
    Pong(u8, u64),
    Hello(u64, u8, bool),
    Welcome(u8, u64),
    Send(u8),
    Write(u8, u16),
    Take,
    Ended(u8),
    Wait(u16),
}

fn stream(theirs: bool, number: u8) -> StreamId {
    match theirs {
        true => StreamId::theirs(number.into()),
        false => StreamId::ours(number.into()),
    }
}

struct World {
    pool: Pool,
    now: Instant,
    known: Vec<(StreamId, BytesMut)>,
}

impl World {
    fn pick(&mut self, at: u8) -> Option<usize> {
        let count = self.known.len();
        (count > 0).then(|| usize::from(at) % count)
    }

    fn bytes(&mut self, at: u8, bytes: &[u8]) {
        let Some(at) = self.pick(at) else { return };
        let (id, buffer) = &mut self.known[at];
        buffer.extend_from_slice(bytes);
        let fault = loop {
            match decode(buffer) {
                Ok(Some(frame)) => {
                    if let Err(fault) = self.pool.received(self.now, *id, frame) {
                        break Some(fault);
                    }
                }
                Ok(None) => break None,
                Err(error) => break Some(error.into()),
            }
        };
        if let Some(fault) = fault {
            let (id, _) = self.known.swap_remove(at);
            self.pool.ended(self.now, id, &fault);
        }
    }

    fn frame(&mut self, at: u8, control: Control) {
        self.bytes(at, Encoded::control(control).bytes());
    }

    fn act(&mut self) {
        while let Some(action) = self.pool.take_action() {
            match action {
                Action::Open(id) => {
                    self.pool.opened(id);
                    self.known.push((id, BytesMut::new()));
                }
                Action::Close(id) => self.known.retain(|(known, _)| *known != id),
            }
        }
    }

    fn step(&mut self, step: Step<'_>) {
        match step {
            Step::Bytes(at, bytes) => self.bytes(at, bytes),
            Step::Ack(at, packets, bytes) => self.frame(at, Control::Ack { packets, bytes }),
            Step::Stop(at, theirs, n) => {
                let stream = stream(theirs, n);
                self.frame(at, Control::Stop { stream });
            }
            Step::Stopped(at, theirs, n, packets) => {
                let stream = stream(theirs, n);
                self.frame(at, Control::Stopped { stream, packets });
            }
            Step::Bye(at) => self.frame(at, Control::Bye),
            Step::Pong(at, number) => self.frame(at, Control::Pong { number }),
            Step::Welcome(at, session) => {
                let session = Session(session);
                self.frame(at, Control::Welcome { session });
            }
            Step::Hello(session, number, probe) => {
                let purpose = if probe { Purpose::Probe } else { Purpose::Data };
                let session = Session(session);
                if let Ok(id) = self
                    .pool
                    .accepted(self.now, session, number.into(), purpose)
                {
                    self.known.push((id, BytesMut::new()));
                }
            }
            Step::Send(connection) => {
                let from = format!("10.5.0.2:{connection}");
                let mut packet = Packet::from_slice(&build::udp(&*from, "192.0.2.1:7", b"x"));
                let offer = self.pool.offer(self.now, &mut packet);
                assert!(offer == Offer::Taken || !packet.is_empty());
                self.pool.weigh(self.now);
            }
            Step::Write(at, most) => {
                if let Some(at) = self.pick(at) {
                    let id = self.known[at].0;
                    let mut out = Vec::new();
                    self.pool.next_write(self.now, id, most.into(), &mut out);
                    for frame in out {
                        let decoded = decode(&mut BytesMut::from(frame.bytes()));
                        assert!(matches!(
                            decoded,
                            Ok(Some(Frame::Packet(_) | Frame::Control(_)))
                        ));
                    }
                }
            }
            Step::Take => {
                let mut batch = PacketBatch::new(16, 2048);
                self.pool.take(&mut batch);
            }
            Step::Ended(at) => {
                if let Some(at) = self.pick(at) {
                    let (id, _) = self.known.swap_remove(at);
                    self.pool
                        .ended(self.now, id, &vpn_p2p::streams::Fault::Ended);
                }
            }
            Step::Wait(millis) => {
                self.now += Duration::from_millis(millis.into());
                if self.pool.poll_timeout().is_some_and(|at| at <= self.now) {
                    self.pool.handle_timeout(self.now);
                }
            }
        }
        self.act();
    }
}

fuzz_target!(|steps: Vec<Step<'_>>| {
    let (now, budget) = (Instant::now(), Budget::new(1 << 20));
    let config = PoolConfig::default();
    let Ok(pool) = Pool::new(config, true, Session(1), budget.clone(), now) else {
        return;
    };
    let known = Vec::new();
    let mut world = World { pool, now, known };
    world.act();
    for step in steps {
        world.step(step);
        let status = world.pool.status();
        let counters = &status.counters;
        let gone = counters.delivered.packets + counters.drops.total();
        let there = status.waiting + status.in_flight + status.uncertain;
        assert_eq!(counters.taken.packets, gone + there, "{status:?}");
        assert_eq!(status.waiting_bytes, budget.used());
        assert!(status.streams + status.opening <= 64);
    }
    world.pool.close();
    assert_eq!(budget.used(), 0);
});
