//! Owners of flows on Linux: the socket from `sock_diag`, the executable from `/proc`.
//!
//! # The socket
//!
//! * **TCP**: an exact query for the four-tuple, about a microsecond. Listening sockets, and
//!   those that outlived their process (TIME-WAIT), are nobody.
//! * **UDP**: an exact query first (the kernel wants the ends swapped), then every socket of that
//!   port, because several may share one, and anybody who has the port at another address, or
//!   connected to somewhere else, can still send this packet. If their users differ the flow is
//!   nobody's; else it belongs to those connected to its destination and those not connected.
//! * **ICMP echo**: ping sockets from `/proc/net/icmp{,6}` by identifier, as UDP; only if there is
//!   none, raw sockets from `/proc/net/raw{,6}`, which can send any identifier.
//! * Other protocols: raw sockets.
//!
//! A socket that is bound to another interface than ours did not send it. Of ping and raw sockets
//! the kernel does not say what they are bound to, so they all count. (In a VRF a socket is bound
//! to the VRF instead of the interface: not supported, such flows are nobody's.)
//!
//! One connection is not told from another: Linux lets a socket connect with the four-tuple of one
//! that is bound to an interface, if both share the port, and the exact query then names the newer
//! one. To see both would take a walk over all connections.
//!
//! The user is that of the socket: a program that hands an open socket to another one speaks for
//! its own user (systemd does that with sockets it listens on).
//!
//! What took more than the exact query and led to nobody is remembered for [`UNKNOWN_FOR`], so
//! that a flow nobody can own costs a walk over tables a few times a second and not per packet.
//!
//! Queries carry the interface's index, since the kernel does not find a socket that is bound to
//! a device otherwise. Dual-stack sockets answer with `::ffff:` addresses, which are normalised,
//! and every answer's tuple is compared with the question's.
//!
//! # The process
//!
//! The socket's inode is searched in `/proc/*/fd` on a thread of its own, many questions in one
//! pass. All processes that hold the socket, as after a fork, must run the same executable in the
//! same cgroup. The executable's path counts only if it names, for us, the very file the process
//! runs: a process in another mount namespace (a container, say) cannot pass for
//! `/usr/bin/firefox`; it has a cgroup, and no executable that a rule could name. One that was replaced by an update while
//! it ran counts by its old path if the process shares our mount namespace. The cgroup is that of
//! the unified hierarchy, else of systemd's.
//!
//! Answers are remembered by inode, which a new socket never shares with an old one, and checked
//! against the process when used.
//!
//! # Rights and namespaces
//!
//! Users are known without rights; executables of other users need `CAP_SYS_PTRACE`. A resolver
//! asks the network namespace of the thread that made it, for ever: make it where the TUN is.

mod cgroup;
mod choose;
mod diag;
mod negative;
mod process;
mod search;
mod tables;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use vpn_core::flow::{FlowKey, Protocol};
use vpn_core::owner::{Conclusion, Doubt, Holder, Lookup};
use vpn_core::{Evidence, Owner, OwnerAnswer, OwnerDetail, OwnerQuery, OwnerResolver};

use choose::{Found, Kind, SocketRecord};
use diag::Diag;
use negative::Negative;
pub use negative::{MAX_UNKNOWN, UNKNOWN_FOR};
use process::Processes;
pub use process::{MAX_CACHED, MAX_PENDING};
use search::Process;
use tables::ProcTables;

