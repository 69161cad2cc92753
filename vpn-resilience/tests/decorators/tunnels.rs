//! Guards around transports, on virtual time.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep, timeout};
use vpn_core::testing::{FarSide, MemoryTransport, memory_transport};
use vpn_core::*;
use vpn_resilience::decorate::*;
use vpn_resilience::*;

use super::{assigned, packets};

/// A tunnel that is driven by its reader, as an engine does.
struct Driven<T> {
    tunnel: std::sync::Arc<T>,
    _reader: tokio::task::JoinSet<()>,
}

impl<T: TunnelTransport + 'static> Driven<T> {
    fn new(tunnel: T) -> Self {
        let tunnel = std::sync::Arc::new(tunnel);
        let (mut reader, driven) = (tokio::task::JoinSet::new(), tunnel.clone());
        reader.spawn(async move {
            let (mut batch, mut drops) = (PacketBatch::new(16, 1500), DropCounters::default());
            while driven.readable().await.is_ok() {
                let _ = driven.try_recv(&mut batch, &mut drops);
                batch.clear();
            }
        });
        Self {
            tunnel,
            _reader: reader,
        }
    }

    fn state(&self) -> TransportState {
        self.tunnel.state().get()
    }

    fn is_up(&self) -> bool {
        matches!(self.state(), TransportState::Up(_))
    }
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_flaps_is_held_down_and_comes_back_when_it_lasts() {
    let (tunnel, far) = memory_transport(16, 1420);
    let guard = TunnelBreaker::new(BreakerConfig::default());
    let driven = Driven::new(Guarded::new(tunnel, guard));
    for _ in 0..5 {
        far.up(assigned());
        seconds(1).await;
        assert!(driven.is_up());
        far.down(DownCause::NoAnswer);
        seconds(1).await;
    }
    far.up(assigned());
    seconds(1).await;
    assert_eq!(driven.state(), TransportState::Down(DownCause::HeldBack));
    // What is sent is dropped, and counted.
    let (mut batch, mut drops) = (packets(3), DropCounters::default());
    assert_eq!(driven.tunnel.try_send(&mut batch, &mut drops).unwrap(), 0);
    assert_eq!((batch.len(), drops.get(DropReason::TunnelDown)), (0, 3));
    let mut watch = driven.tunnel.state();
    watch.next().await;
    let begun = Instant::now();
    // Somebody who watches is told, though the tunnel itself does nothing.
    assert!(matches!(watch.next().await, TransportState::Up(_)));
    assert!(begun.elapsed() < Duration::from_secs(60));
    seconds(21).await;
    let status = driven.tunnel.with_guard(|guard| guard.status());
    let t = status.transitions;
    assert_eq!((t.opened, t.half_opened, t.closed), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_does_not_come_up_is_down_until_it_does() {
    let (tunnel, far) = memory_transport(16, 1420);
    let driven = Driven::new(Guarded::new(tunnel, TunnelTimeout::default()));
    seconds(9).await;
    assert_eq!(driven.state(), TransportState::Connecting);
    seconds(2).await;
    assert_eq!(driven.state(), TransportState::Down(DownCause::NoAnswer));
    far.up(assigned());
    seconds(1).await;
    assert!(driven.is_up());
}

/// Closing never ends.
#[derive(Debug)]
struct Clings(MemoryTransport);

#[async_trait]
impl TunnelTransport for Clings {
    fn capabilities(&self) -> TransportCapabilities {
        self.0.capabilities()
    }
    fn state(&self) -> StateWatch {
        self.0.state()
    }
    fn try_recv(&self, b: &mut PacketBatch, d: &mut DropCounters) -> Result<usize, TransportError> {
        self.0.try_recv(b, d)
    }
    fn try_send(&self, b: &mut PacketBatch, d: &mut DropCounters) -> Result<usize, TransportError> {
        self.0.try_send(b, d)
    }
    async fn readable(&self) -> Result<(), TransportError> {
        self.0.readable().await
    }
    async fn writable(&self) -> Result<(), TransportError> {
        self.0.writable().await
    }
    async fn close(&self) {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn closing_has_an_end() {
    let (tunnel, _far) = memory_transport(16, 1420);
    let tunnel = Guarded::new(Clings(tunnel), TunnelTimeout::default());
    let begun = Instant::now();
    let (waits, ()) = tokio::join!(tunnel.readable(), tunnel.close());
    assert!(matches!(waits, Err(TransportError::Closed)));
    assert_eq!(begun.elapsed(), Duration::from_millis(500));
    assert_eq!(tunnel.state().get(), TransportState::Closed);
    // Closed is closed, whatever becomes of what is below.
    let (mut batch, mut drops) = (packets(1), DropCounters::default());
    let sent = tunnel.try_send(&mut batch, &mut drops);
    assert!(matches!(sent, Err(TransportError::Closed)));
    let received = tunnel.try_recv(&mut batch, &mut drops);
    assert!(matches!(received, Err(TransportError::Closed)));
    assert_eq!(batch.len(), 1);
}

/// Sends as fast as it may for so long; how many were sent.
async fn flood<T: TunnelTransport>(tunnel: &T, far: &FarSide, lasts: Duration) -> (usize, u64) {
    let (mut sent, mut drops, end) = (0, DropCounters::default(), Instant::now() + lasts);
    let mut batch = PacketBatch::new(8, 1500);
    while let Ok(ready) = tokio::time::timeout_at(end, tunnel.writable()).await {
        ready.unwrap();
        let more = packets(8 - batch.len() as u8).drain().collect::<Vec<_>>();
        for packet in more {
            assert!(batch.push(packet).is_ok());
        }
        sent += tunnel.try_send(&mut batch, &mut drops).unwrap();
        while far.take().is_some() {}
    }
    (sent, drops.total())
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_kept_to_and_drops_nothing() {
    let (tunnel, far) = memory_transport(16, 1420);
    far.up(assigned());
    let config = RateConfig {
        per_second: 1000,
        burst: 10,
    };
    let tunnel = Guarded::new(tunnel, TunnelRate::new(config));
    let (sent, dropped) = flood(&tunnel, &far, Duration::from_secs(10)).await;
    assert_eq!(dropped, 0);
    assert!((9_900..=10_010).contains(&sent), "{sent}");
    assert_eq!(
        tunnel.with_guard(|guard| guard.counters().tokens),
        sent as u64
    );
}

#[tokio::test(start_paused = true)]
async fn order_is_kept_where_only_some_are_admitted() {
    let (tunnel, far) = memory_transport(3, 1420);
    far.up(assigned());
    let config = RateConfig {
        per_second: 100,
        burst: 5,
    };
    let tunnel = Guarded::new(tunnel, TunnelRate::new(config));
    let (mut batch, mut drops) = (packets(20), DropCounters::default());
    let mut arrived = Vec::new();
    // Five tokens, room for three; then what is left and what was not admitted, in order.
    while arrived.len() < 20 {
        tunnel.writable().await.unwrap();
        tunnel.try_send(&mut batch, &mut drops).unwrap();
        while let Some(packet) = far.take() {
            arrived.push(*packet.bytes().last().unwrap());
        }
    }
    assert_eq!(arrived, (0..20).collect::<Vec<_>>());
    assert_eq!(drops.total(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_tunnel_sheds_and_then_carries_what_is_fresh() {
    let (tunnel, far) = memory_transport(4, 1420);
    far.up(assigned());
    let tunnel = Guarded::new(tunnel, TunnelShed::default());
    let mut drops = DropCounters::default();
    // Nobody takes anything at the far end for a second; a packet each 10 ms.
    let (mut batch, mut sent, mut longest) = (PacketBatch::new(64, 1500), 0, Duration::ZERO);
    for _ in 0..100 {
        assert!(batch.push(packets(1).drain().next().unwrap()).is_ok());
        let begun = Instant::now();
        if timeout(Duration::from_millis(10), tunnel.writable())
            .await
            .is_ok()
        {
            sent += tunnel.try_send(&mut batch, &mut drops).unwrap();
            sleep(Duration::from_millis(10).saturating_sub(begun.elapsed())).await;
        }
        longest = longest.max(Duration::from_millis(10) * batch.len() as u32);
    }
    assert_eq!(sent, 4);
    assert!(longest <= Duration::from_millis(120), "{longest:?}");
    let shed = tunnel.with_guard(|guard| guard.counters());
    assert_eq!(
        (shed.stalls, shed.packets),
        (1, drops.get(DropReason::QueueFull))
    );
    assert_eq!(
        sent as u64 + shed.packets + batch.len() as u64,
        100,
        "each is accounted for"
    );
    while far.take().is_some() {}
    let mut fresh = packets(1);
    assert_eq!(tunnel.try_send(&mut fresh, &mut drops).unwrap(), 1);
    assert!(!tunnel.with_guard(|guard| guard.is_shedding()));
}

/// A tunnel that was full once, and has room again, has all its patience when it is full next.
#[tokio::test(start_paused = true)]
async fn room_that_came_back_forgets_how_long_there_was_none() {
    let (tunnel, far) = memory_transport(2, 1420);
    far.up(assigned());
    let tunnel = Guarded::new(tunnel, TunnelShed::default());
    let mut drops = DropCounters::default();
    assert_eq!(tunnel.try_send(&mut packets(2), &mut drops).unwrap(), 2);
    // Nobody sends; somebody waits for room, and finds it.
    let room = async {
        sleep(Duration::from_millis(50)).await;
        while far.take().is_some() {}
    };
    let (waited, ()) = tokio::join!(tunnel.writable(), room);
    waited.unwrap();
    seconds(60).await;
    let (sent, _) = (tunnel.inner().try_send(&mut packets(2), &mut drops), ());
    assert_eq!(sent.unwrap(), 2, "filled by somebody else");
    let mut batch = packets(3);
    assert_eq!(tunnel.try_send(&mut batch, &mut drops).unwrap(), 0);
    assert_eq!((batch.len(), drops.total()), (3, 0), "full for no time yet");
}
