//! `mesh hub`: coordination, reflection and relay for members that it admits.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use vpn_examples::control::Listener;
use vpn_examples::file::FileError;
use vpn_examples::print;
use vpn_p2p::mesh::hub::{HubServer, Listen, Origin, TlsLimits};
use vpn_p2p::mesh::identity::peer_to_base64;

use crate::config;
use crate::daemon::{Request, Signals};
use crate::error::{Error, system};
use crate::join;

/// Runs until SIGINT or SIGTERM.
pub(crate) async fn run(path: &Path) -> Result<(), Error> {
    let mut stop = Signals::new()?;
    let config = config::Hub::read(path)?;
    let identity = config.identity(path)?;
    let hub = config.hub(path, &identity)?;
    let control = Listener::bind(&config.control)
        .await
        .map_err(Error::control(&config.control))?;
    let listen = sockets(&config)?;
    let server = HubServer::start(hub, TlsLimits::default(), &identity, listen);
    let server = Arc::new(
        server.map_err(|error| FileError::config(path, "members", vpn_examples::chain(&error)))?,
    );
    let own = match &config.member {
        Some(member) => {
            let port = server.local_addrs().first().map_or(0, SocketAddr::port);
            Some(join::Running::beside_hub(&config, member, &identity, port).await?)
        }
        None => None,
    };
    let (name, tls) = (config.name.clone(), config.tls);
    let shutdown = CancellationToken::new();
    let serving = {
        let (server, shutdown) = (server.clone(), shutdown.clone());
        let answer = move |request: Request| {
            let said = answer(&request, &server, &name, tls);
            async move { said }
        };
        tokio::spawn(async move { control.serve(answer, shutdown).await })
    };
    print("ready\n");
    let ended = match own {
        // It ends by the signal, too, and undoes what it did.
        Some(own) => own.until(stop.received()).await,
        None => {
            stop.received().await;
            Ok(())
        }
    };
    shutdown.cancel();
    let _ = serving.await;
    server.close().await;
    ended
}

/// Sockets at the addresses of the configuration. A host without IPv6 has none for `[::]`.
fn sockets(config: &config::Hub) -> Result<Listen, Error> {
    let mut all = Listen::default();
    for address in &config.listen {
        match Listen::on(&[*address], config.tls) {
            Ok(listen) => {
                all.udp.extend(listen.udp);
                all.tcp.extend(listen.tcp);
            }
            Err(error) if address.is_ipv6() && address.ip().is_unspecified() && no_ipv6(&error) => {
                tracing::warn!("this host has no IPv6: {address} is left out");
            }
            Err(error) => return Err(system(format!("cannot listen on {address}"))(error)),
        }
    }
    Ok(all)
}

fn no_ipv6(error: &std::io::Error) -> bool {
    let number = error.raw_os_error();
    number == Some(nix::errno::Errno::EAFNOSUPPORT as i32)
        || number == Some(nix::errno::Errno::EADDRNOTAVAIL as i32)
}

fn answer(request: &Request, server: &HubServer, name: &str, tls: bool) -> Value {
    match request {
        Request::Status => status(server, name, tls),
        Request::Connect(_) => json!({ "error": "this is a hub" }),
    }
}

/// How the hub stands.
fn status(server: &HubServer, name: &str, tls: bool) -> Value {
    let status = server.status();
    let hub = status.hub;
    let members: Vec<Value> = server.members().iter().map(member).collect();
    let neighbours: Vec<Value> = server.neighbours().iter().map(neighbour).collect();
    json!({
        "name": name,
        "key": peer_to_base64(server.id()),
        "listen": server.local_addrs(),
        "tls": tls,
        "online": hub.online,
        "members": members,
        "neighbours": neighbours,
        "relayed_packets": hub.relayed_packets,
        "relayed_bytes": hub.relayed_bytes,
        "carried_packets": hub.carried_packets,
        "carried_bytes": hub.carried_bytes,
        "tls_streams": status.streams,
        "refused": {
            "not_admitted": hub.refused_not_admitted,
            "address": hub.refused_address,
            "route": hub.refused_route,
            "full": hub.refused_full,
            "old": hub.refused_old,
            "record": hub.refused_record,
            "taken": hub.refused_taken,
            "beyond": hub.refused_beyond,
            "tls": status.refused_streams,
        },
        "dropped": {
            "absent": hub.absent,
            "isolated": hub.isolated,
            "no_hops": hub.no_hops,
            "looped": hub.looped,
            "strangers": hub.strangers,
            "limited": hub.limited,
            "not_authentic": hub.not_authentic,
            "malformed": hub.malformed,
            "bad_cookies": hub.bad_cookies,
            "unsent": status.unsent,
            "crowded": status.crowded,
        },
    })
}

/// How another hub stands.
fn neighbour(neighbour: &vpn_p2p::mesh::hub::NeighbourStatus) -> Value {
    let (carrier, endpoint) = place(neighbour.origin);
    json!({
        "key": peer_to_base64(neighbour.key),
        "online": neighbour.origin.is_some(),
        "carrier": carrier,
        "endpoint": endpoint,
        "joined": neighbour.joined,
        "rtt_ms": neighbour.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        "why": neighbour.why,
        "members": neighbour.members,
        "carried_bytes": neighbour.carried,
    })
}

/// By what something is reached, and where.
const fn place(origin: Option<Origin>) -> (Option<&'static str>, Option<SocketAddr>) {
    match origin {
        Some(Origin::Udp(address)) => (Some("udp"), Some(address)),
        Some(Origin::Tls(_)) => (Some("tls"), None),
        None => (None, None),
    }
}

fn member(member: &vpn_p2p::mesh::hub::MemberStatus) -> Value {
    let record = member.record.record();
    let (carrier, endpoint) = place(member.origin);
    json!({
        "name": record.name,
        "key": peer_to_base64(record.peer),
        "addresses": record.addresses,
        "online": member.origin.is_some(),
        "carrier": carrier,
        "endpoint": endpoint,
        "silent_s": member.silent.as_secs(),
        "relayed_bytes": member.relayed,
    })
}
