//! How long it takes to find out whose a flow is.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use vpn_core::{FlowKey, OwnerAnswer, OwnerDetail, OwnerQuery, OwnerResolver, Protocol};
use vpn_lab::Namespace;
use vpn_routing::owner::LinuxOwners;

use crate::Error;
use crate::goals::{Bound, Goal};

/// Connections whose owner is asked for.
const CONNECTIONS: usize = 1000;

/// Times each of them is asked for its user.
const TIMES: usize = 10;

/// The loopback's index in every namespace.
const LOOPBACK: u32 = 1;

/// Asks the kernel about connections of this process, each of which it has to search for.
pub(crate) fn look_up(smoke: bool) -> Result<Vec<Goal>, Error> {
    let (connections, times) = if smoke { (50, 2) } else { (CONNECTIONS, TIMES) };
    let machine = Namespace::new("owners")?;
    machine.run(move || -> Result<Vec<Goal>, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let owners = LinuxOwners::new(LOOPBACK)?;
        let pairs = (0..connections)
            .map(|_| pair())
            .collect::<Result<Vec<_>, _>>()?;
        let mut users = Vec::new();
        for _ in 0..times {
            for (_, _, flow) in &pairs {
                let query = OwnerQuery {
                    flow: *flow,
                    detail: OwnerDetail::Uid,
                };
                let asked = Instant::now();
                let answer = owners.resolve(&query);
                users.push(asked.elapsed());
                if !matches!(answer, OwnerAnswer::Known(_)) {
                    return Err(format!("{flow:?} is nobody's: {answer:?}").into());
                }
            }
        }
        drop(pairs);
        // One at a time: what a search takes grows with the descriptors of each process it looks
        // into, and an application has tens of them, not thousands.
        let mut processes = Vec::new();
        for _ in 0..connections {
            let (_stream, _other, flow) = pair()?;
            let query = OwnerQuery {
                flow,
                detail: OwnerDetail::Process,
            };
            let asked = Instant::now();
            let mut answer = owners.resolve(&query);
            if answer == OwnerAnswer::Pending {
                (_, answer) = runtime.block_on(owners.resolved());
            }
            processes.push(asked.elapsed());
            match answer {
                OwnerAnswer::Known(owner) if owner.executable.is_some() => {}
                other => return Err(format!("{flow:?} is nobody's: {other:?}").into()),
            }
        }
        let count = std::fs::read_dir("/proc")?
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
            .count();
        Ok(vec![
            goal(
                format!("p99 of an exact query, {connections} connections"),
                users,
                20.0,
            ),
            goal(
                format!("p99 of a process's name, {count} processes"),
                processes,
                1000.0,
            ),
        ])
    })?
}

fn goal(what: String, mut times: Vec<Duration>, most: f64) -> Goal {
    times.sort_unstable();
    let p99 = times.get(times.len() * 99 / 100).copied();
    Goal {
        group: "G11",
        what,
        value: p99.unwrap_or_default().as_secs_f64() * 1e6,
        unit: "us",
        bound: Bound::AtMost(most),
    }
}

/// A connection: both ends, and its flow.
fn pair() -> Result<(TcpStream, TcpStream, FlowKey), Error> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let (other, _) = listener.accept()?;
    let (own, peer) = (stream.local_addr()?, stream.peer_addr()?);
    let flow = FlowKey::new(
        Protocol::TCP,
        (own.ip(), own.port()),
        (peer.ip(), peer.port()),
    );
    Ok((stream, other, flow))
}
