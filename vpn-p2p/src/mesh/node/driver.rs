//! Touches the clock: the task that keeps a node going.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::local::local_candidates;
use super::shared::{Shared, unix};
use crate::mesh::way::HubId;
use crate::wireguard::socket::Run;

/// How often this machine's addresses are looked at, beside whenever the network changes.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How often names of hubs are resolved anew while none of them answers, and at least.
const RESOLVE_AGAIN: Duration = Duration::from_secs(15);
const RESOLVE_ANYWAY: Duration = Duration::from_secs(600);

/// The longest sleep: a wake-up that was missed costs so much.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Runs until the node is closed.
pub(super) async fn drive(shared: Arc<Shared>) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let names = resolve(&shared);
    let blocked = unblock(&shared);
    tokio::pin!(names, blocked);
    loop {
        let at = next_wake_up(&shared);
        tokio::select! {
            () = shared.closing.cancelled() => break,
            () = &mut names => {}
            () = &mut blocked => {}
            _ = look.tick() => {
                look_around(&shared);
                shared.core().widths_due = true;
            }
            () = shared.work.notified() => {
                if shared.has_moved() {
                    look.reset_immediately();
                }
            }
            () = tokio::time::sleep_until(at.into()) => {}
        }
        do_what_is_due(&shared);
    }
    say_good_bye(&shared);
    // Also where nobody calls `close`: their tasks hold what is shared.
    shared.streams.close_all().await;
    shared.drop_sockets();
}

fn say_good_bye(shared: &Arc<Shared>) {
    let now = Instant::now();
    let mut core = shared.core();
    core.member.bye(now);
    shared.finish(core, now);
}

fn next_wake_up(shared: &Shared) -> Instant {
    let latest = Instant::now() + LONGEST_SLEEP;
    let mut core = shared.core();
    let look = Shared::next_look(&core, Instant::now());
    let at = [core.member.next_timeout(), look]
        .into_iter()
        .flatten()
        .fold(latest, Instant::min);
    core.armed = Some(at);
    at
}

fn do_what_is_due(shared: &Arc<Shared>) {
    let now = Instant::now();
    let mut core = shared.core();
    if core.member.next_timeout().is_some_and(|at| at <= now) {
        core.member.handle_timeout(now, unix());
    }
    if Shared::next_look(&core, now).is_some_and(|at| at <= now) {
        shared.measure(&mut core, now);
    }
    shared.announce(&mut core, now);
    shared.finish(core, now);
}

/// Tells the member which addresses this machine has.
fn look_around(shared: &Arc<Shared>) {
    let Some(sockets) = shared.sockets() else {
        return;
    };
    let remotes: Vec<SocketAddr> = shared.core().member.endpoints();
    let found = local_candidates(&*shared.underlay, &remotes, sockets.ports());
    let source = found.first().map(SocketAddr::ip);
    let mut local = shared.candidates.clone();
    local.extend(found);
    let now = Instant::now();
    let mut core = shared.core();
    if let Some(source) = source {
        core.member.leaves_by(source, now);
    }
    core.member.set_local(local, now, unix());
    shared.finish(core, now);
}

/// Finds the addresses of hubs, again and again. Never returns.
async fn resolve(shared: &Arc<Shared>) {
    loop {
        for (endpoint, hub) in shared.endpoints.iter().zip(0..) {
            let found = shared.underlay.resolve(&endpoint.host, endpoint.port).await;
            let now = Instant::now();
            match found {
                Ok(found) => {
                    let mut core = shared.core();
                    core.member.set_endpoints(HubId(hub), found, now);
                    shared.finish(core, now);
                }
                Err(error) => tracing::debug!(%error, "a hub's name was not resolved"),
            }
        }
        look_around(shared);
        let began = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(RESOLVE_AGAIN) => {}
                () = shared.renamed.notified() => break,
            }
            let has_hub = shared.core().member.has_hub();
            if !has_hub || began.elapsed() >= RESOLVE_ANYWAY {
                break;
            }
        }
    }
}

/// Sends what full sockets left over, as soon as they take it. Never returns.
async fn unblock(shared: &Arc<Shared>) {
    loop {
        let changed = shared.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let blocked = shared.core().blocked.front().and_then(Run::to);
        let (Some(to), Some(sockets)) = (blocked, shared.sockets()) else {
            shared.stalled.notified().await;
            continue;
        };
        if let Some(socket) = sockets.to(to) {
            tokio::select! {
                // An error of the wait comes again from the socket, and ends it there.
                _ = socket.writable() => {}
                () = changed => continue,
            }
        }
        if shared.unblock(&mut shared.core(), &sockets) {
            shared.changed.notify_waiters();
        }
    }
}
