//! `mesh hub`: coordination, reflection and relay for members that it admits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use vpn_examples::control::Listener;
use vpn_examples::file::FileError;
use vpn_examples::print;
use vpn_examples::signals::Told;
use vpn_p2p::mesh::Identity;
use vpn_p2p::mesh::hub::{HubServer, Listen, Origin, TlsLimits};
use vpn_p2p::mesh::identity::peer_to_base64;

use crate::config;
use crate::daemon::{Request, Signals};
use crate::error::{Error, system};
use crate::{join, metrics};

/// What a hub takes over from its file while it runs.
struct Reload {
    path: PathBuf,
    server: Arc<HubServer>,
    identity: Identity,
    current: Mutex<Current>,
}

/// The configuration in force, and why the last one is not.
struct Current {
    config: config::Hub,
    refused: Option<String>,
}

impl Reload {
    fn current(&self) -> MutexGuard<'_, Current> {
        // It is two values, and each is whole.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the file again. What is wrong with it changes nothing, and is said.
    fn reload(&self) {
        let mut current = self.current();
        match self.try_reload(&current.config) {
            Ok((config, gone)) => {
                tracing::info!(
                    "{}: in force; members that had to go: {gone}",
                    self.path.display()
                );
                *current = Current {
                    config,
                    refused: None,
                };
            }
            Err(error) => {
                let why = vpn_examples::chain(&error);
                tracing::warn!("not in force: {why}");
                current.refused = Some(why);
            }
        }
    }

    fn try_reload(&self, current: &config::Hub) -> Result<(config::Hub, usize), FileError> {
        let path = &self.path;
        let config = config::Hub::read(path)?;
        if let Some(key) = current.needs_restart(&config) {
            return Err(FileError::config(
                path,
                &key,
                "changed: this needs a restart",
            ));
        }
        let hub = config.hub(path, &self.identity)?;
        let gone = self.server.readmit(&hub);
        let gone = gone.map_err(|error| refused(path, &error))?;
        Ok((config, gone))
    }
}

/// What the list of members has, or lacks.
fn refused(path: &Path, error: &(dyn std::error::Error + 'static)) -> FileError {
    FileError::config(path, "members", vpn_examples::chain(error))
}

/// Runs until SIGINT or SIGTERM. With SIGHUP it reads its configuration again.
pub(crate) async fn run(path: &Path) -> Result<(), Error> {
    let mut stop = Signals::new().map_err(Error::Runtime)?;
    let config = config::Hub::read(path)?;
    let identity = config.identity(path)?;
    let hub = config.hub(path, &identity)?;
    let control = Listener::bind(&config.control)
        .await
        .map_err(Error::control(&config.control))?;
    let listen = sockets(&config)?;
    let server = HubServer::start(hub, TlsLimits::default(), &identity, listen);
    let server = Arc::new(server.map_err(|error| refused(path, &error))?);
    let own = match &config.member {
        Some(member) => {
            let at = from_here(server.local_addrs());
            let at = at.ok_or_else(|| std::io::Error::other("it listens nowhere"));
            let at = at.map_err(system("the hub's own member"))?;
            Some(join::Running::beside_hub(&config, member, &identity, at).await?)
        }
        None => None,
    };
    let (name, metrics) = (config.name.clone(), config.metrics);
    let reload = Arc::new(Reload {
        path: path.to_owned(),
        server: server.clone(),
        identity,
        current: Mutex::new(Current {
            config,
            refused: None,
        }),
    });
    let shutdown = CancellationToken::new();
    let serving = {
        let (shared, shutdown) = (reload.clone(), shutdown.clone());
        let measured = (server.clone(), name);
        let tell = move || {
            let (server, name) = measured.clone();
            async move { Ok(metrics::hub(&server, &name)) }
        };
        metrics::serve(metrics, Arc::new(tell), shutdown.clone()).await?;
        let answer = move |request: Request| {
            let said = answer(&request, &shared);
            async move { said }
        };
        tokio::spawn(async move { control.serve(answer, shutdown).await })
    };
    print("ready\n");
    let stopped = async {
        while stop.told().await == Told::Reload {
            reload.reload();
        }
    };
    let ended = match own {
        // It ends by the signal, too, and undoes what it did.
        Some(own) => own.until(stopped).await,
        None => {
            stopped.await;
            Ok(())
        }
    };
    shutdown.cancel();
    let _ = serving.await;
    server.close().await;
    ended
}

/// Where this host itself reaches the hub: where it listens, or by the loopback of that family.
fn from_here(listens: &[SocketAddr]) -> Option<SocketAddr> {
    let v4 = listens.iter().find(|at| at.is_ipv4());
    let at = v4.or(listens.first())?;
    let ip = match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Some(SocketAddr::new(ip, at.port()))
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

fn answer(request: &Request, hub: &Reload) -> Value {
    match request {
        Request::Status => status(&hub.server, &hub.current()),
        Request::Connect(_) => json!({ "error": "this is a hub" }),
    }
}

/// How the hub stands.
fn status(server: &HubServer, current: &Current) -> Value {
    let config = &current.config;
    let status = server.status();
    let hub = status.hub;
    let members: Vec<Value> = server.members().iter().map(member).collect();
    let neighbours: Vec<Value> = server.neighbours().iter().map(neighbour).collect();
    json!({
        "name": config.name,
        "key": peer_to_base64(server.id()),
        "listen": server.local_addrs(),
        "tls": config.tls,
        "isolation": config.isolation,
        "reload_refused": current.refused,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_is_reached_from_its_own_host_by_what_it_listens_on() {
        let from = |listens: &[&str]| {
            let listens: Vec<SocketAddr> = listens.iter().map(|at| at.parse().unwrap()).collect();
            from_here(&listens).map(|at| at.to_string())
        };
        let is = |listens: &[&str], at: &str| assert_eq!(from(listens).as_deref(), Some(at));
        is(&["[::]:7", "0.0.0.0:8"], "127.0.0.1:8");
        is(&["[::]:7"], "[::1]:7");
        is(&["192.0.2.1:9", "[::]:7"], "192.0.2.1:9");
        is(&["[2001:db8::1]:9"], "[2001:db8::1]:9");
        assert_eq!(from(&[]), None);
    }
}