/// Why owners cannot be looked up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinuxOwnersError {
    /// The kernel has no `sock_diag`. Load the modules `inet_diag`, `tcp_diag` and `udp_diag`, or
    /// use a kernel that has them.
    #[error("sock_diag is not available; load inet_diag, tcp_diag and udp_diag")]
    SockDiag(#[source] std::io::Error),
    /// The thread that searches processes cannot be started.
    #[error("the thread that searches processes cannot be started")]
    Thread(#[source] std::io::Error),
}

/// Asks the kernel. See the module's source for how; in short: sockets by exact query, and
/// processes by a search on a thread of its own.
#[derive(Debug)]
pub struct LinuxOwners {
    interface: u32,
    diag: Mutex<Diag>,
    tables: Mutex<ProcTables>,
    unknown: Mutex<Negative>,
    processes: Processes,
}

impl LinuxOwners {
    /// A resolver for packets of the device with this interface index, in the network namespace
    /// of the calling thread.
    ///
    /// # Errors
    ///
    /// The kernel or the system refuses; nothing is left behind then.
    pub fn new(interface: u32) -> Result<Self, LinuxOwnersError> {
        Ok(Self {
            interface,
            diag: Mutex::new(Diag::open().map_err(LinuxOwnersError::SockDiag)?),
            tables: Mutex::new(ProcTables::open()),
            unknown: Mutex::default(),
            processes: Processes::start().map_err(LinuxOwnersError::Thread)?,
        })
    }

    /// Who may have sent a flow; `seen` hears of each look-up and what it found.
    fn look_up(
        &self,
        flow: &FlowKey,
        seen: &mut dyn FnMut(Lookup, Kind, &[SocketRecord]),
    ) -> Result<Found, Doubt> {
        let interface = self.interface;
        let failed = |_| Doubt::LookupFailed;
        match flow.protocol() {
            Protocol::TCP | Protocol::UDP => {
                let mut diag = lock(&self.diag);
                let kind = match flow.protocol() {
                    Protocol::TCP => Kind::Tcp,
                    _ => Kind::Datagram,
                };
                let exact = diag.exact(flow, interface).map_err(failed)?;
                seen(Lookup::ExactSocket { interface }, kind, exact.as_slice());
                let exact = exact.ok_or(Doubt::NoSocket)?;
                if kind == Kind::Tcp {
                    return choose::tcp(&exact, flow, interface);
                }
                let sharers = diag.udp_port(flow).map_err(failed)?;
                seen(Lookup::PortSharers, kind, &sharers);
                if sharers.len() > diag::MAX_SHARERS {
                    return Err(Doubt::TooMany);
                }
                choose::datagram(&sharers, flow, interface)
            }
            _ => {
                let tables = lock(&self.tables);
                if flow.protocol().is_icmp() {
                    let mut pings = tables.ping(flow.family()).map_err(failed)?;
                    pings.retain(|s| s.local.port() == flow.src_port());
                    seen(Lookup::EchoSockets, Kind::Datagram, &pings);
                    if !pings.is_empty() {
                        return choose::datagram(&pings, flow, interface);
                    }
                }
                let raw = tables.raw(flow.family()).map_err(failed)?;
                seen(Lookup::RawSockets, Kind::Raw, &raw);
                choose::raw(&raw, flow, interface)
            }
        }
    }

    /// As [`look_up`](Self::look_up), but what was expensive and in vain is not repeated at once.
    fn socket(&self, flow: &FlowKey) -> Option<Found> {
        if lock(&self.unknown).contains(Instant::now(), flow) {
            return None;
        }
        let mut cheap = false;
        let found = self.look_up(flow, &mut |lookup, _, _| {
            cheap = matches!(lookup, Lookup::ExactSocket { .. });
        });
        if found.is_err() && !cheap {
            lock(&self.unknown).insert(Instant::now(), *flow);
        }
        found.ok()
    }
}

#[async_trait]
impl OwnerResolver for LinuxOwners {
    fn resolve(&self, query: &OwnerQuery) -> OwnerAnswer {
        let Some(found) = self.socket(&query.flow) else {
            return OwnerAnswer::Unknown;
        };
        match query.detail {
            OwnerDetail::Uid => OwnerAnswer::Known(found.owner(Process::default())),
            OwnerDetail::Process => self.processes.resolve(*query, found),
        }
    }

    async fn resolved(&self) -> (OwnerQuery, OwnerAnswer) {
        self.processes.resolved().await
    }

    /// Looks again, past what is remembered; with [`OwnerDetail::Process`] it searches all
    /// processes on the calling thread.
    fn evidence(&self, query: &OwnerQuery) -> Evidence {
        let flow = &query.flow;
        let (mut lookups, mut sockets) = (Vec::new(), Vec::new());
        let found = self.look_up(flow, &mut |lookup, kind, found| {
            lookups.push(lookup);
            let found = found.iter();
            sockets = found
                .map(|s| s.evidence(kind, flow, self.interface))
                .collect();
        });
        let mut evidence = Evidence::new(*query).with_sockets(sockets);
        evidence.lookups = lookups;
        let found = match (found, query.detail) {
            (Ok(found), OwnerDetail::Process) => found,
            (Ok(found), OwnerDetail::Uid) => {
                return evidence.concluding(Conclusion::Known(found.owner(Process::default())));
            }
            (Err(doubt), _) => return evidence.concluding(Conclusion::Unknown(doubt)),
        };
        let mut holders = Vec::new();
        let never_stop = AtomicBool::new(false);
        let held = search::holders(&found.inodes, &never_stop, &mut |inode, pid, process| {
            let process = process.cloned().unwrap_or_default();
            holders.push(Holder {
                pid,
                socket: inode.into(),
                executable: process.executable,
                cgroup: process.cgroup,
            });
        });
        let all: Vec<_> = found
            .inodes
            .iter()
            .map(|inode| held.get(inode).cloned())
            .map(|holder| holder.unwrap_or(Err(Doubt::ProcessHidden)))
            .collect();
        let conclusion = match process::agreed(&all) {
            Ok(holder) => Conclusion::Known(found.owner(holder.process.clone())),
            Err(doubt) => Conclusion::Unknown(doubt),
        };
        evidence
            .looked_at(Lookup::Processes)
            .with_holders(holders)
            .concluding(conclusion)
    }
}

impl Found {
    /// The owner, with what is known of its process.
    fn owner(&self, process: Process) -> Owner {
        Owner {
            executable: process.executable,
            cgroup: process.cgroup,
            // Several sockets of one user: none of them can be named.
            socket: match self.inodes[..] {
                [inode] => u64::from(inode),
                _ => 0,
            },
            ..Owner::user(self.uid)
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An IPv4 address that is written as IPv6, as IPv4.
fn normal(addr: IpAddr) -> IpAddr {
    addr.to_canonical()
}
