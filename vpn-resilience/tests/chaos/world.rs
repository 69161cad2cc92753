//! Two ends and a bad network: one asks, the other answers.
//!
//! Calls go through breaker, retry and a learned time limit; a monitor asks the far end whether it is
//! there; both share one tunnel, whose rate is limited. One task moves everything: it sleeps until
//! the next packet is due, or something else is.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use vpn_core::testing::{FarSide, Faulty, MemoryTransport, VirtualClock, build, memory_transport};
use vpn_core::{Assigned, DropCounters, Packet, PacketBatch, TunnelTransport};
use vpn_resilience::call::{Policy, WithBreaker, WithRetry, WithTimeout};
use vpn_resilience::decorate::{Guarded, RateUnit, TunnelRate};
use vpn_resilience::*;

use super::network::Network;

pub(crate) const KEEPALIVE: Duration = Duration::from_secs(5);

/// Between two calls.
const PAUSE: Duration = Duration::from_secs(1);

/// Packets that wait for their turn at most; calls and questions make far fewer.
const QUEUE: usize = 1024;

/// Where UDP's payload begins in an IPv4 packet without options.
const PAYLOAD: usize = 28;

/// The network is cut from one time to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

/// A scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) network: Network,
    /// How long calls begin, one a second.
    pub(crate) lasts: Duration,
    pub(crate) cut: Option<Cut>,
    pub(crate) budget: BudgetConfig,
    /// How often a silent peer is asked before it is dead.
    pub(crate) questions: u32,
}

/// What came of a run; times are since its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) calls: u64,
    pub(crate) delivered: u64,
    pub(crate) attempts: u64,
    /// When calls succeeded.
    successes: Vec<Duration>,
    pub(crate) deaths: Vec<Duration>,
    pub(crate) recoveries: Vec<Duration>,
    pub(crate) breaker: Transitions,
    counts: Counts,
    pub(crate) lost: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    /// Packets that the near end sent, and that the far end did.
    asked: u64,
    answered: u64,
    /// Packets that came to the far end, and to the near end.
    there: u64,
    back: u64,
    /// Answers that came after their attempt was over.
    late: u64,
}

impl Outcome {
    pub(crate) const fn sent(&self) -> u64 {
        self.counts.asked + self.counts.answered
    }

    /// Whether every packet is accounted for, in both directions, and every call and attempt.
    pub(crate) const fn balances(&self) -> bool {
        let Counts { there, back, .. } = self.counts;
        self.sent() == there + back + self.lost
    }

    pub(crate) fn first_success_after(&self, time: Duration) -> Option<Duration> {
        self.successes.iter().copied().filter(|at| *at > time).min()
    }
}

type Tunnel = Guarded<Faulty<MemoryTransport>, TunnelRate>;

struct World {
    plan: Plan,
    begun: Instant,
    clock: VirtualClock,
    tunnel: Tunnel,
    far: FarSide,
    inner: Mutex<Inner>,
    poke: Notify,
}

struct Inner {
    queue: VecDeque<Packet>,
    waiting: HashMap<u32, oneshot::Sender<()>>,
    next: u32,
    monitor: Monitor,
    counts: Counts,
    deaths: Vec<Duration>,
    recoveries: Vec<Duration>,
}

/// What a packet says: a call's or a question, and its number.
fn packet(kind: u8, number: u32) -> Packet {
    let mut says = vec![kind];
    says.extend(number.to_be_bytes());
    Packet::from_slice(&build::udp("10.5.0.2:4000", "203.0.113.10:7", &says))
}

fn read(packet: &[u8]) -> (u8, u32) {
    let says = &packet[PAYLOAD..];
    (says[0], u32::from_be_bytes(says[1..5].try_into().unwrap()))
}

/// No answer: the attempt's time limit says so, and nothing else.
#[derive(Debug, thiserror::Error)]
#[error("the world ended")]
struct Ended;

