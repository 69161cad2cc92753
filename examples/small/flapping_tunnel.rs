//! Fail-over with a tunnel that flaps: up and down again, many times a second. Without a breaker one
//! flow follows all of its ups and downs; with one it moves away, stays, and goes back once the
//! tunnel lasts.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use vpn_core::owner::NoOwners;
use vpn_core::testing::{AppSide, FarSide, build, memory_device, memory_transport};
use vpn_core::{Assigned, DownCause, RuleSnapshot, TunnelTransport};
use vpn_resilience::BreakerConfig;
use vpn_resilience::decorate::{Guarded, TunnelBreaker, TunnelTimeout};
use vpn_routing::RouterConfig;
use vpn_routing::engine::Engine;
use vpn_routing::group::GroupConfig;
use vpn_routing::rules::{CompiledRules, RuleCache, Target};

/// How often the preferred tunnel goes up and down.
const FLAPS: u32 = 20;

/// It is up for this long, and down for as long again.
const PERIOD: Duration = Duration::from_millis(20);

/// A hundred times as fast as it would be with real tunnels.
const BREAKER: BreakerConfig = BreakerConfig {
    failure_threshold: 3,
    reset_after: Duration::from_millis(600),
    success_threshold: 2,
    probes: 1,
};

type Failure = Box<dyn Error>;

fn up(far: &FarSide) -> Result<(), Failure> {
    far.up(Assigned {
        addresses: vec!["10.5.0.2/32".parse()?],
        mtu: 1420,
        ..Assigned::default()
    });
    Ok(())
}

/// One flow, and through which tunnel its packets came.
struct Flow<'a> {
    apps: AppSide,
    fars: [&'a FarSide; 2],
    last: Option<usize>,
    moves: u32,
}

impl Flow<'_> {
    /// Sends a packet each 2 ms for so long; counts how often the flow moves.
    async fn goes_on(&mut self, lasts: Duration) -> Result<(), Failure> {
        let end = Instant::now() + lasts;
        while Instant::now() < end {
            self.apps
                .inject(&build::udp("10.5.0.2:4000", "203.0.113.10:7", b"ping"))?;
            sleep(Duration::from_millis(2)).await;
            for (tunnel, far) in self.fars.iter().enumerate() {
                while far.take().is_some() {
                    let moved = self.last.replace(tunnel).is_some_and(|last| last != tunnel);
                    self.moves += u32::from(moved);
                }
            }
        }
        Ok(())
    }
}

/// How often the flow moves while its preferred tunnel flaps, and through which tunnel it goes in
/// the end.
async fn run(guarded: bool) -> Result<(u32, Option<usize>), Failure> {
    let (device, apps) = memory_device(64, 1500);
    let rules = RuleCache::new();
    let (owners, config) = (Arc::new(NoOwners), RouterConfig::default());
    let mut engine = Engine::new(Arc::new(device), owners, rules.clone(), config);
    let (first, first_far) = memory_transport(64, 1420);
    let (second, second_far) = memory_transport(64, 1420);
    let first: Arc<dyn TunnelTransport> = if guarded {
        // Inside: takes too long to come up? Then it is down. Outside: goes down too often?
        let timed = Guarded::new(first, TunnelTimeout::default());
        let breaker = TunnelBreaker::new(BREAKER).stable_after(Duration::from_millis(100));
        Arc::new(Guarded::new(timed, breaker))
    } else {
        Arc::new(first)
    };
    let members = [
        engine.add_tunnel("amsterdam", first)?,
        engine.add_tunnel("brussels", Arc::new(second))?,
    ];
    let group = GroupConfig::new("anywhere", members).fail_back(Duration::from_millis(1));
    let groups = engine.set_groups(vec![group])?;
    let anywhere = Target::Group(*groups.first().ok_or("no group")?);
    let none = RuleSnapshot::default();
    rules.swap(CompiledRules::compile(&none, &|_: &str| None, anywhere)?);
    up(&second_far)?;
    let (handle, task) = (engine.handle(), tokio::spawn(engine.run()));

    let mut flow = Flow {
        apps,
        fars: [&first_far, &second_far],
        last: None,
        moves: 0,
    };
    for _ in 0..FLAPS {
        up(&first_far)?;
        flow.goes_on(PERIOD).await?;
        first_far.down(DownCause::NoAnswer);
        flow.goes_on(PERIOD).await?;
    }
    let moves = flow.moves;
    // Now it lasts, and the breaker sees that.
    up(&first_far)?;
    let patience = Instant::now() + Duration::from_secs(10);
    while flow.last != Some(0) && Instant::now() < patience {
        flow.goes_on(PERIOD).await?;
    }
    handle.stop().await;
    assert!(task.await??.accounts.balance());
    Ok((moves, flow.last))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let (bare, end) = run(false).await?;
    println!("{FLAPS} flaps without a breaker: the flow moved {bare} times");
    assert_eq!(end, Some(0));
    let (held, end) = run(true).await?;
    println!("{FLAPS} flaps with one: the flow moved {held} times, and is back where it should be");
    assert_eq!(end, Some(0));
    assert!(held < bare, "{held} moves instead of {bare}");
    Ok(())
}
