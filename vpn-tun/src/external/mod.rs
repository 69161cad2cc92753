//! Tunnels that other programs run, taken over at their interface.
//!
//! A program such as OpenVPN makes an interface and expects the system to route into it. We take
//! its packets at the interface itself, with a packet socket, and put ours in there: the interface
//! gets no address and no route, so any number of them may have been given the same address.

mod attached;
mod borrowed;
mod native;
use crate::device::parts;
mod poll;
mod shut;
mod slot;
mod sys;
mod transport;
use crate::device::vnet;

pub(crate) use attached::Attached;
pub use native::{NativeControl, NativeTransport};
pub(crate) use slot::Slot;
pub use transport::{ExternalConfig, ExternalTransport};

use crate::journal::{Journal, JournalError};
use crate::nft::{self, NftError};
use crate::{ApplyError, InterfaceName};

/// Undoes what was left of interfaces that are attached no more: answers the tables that were
/// there, and the interfaces that are as before.
pub(crate) async fn remove_leftovers(
    journal: &Journal,
) -> Result<(Vec<String>, Vec<String>), ApplyError> {
    let interfaces = borrowed::Borrowed::recover(journal).await?;
    let tables = nft::noted(journal, shut::KIND);
    let removed = nft::remove_noted(journal, &tables).await?;
    let tables = removed.iter().map(ToString::to_string).collect();
    Ok((tables, interfaces))
}

/// Why an interface of another program cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExternalError {
    /// There is none of that name. Start the program that makes it.
    #[error("there is no interface {0}")]
    Missing(InterfaceName),
    /// Packets reach the kernel's stack as well, which would answer them untranslated.
    #[error("the packet filter does not keep the kernel away: did somebody remove its rules?")]
    Twice,
    /// It carries Ethernet frames, or is the loopback: the host's own network, which would be cut
    /// off. Name the interface of a tunnel.
    #[error("the interface {0} is no tunnel of IP packets")]
    Frames(InterfaceName),
    /// It is there and not up.
    #[error("the interface {0} is down")]
    NotUp(InterfaceName),
    /// It has no address, and none was said: packets would have no source.
    #[error("the interface {0} has no address")]
    NoAddress(InterfaceName),
    /// The packet filter, which keeps the kernel's stack away, refuses.
    #[error("cannot keep the kernel away from the interface")]
    Filter(#[source] NftError),
    /// The interface cannot be set up.
    #[error("cannot set up the interface")]
    Apply(#[from] ApplyError),
    /// What to undo could not be written down; nothing was changed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The system refuses.
    #[error("cannot {doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
}
