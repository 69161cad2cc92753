//! The suite of [`TunnelTransport`].

use std::sync::Arc;

use async_trait::async_trait;

use super::clause::{Checked, Clause, Suite, Violation};
use super::drive::{poll_once, within};
use super::far_end::FarEnd;
use super::line::{Fault, Line, Pipe};
use crate::packet::PacketBatch;
use crate::transport::{Assigned, TransportError, TransportState, TunnelTransport};
use crate::verdict::DropCounters;

const SUITE: Suite = Suite("TunnelTransport");

/// How often a transport is driven while its other end is silent.
const SILENT_ROUNDS: usize = 50;

/// A transport, and the peer at its other end, which is silent until it is told to answer.
#[async_trait]
pub trait TransportFixture: FarEnd {
    /// The transport.
    fn transport(&self) -> &dyn TunnelTransport;

    /// Lets the other end answer from now on: after that, and once the transport was driven, it is
    /// up.
    async fn answer(&self);
}

/// Checks a transport. `make` makes a fresh one, with a silent peer, for each clause.
///
/// # Errors
///
/// The first clause that is broken.
pub async fn tunnel_transport<F: TransportFixture>(
    make: impl AsyncFn() -> F,
) -> Result<(), Violation> {
    // One at a time: each is gone before the next is made.
    before_proof(&make().await).await?;
    line(&up(make().await).await?).receives_in_order().await?;
    line(&up(make().await).await?)
        .wakes_who_waits_for_packets()
        .await?;
    line(&up(make().await).await?)
        .readable_is_cancel_safe()
        .await?;
    line(&up(make().await).await?).sends_and_counts().await?;
    line(&up(make().await).await?).leaves_the_rest().await?;
    let fixture = up(make().await).await?;
    line(&fixture).closes().await?;
    closed_state(&fixture).await
}

async fn before_proof<F: TransportFixture>(fixture: &F) -> Checked {
    capabilities(fixture.transport())?;
    state_first(fixture).await?;
    nothing_before_proof(fixture).await
}

fn capabilities(transport: &dyn TunnelTransport) -> Checked {
    let first = transport.capabilities();
    let kept = first.mtu > 0 && transport.capabilities() == first;
    SUITE.check(kept, Clause::Capabilities, || {
        format!("it says {first:?}, then {:?}", transport.capabilities())
    })
}

async fn state_first<F: TransportFixture>(fixture: &F) -> Checked {
    let mut watch = fixture.transport().state();
    let told = poll_once(&mut Box::pin(watch.next())).await;
    SUITE.check(told.is_some(), Clause::StateFirst, || {
        "a new watcher has to wait".to_owned()
    })
}

/// Nobody answers: it is not up, and carries nothing.
async fn nothing_before_proof<F: TransportFixture>(fixture: &F) -> Checked {
    let transport = fixture.transport();
    let silent = |state: &TransportState| {
        SUITE.check(
            !matches!(state, TransportState::Up(_)),
            Clause::UpAfterProof,
            || format!("nobody has answered, and the state is {state}"),
        )
    };
    silent(&transport.state().get())?;
    let (mut batch, mut drops) = (PacketBatch::new(1, 1500), DropCounters::default());
    // There is room for it.
    let _ = batch.push(fixture.packet(1));
    // Whether it is kept by the caller or dropped and counted is the transport's to choose.
    let sent = transport.try_send(&mut batch, &mut drops);
    let seen = || format!("a packet was sent: try_send returned {sent:?}");
    SUITE.check(matches!(sent, Ok(0)), Clause::NothingBeforeProof, seen)?;
    for _ in 0..SILENT_ROUNDS {
        // What is ready now is worked on, and no more.
        let _ = poll_once(&mut transport.readable()).await;
        let mut batch = PacketBatch::new(4, 1500);
        let received = transport.try_recv(&mut batch, &mut drops);
        let seen = || format!("a packet was received: try_recv returned {received:?}");
        SUITE.check(matches!(received, Ok(0)), Clause::NothingBeforeProof, seen)?;
        silent(&transport.state().get())?;
        super::yields(1).await;
    }
    Ok(())
}

/// A fixture whose transport is up, or the violation that it does not come up.
async fn up<F: TransportFixture>(fixture: F) -> Checked<F> {
    fixture.answer().await;
    let transport = fixture.transport();
    let drive = async {
        let (mut drops, mut watch) = (DropCounters::default(), transport.state());
        loop {
            if let TransportState::Up(assigned) = watch.get() {
                return Ok(assigned);
            }
            let mut batch = PacketBatch::new(4, 1500);
            if transport.try_recv(&mut batch, &mut drops).is_err() {
                return Err(watch.get());
            }
            // An answer is something to read, or seen in the state.
            let changed = async { drop(watch.next().await) };
            let _ = within(changed, transport.readable()).await;
        }
    };
    let clause = Clause::UpWhenProven;
    let assigned: Arc<Assigned> = match within(fixture.patience(), drive).await {
        Some(Ok(assigned)) => assigned,
        Some(Err(state)) => return SUITE.broken(clause, format!("it ended: {state}")),
        None => {
            let state = fixture.transport().state().get();
            return SUITE.broken(clause, format!("the other end answers, and it is {state}"));
        }
    };
    let seen = || format!("it is up with {assigned:?}");
    SUITE.check(assigned.mtu > 0, clause, seen)?;
    Ok(fixture)
}

async fn closed_state<F: TransportFixture>(fixture: &F) -> Checked {
    let mut watch = fixture.transport().state();
    let told = within(fixture.patience(), watch.next()).await;
    let now = fixture.transport().state().get();
    let kept = told == Some(TransportState::Closed) && now == TransportState::Closed;
    SUITE.check(kept, Clause::ClosedState, || {
        format!("a watcher was told {told:?}, and the state is {now}")
    })
}

fn line<F: TransportFixture>(fixture: &F) -> Line<'_> {
    let transport = fixture.transport();
    Line {
        suite: SUITE,
        pipe: Box::new(transport),
        far: fixture,
        largest: usize::from(transport.capabilities().mtu),
    }
}

#[async_trait]
impl Pipe for &(dyn TunnelTransport + '_) {
    fn try_recv(&self, batch: &mut PacketBatch, drops: &mut DropCounters) -> Result<usize, Fault> {
        (**self).try_recv(batch, drops).map_err(fault)
    }
    fn try_send(&self, batch: &mut PacketBatch, drops: &mut DropCounters) -> Result<usize, Fault> {
        (**self).try_send(batch, drops).map_err(fault)
    }
    async fn readable(&self) -> Result<(), Fault> {
        (**self).readable().await.map_err(fault)
    }
    async fn writable(&self) -> Result<(), Fault> {
        (**self).writable().await.map_err(fault)
    }
    async fn close(&self) {
        (**self).close().await;
    }
}

fn fault(error: TransportError) -> Fault {
    match error {
        TransportError::Closed => Fault::Closed,
        other => Fault::Other(other.to_string()),
    }
}
