//! Owners of flows on Linux: the socket from `sock_diag`, the executable from `/proc`.
//!
//! # The socket
//!
//! * **TCP**: an exact query for the four-tuple, about a microsecond. Listening sockets, and
//!   those that outlived their process (TIME-WAIT), are nobody.
//! * **UDP**: an exact query first (the kernel wants the ends swapped), then every socket of that
//!   port, because several may share one. The flow belongs to those connected to its
//!   destination, else to those not connected; if their users differ it is nobody's.
//! * **ICMP echo**: ping sockets from `/proc/net/icmp{,6}` by identifier; only if there is none,
//!   raw sockets from `/proc/net/raw{,6}`, which can send any identifier.
//! * Other protocols: raw sockets.
//!
//! Queries carry the interface's index, since the kernel does not find a socket that is bound to
//! a device otherwise. Dual-stack sockets answer with `::ffff:` addresses, which are normalised,
//! and every answer's tuple is compared with the question's.
//!
//! # The executable
//!
//! The socket's inode is searched in `/proc/*/fd` on a thread of its own, many questions in one
//! pass. All processes that hold the socket must run the same executable. Its path counts only if
//! it names, for us, the very file the process runs: a process in another mount namespace cannot
//! pass for `/usr/bin/firefox`. An executable that was replaced by an update while it ran counts
//! by its old path if the process shares our mount namespace.
//!
//! Answers are remembered by inode, which a new socket never shares with an old one, and checked
//! against the process when used.
//!
//! # Rights and namespaces
//!
//! Users are known without rights; executables of other users need `CAP_SYS_PTRACE`. A resolver
//! asks the network namespace of the thread that made it, for ever: make it where the TUN is.

mod choose;
mod diag;
mod executable;
mod search;
mod tables;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use vpn_core::flow::Protocol;
use vpn_core::{Owner, OwnerAnswer, OwnerDetail, OwnerQuery, OwnerResolver};

use choose::{Found, SocketRecord};
use diag::Diag;
use executable::Executables;
pub use executable::{MAX_CACHED, MAX_PENDING};
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
/// executables by a search on a thread of its own.
#[derive(Debug)]
pub struct LinuxOwners {
    interface: u32,
    diag: Mutex<Diag>,
    tables: Mutex<ProcTables>,
    executables: Executables,
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
            executables: Executables::start().map_err(LinuxOwnersError::Thread)?,
        })
    }

    fn socket(&self, query: &OwnerQuery) -> Option<Found> {
        let flow = &query.flow;
        let lock = || self.diag.lock().unwrap_or_else(PoisonError::into_inner);
        match flow.protocol() {
            Protocol::TCP => {
                let answer = lock().exact(flow, self.interface)?;
                choose::tcp(&answer, flow)
            }
            Protocol::UDP => {
                let mut diag = lock();
                diag.exact(flow, self.interface)?;
                let sharers = diag.udp_port(flow)?;
                choose::datagram(&sharers, flow)
            }
            _ => {
                let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
                if flow.protocol().is_icmp() {
                    let pings: Vec<SocketRecord> = tables.ping(flow.family());
                    let own = pings.iter().any(|s| s.local.port() == flow.src_port());
                    if own {
                        return choose::datagram(&pings, flow);
                    }
                }
                choose::raw(&tables.raw(flow.family()), flow)
            }
        }
    }
}

#[async_trait]
impl OwnerResolver for LinuxOwners {
    fn resolve(&self, query: &OwnerQuery) -> OwnerAnswer {
        let Some(found) = self.socket(query) else {
            return OwnerAnswer::Unknown;
        };
        match query.detail {
            OwnerDetail::Uid => OwnerAnswer::Known(found.owner(None)),
            OwnerDetail::Process => self.executables.resolve(*query, found),
        }
    }

    async fn resolved(&self) -> (OwnerQuery, OwnerAnswer) {
        self.executables.resolved().await
    }
}

impl Found {
    /// The owner, with the executable if it is known.
    fn owner(&self, executable: Option<std::sync::Arc<std::path::Path>>) -> Owner {
        Owner {
            executable,
            // Several sockets of one user: none of them can be named.
            socket: match self.inodes[..] {
                [inode] => u64::from(inode),
                _ => 0,
            },
            ..Owner::user(self.uid)
        }
    }
}

/// An IPv4 address that is written as IPv6, as IPv4.
fn normal(addr: IpAddr) -> IpAddr {
    addr.to_canonical()
}