impl World {
    fn new(plan: Plan, seed: u64) -> Arc<Self> {
        let (clock, begun) = (VirtualClock::new(), Instant::now());
        let (near, far) = memory_transport(QUEUE, 1420);
        far.up(Assigned::default());
        let faulty = Faulty::new(near, clock.clone(), seed, plan.network.faults(false));
        let rate = TunnelRate::new(RateConfig {
            per_second: plan.network.rate,
            burst: 3000,
        });
        let monitor = Monitor::new(
            HealthConfig {
                keepalive: KEEPALIVE,
                questions: plan.questions,
                ..HealthConfig::default()
            },
            begun.into_std(),
        );
        Arc::new(Self {
            plan,
            begun,
            clock,
            tunnel: Guarded::new(faulty, rate.unit(RateUnit::Bytes)),
            far,
            inner: Mutex::new(Inner {
                queue: VecDeque::new(),
                waiting: HashMap::new(),
                next: 0,
                monitor,
                counts: Counts::default(),
                deaths: Vec::new(),
                recoveries: Vec::new(),
            }),
            poke: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// One attempt: a packet there, and one back.
    async fn ask(&self) -> Result<(), Ended> {
        let (to, from) = oneshot::channel();
        {
            let mut inner = self.lock();
            inner.next += 1;
            let number = inner.next;
            inner.waiting.insert(number, to);
            assert!(inner.queue.len() < QUEUE);
            inner.queue.push_back(packet(0, number));
        }
        self.poke.notify_one();
        from.await.map_err(|_| Ended)
    }

    /// The network's clock shows the time there is, and the network is cut or not.
    fn adjust(&self) {
        let passed = self.begun.elapsed();
        self.clock.advance(passed - self.clock.elapsed());
        let cut = self
            .plan
            .cut
            .is_some_and(|cut| (cut.from..cut.to).contains(&passed));
        let faulty = self.tunnel.inner();
        faulty.set_faults(self.plan.network.faults(cut));
    }

    /// Moves everything that can be moved now.
    fn turn(&self) {
        self.adjust();
        let now = Instant::now().into_std();
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.monitor.handle_timeout(now);
        while let Some(question) = inner.monitor.poll_question() {
            inner.queue.push_back(packet(1, question.0 as u32));
        }
        let mut drops = DropCounters::default();
        let mut batch = PacketBatch::new(64, 1500);
        while let Some(packet) = inner.queue.pop_front() {
            if let Err(packet) = batch.push(packet) {
                inner.queue.push_front(packet);
                break;
            }
        }
        inner.counts.asked += self.tunnel.try_send(&mut batch, &mut drops).unwrap() as u64;
        for packet in batch.drain().rev() {
            inner.queue.push_front(packet);
        }
        // Twice: what comes to the far end is answered, and the answer sets out.
        for _ in 0..2 {
            self.tunnel.try_recv(&mut batch, &mut drops).unwrap();
            for packet in batch.drain() {
                inner.counts.back += 1;
                match read(packet.bytes()) {
                    (0, number) => match inner.waiting.remove(&number).map(|to| to.send(())) {
                        Some(Ok(())) => {}
                        _ => inner.counts.late += 1,
                    },
                    (_, number) => inner.monitor.answered(Question(number.into()), now),
                }
            }
            while let Some(packet) = self.far.take() {
                inner.counts.there += 1;
                inner.counts.answered += 1;
                self.far.inject(packet.bytes()).unwrap();
            }
        }
        assert_eq!(drops.total(), 0);
        while let Some((life, at)) = inner.monitor.poll_event() {
            let at = at - self.begun.into_std();
            match life {
                Life::Dead => inner.deaths.push(at),
                Life::Alive if inner.deaths.len() > inner.recoveries.len() => {
                    inner.recoveries.push(at);
                }
                _ => {}
            }
        }
    }

    /// When there is something to move.
    fn next(&self) -> Instant {
        let inner = self.lock();
        let room = self
            .tunnel
            .with_guard(|guard| vpn_resilience::decorate::Guard::room_at(guard));
        let times = [
            // The network's clock began when the world did, or a moment later.
            self.tunnel.inner().next_due().map(|due| {
                self.begun.into_std()
                    + due.saturating_duration_since(self.clock.now())
                    + self.clock.elapsed()
            }),
            room.filter(|_| !inner.queue.is_empty()),
            Some(inner.monitor.next_timeout()),
        ];
        let earliest = times.into_iter().flatten().min();
        earliest.map_or_else(Instant::now, Instant::from_std)
    }

    async fn go_on(&self) {
        loop {
            self.turn();
            tokio::select! {
                biased;
                () = self.poke.notified() => {}
                () = sleep_until(self.next()) => {}
            }
        }
    }
}

/// Runs a plan with a seed.
pub(crate) fn run(plan: Plan, seed: u64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(async {
        let world = World::new(plan, seed);
        let mover = world.clone();
        let mover = tokio::spawn(async move { mover.go_on().await });
        let config = RetryConfig {
            budget: plan.budget,
            ..RetryConfig::default()
        };
        let retry = WithRetry::new(config, seed, AllTransient);
        let policy = WithBreaker::new(BreakerConfig::default(), AllTransient)
            .around(retry.around(WithTimeout::new(TimeoutConfig::default())));
        let policy = Arc::new(policy);
        let mut calls = JoinSet::new();
        while world.begun.elapsed() < plan.lasts {
            let (world, policy) = (world.clone(), policy.clone());
            calls.spawn(async move {
                let called: Result<(), _> = policy.run(|| world.ask()).await;
                called.is_ok().then(|| world.begun.elapsed())
            });
            sleep(PAUSE).await;
        }
        let (mut made, mut successes) = (0, Vec::new());
        while let Some(success) = calls.join_next().await {
            made += 1;
            successes.extend(success.unwrap());
        }
        // What is on its way arrives.
        sleep(Duration::from_secs(10)).await;
        mover.abort();
        let _ = mover.await;
        while world.tunnel.inner().next_due().is_some() {
            sleep(Duration::from_millis(100)).await;
            world.turn_without_questions();
        }
        let counters = policy.inside().outside().counters();
        assert_eq!(
            counters.calls,
            counters.succeeded + counters.failed + counters.cancelled
        );
        assert_eq!(counters.succeeded, successes.len() as u64);
        let permits = policy.outside().status().counters;
        assert_eq!(permits.admitted + permits.refused, made);
        assert_eq!(permits.admitted, counters.calls);
        let inner = world.lock();
        Outcome {
            calls: made,
            delivered: successes.len() as u64,
            attempts: counters.attempts,
            successes,
            deaths: inner.deaths.clone(),
            recoveries: inner.recoveries.clone(),
            breaker: policy.outside().status().transitions,
            counts: inner.counts,
            lost: world.tunnel.inner().lost(),
        }
    })
}

impl World {
    /// At the end: lets arrive what is under way, and asks nothing more.
    fn turn_without_questions(&self) {
        self.adjust();
        let (mut drops, mut batch) = (DropCounters::default(), PacketBatch::new(64, 1500));
        let mut inner = self.lock();
        for _ in 0..2 {
            self.tunnel.try_recv(&mut batch, &mut drops).unwrap();
            inner.counts.back += batch.drain().count() as u64;
            inner.counts.there += std::iter::from_fn(|| self.far.take()).count() as u64;
        }
    }
}
