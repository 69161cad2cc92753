//! The way to the uplink, as a tunnel like the others.
//!
//! What a rule sends `direct` was captured first, and has the address of our device as its source.
//! [`DirectTransport`] hands it to the kernel again, through a second interface: the kernel forwards
//! it by its main table and gives it the uplink's address (masquerading), and brings the answers
//! back. So to the router `direct` is a tunnel with an address: translated, checked and counted as
//! every other.
//!
//! The transport's addresses must not be put on the captured device: the machine would keep the
//! answers for itself.
//!
//! # No loop
//!
//! Packets from this interface are looked up in the main table and nowhere else, so they do not
//! meet the capture; answers are for an address of the transport, which a rule of its own leads to
//! the interface. What the main table leads to one of our devices is dropped.
//!
//! # What it changes
//!
//! * A table of the packet filter: masquerading of what has the transport's addresses, and a forward
//!   chain that lets only its packets out and their answers in.
//! * Forwarding, as narrow as the kernel has it: of the interface and of those that the main table
//!   leads to, as long as it does and for the families in which it does (`force_forwarding` of Linux
//!   6.17 and later). An older kernel
//!   forwards IPv6 on all interfaces or on none: there `all.forwarding` is set, and `accept_ra` of an
//!   interface that listened to routers becomes 2, so that it goes on. The forward chain drops
//!   whatever this would forward for others.
//! * Three policy rules per family, and a route to each address in the main table.
//!
//! All of it goes with [`close`](vpn_core::TunnelTransport::close), or later with
//! [`recover`](fn@crate::recover); settings under `/proc/sys` come back from the journal. What
//! somebody else changes meanwhile stays as they made it, and is told, but for the table: one that is
//! gone is made again within [`LOOK_EVERY`], for without it everybody would be forwarded. A firewall of the
//! host that drops forwarded packets has the last word: let it accept what comes from the interface.

mod config;
mod table;
mod transport;
mod uplink;

pub use config::{DEFAULT_ADDRESSES, DirectConfig, DirectError, device_beside};
pub use transport::DirectTransport;
pub use uplink::LOOK_EVERY;
pub(crate) use uplink::{MAIN_TABLE, outputs};

use crate::apply::netlink::Netlink;
use crate::apply::record::{self, DIRECT};
use crate::apply::{ApplyError, CaptureConfig, Removed};
use crate::journal::Journal;
use crate::nft::{self, NftError};
use crate::sysctl::{Changed, Restored};

/// Whose settings and tables ours are, in the journal.
const OWNER: &str = "direct";

/// Undoes what a transport left that was killed: forwarding first, filter last.
pub(crate) async fn remove_leftovers(
    capture: &CaptureConfig,
    journal: Option<&Journal>,
) -> Result<(Removed, Restored), ApplyError> {
    let restored = Changed::new(journal.cloned(), OWNER)?.restore::<ApplyError>()?;
    let mut removed = Removed {
        rules: transport::remove_rules(&Netlink::open()?, capture).await?,
        ..Removed::default()
    };
    let table = table::table(capture);
    if let Some(journal) = journal
        && nft::noted(journal, OWNER).contains(&table)
    {
        let tables = nft::remove_noted(journal, &[table]).await?;
        removed.tables = tables.iter().map(ToString::to_string).collect();
    } else {
        match nft::run(table.gone().into()).await {
            // Nobody but that program could have made it, and a kernel without the filter has none.
            Err(NftError::Missing | NftError::Refused(_)) | Ok(()) => {}
            Err(error) => return Err(ApplyError::Guard(error)),
        }
    }
    record::forget_capture(journal, DIRECT, capture)?;
    Ok((removed, restored))
}
