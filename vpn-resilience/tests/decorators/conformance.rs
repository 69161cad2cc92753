//! vpn-core's conformance kit over decorated implementations, alone and in both orders.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use vpn_core::testing::conformance::*;
use vpn_core::testing::{FarSide, MemoryDirectory, memory_transport};
use vpn_core::{PeerDirectory, TransportCapabilities, TunnelTransport};
use vpn_resilience::call::{Policy, WithBreaker, WithBulkhead, WithRate, WithRetry, WithTimeout};
use vpn_resilience::decorate::*;
use vpn_resilience::*;

use super::assigned;

/// Packets each direction holds: fewer than the suites send when they fill it.
const CAPACITY: usize = 16;

/// A decorated transport, and its far end.
struct Tunnel {
    outer: Box<dyn TunnelTransport>,
    far: Arc<Mutex<FarSide>>,
}

#[async_trait]
impl FarEnd for Tunnel {
    async fn send(&self, number: u16) {
        let far = self.far.lock().unwrap().clone();
        far.inject(&numbered(number)).unwrap();
    }
    async fn receive(&self) -> u16 {
        let far = self.far.lock().unwrap().clone();
        let packet = far.take_wait().await.unwrap();
        self.number(packet.bytes()).unwrap()
    }
}

#[async_trait]
impl TransportFixture for Tunnel {
    fn transport(&self) -> &dyn TunnelTransport {
        &*self.outer
    }
    async fn answer(&self) {
        // One that is made anew is made when it is driven.
        let mut readable = self.outer.readable();
        let poll = std::future::poll_fn(|context| {
            let _ = readable.as_mut().poll(context);
            std::task::Poll::Ready(())
        });
        poll.await;
        self.far.lock().unwrap().up(assigned());
    }
}

type Wrap = fn(Box<dyn TunnelTransport>) -> Box<dyn TunnelTransport>;

fn breaker(inner: Box<dyn TunnelTransport>) -> Box<dyn TunnelTransport> {
    let guard = TunnelBreaker::new(BreakerConfig::default());
    Box::new(Guarded::new(inner, guard))
}

fn time_limit(inner: Box<dyn TunnelTransport>) -> Box<dyn TunnelTransport> {
    Box::new(Guarded::new(inner, TunnelTimeout::default()))
}

/// Fast enough to be of no consequence to the suite.
fn rate(inner: Box<dyn TunnelTransport>) -> Box<dyn TunnelTransport> {
    let config = RateConfig {
        per_second: 1_000_000,
        burst: 100_000,
    };
    Box::new(Guarded::new(inner, TunnelRate::new(config)))
}

fn shed(inner: Box<dyn TunnelTransport>) -> Box<dyn TunnelTransport> {
    Box::new(Guarded::new(inner, TunnelShed::default()))
}

const GUARDS: [(&str, Wrap); 4] = [
    ("breaker", breaker),
    ("time limit", time_limit),
    ("rate", rate),
    ("shed", shed),
];

async fn conforms(name: &str, wrap: impl Fn(Box<dyn TunnelTransport>) -> Box<dyn TunnelTransport>) {
    let make = async || {
        let (transport, far) = memory_transport(CAPACITY, 1420);
        Tunnel {
            outer: wrap(Box::new(transport)),
            far: Arc::new(Mutex::new(far)),
        }
    };
    let checked = tunnel_transport(make).await;
    assert!(checked.is_ok(), "{name}: {}", checked.unwrap_err());
}

#[tokio::test(start_paused = true)]
async fn guarded_transports_conform() {
    for (name, wrap) in GUARDS {
        conforms(name, wrap).await;
    }
}

#[tokio::test(start_paused = true)]
async fn guards_conform_in_both_orders() {
    for (outer, wrap) in GUARDS {
        for (inner, inside) in GUARDS {
            conforms(&format!("{outer} around {inner}"), move |t| wrap(inside(t))).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn all_of_them_conform() {
    let all = |t| GUARDS.into_iter().fold(t, |t, (_, wrap)| wrap(t));
    conforms("all", all).await;
    let reversed = |t| GUARDS.into_iter().rev().fold(t, |t, (_, wrap)| wrap(t));
    conforms("all, reversed", reversed).await;
}

/// A transport that is made anew, with something around it, and inside of what is made.
async fn remade_conforms(name: &str, outside: Wrap, inside: Wrap) {
    let make = async || {
        let far = Arc::new(Mutex::new(memory_transport(CAPACITY, 1420).1));
        let newest = far.clone();
        let capabilities = TransportCapabilities::plain(1420);
        let remade = Remade::new(capabilities, BackoffConfig::default(), 7, move || {
            let (transport, far) = memory_transport(CAPACITY, 1420);
            *newest.lock().unwrap() = far;
            let made: Made = Arc::new(inside(Box::new(transport)));
            Box::pin(async move { Ok(made) })
        });
        Tunnel {
            outer: outside(Box::new(remade)),
            far,
        }
    };
    let checked = tunnel_transport(make).await;
    assert!(checked.is_ok(), "{name}: {}", checked.unwrap_err());
}

#[tokio::test(start_paused = true)]
async fn one_that_is_made_anew_conforms_in_both_orders() {
    remade_conforms("remade", |t| t, |t| t).await;
    for (name, wrap) in GUARDS {
        remade_conforms(&format!("{name} around remade"), wrap, |t| t).await;
        remade_conforms(&format!("remade around {name}"), |t| t, wrap).await;
    }
}

struct Directory(Box<dyn PeerDirectory>);

impl DirectoryFixture for Directory {
    fn directory(&self) -> &dyn PeerDirectory {
        &*self.0
    }
}

async fn directory_conforms<P>(name: &str, policy: impl Fn() -> P)
where
    P: Policy<vpn_core::DirectoryError> + 'static,
{
    let make = async || {
        let decorated = Decorated::new(MemoryDirectory::new(), policy());
        Directory(Box::new(decorated))
    };
    let checked = peer_directory(make).await;
    assert!(checked.is_ok(), "{name}: {}", checked.unwrap_err());
}

#[tokio::test(start_paused = true)]
async fn decorated_directories_conform_in_both_orders() {
    let breaker = || WithBreaker::new(BreakerConfig::default(), directory_fault);
    let retry = || WithRetry::new(RetryConfig::default(), 7, directory_fault);
    let limit = || WithTimeout::new(TimeoutConfig::default());
    let rate = || WithRate::new(RateConfig::default()).patience(Duration::from_secs(1));
    let bulkhead = || WithBulkhead::new(BulkheadConfig::default());
    directory_conforms("breaker", breaker).await;
    directory_conforms("retry", retry).await;
    directory_conforms("limit", limit).await;
    directory_conforms("rate", rate).await;
    directory_conforms("bulkhead", bulkhead).await;
    directory_conforms("breaker, retry", || breaker().around(retry())).await;
    directory_conforms("retry, breaker", || retry().around(breaker())).await;
    let all = || {
        let inner = retry().around(rate()).around(limit());
        bulkhead().around(breaker()).around(inner)
    };
    directory_conforms("all", all).await;
    let reversed = || {
        let inner = breaker().around(bulkhead());
        limit().around(rate()).around(retry()).around(inner)
    };
    directory_conforms("all, reversed", reversed).await;
}
