//! Fail-over: two tunnels in a group. The preferred one goes down in mid-flow; the next packet goes
//! through the other, and back when the first has been up for a while.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use vpn_core::owner::NoOwners;
use vpn_core::testing::{AppSide, FarSide, build, memory_device, memory_transport};
use vpn_core::{Assigned, DownCause, RuleSnapshot};
use vpn_routing::RouterConfig;
use vpn_routing::engine::Engine;
use vpn_routing::group::GroupConfig;
use vpn_routing::rules::{CompiledRules, RuleCache, Target};

/// How long a tunnel has to be up before flows go back to it. Ten seconds suit real ones.
const FAIL_BACK: Duration = Duration::from_millis(50);

/// Between two packets.
const PAUSE: Duration = Duration::from_millis(5);

type Failure = Box<dyn Error>;

/// The provider's side says that the tunnel is up. Both hand out the same address.
fn up(far: &FarSide) -> Result<(), Failure> {
    far.up(Assigned {
        addresses: vec!["10.5.0.2/32".parse()?],
        mtu: 1420,
        ..Assigned::default()
    });
    Ok(())
}

/// One flow goes on until a packet of it comes through `expected`. How many it took; what goes
/// through `other` until then is taken there.
async fn flows_through(
    apps: &AppSide,
    expected: &FarSide,
    other: &FarSide,
) -> Result<u32, Failure> {
    let flow = async {
        for count in 1.. {
            apps.inject(&build::udp("10.5.0.2:4000", "203.0.113.10:7", b"ping"))?;
            tokio::select! {
                biased;
                packet = expected.take_wait() => {
                    packet.ok_or("the tunnel ended")?;
                    return Ok(count);
                }
                packet = other.take_wait() => drop(packet.ok_or("the tunnel ended")?),
                // Neither: it was dropped while nobody knew better.
                () = tokio::time::sleep(PAUSE) => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err("it never came through".into())
    };
    tokio::time::timeout(Duration::from_secs(10), flow).await?
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let (device, apps) = memory_device(64, 1500);
    let rules = RuleCache::new();
    let (owners, config) = (Arc::new(NoOwners), RouterConfig::default());
    let mut engine = Engine::new(Arc::new(device), owners, rules.clone(), config);
    let (first, first_far) = memory_transport(64, 1420);
    let (second, second_far) = memory_transport(64, 1420);
    let members = [
        engine.add_tunnel("amsterdam", Arc::new(first))?,
        engine.add_tunnel("brussels", Arc::new(second))?,
    ];
    let group = GroupConfig::new("anywhere", members).fail_back(FAIL_BACK);
    let groups = engine.set_groups(vec![group])?;
    let anywhere = Target::Group(*groups.first().ok_or("no group")?);
    // No rule, and a default that names the group.
    let none = RuleSnapshot::default();
    rules.swap(CompiledRules::compile(&none, &|_: &str| None, anywhere)?);
    up(&first_far)?;
    up(&second_far)?;
    let (handle, task) = (engine.handle(), tokio::spawn(engine.run()));

    let count = flows_through(&apps, &first_far, &second_far).await?;
    println!("through amsterdam after {count} packets");
    first_far.down(DownCause::NoAnswer);
    let count = flows_through(&apps, &second_far, &first_far).await?;
    println!("amsterdam is down: through brussels after {count} packets");
    up(&first_far)?;
    let count = flows_through(&apps, &first_far, &second_far).await?;
    println!("amsterdam was up for {FAIL_BACK:?}: back there after {count} packets");
    assert!(count > 1, "not at the first sign of life");

    handle.stop().await;
    let accounts = task.await??.accounts;
    assert!(accounts.balance(), "{accounts:?}");
    Ok(())
}
