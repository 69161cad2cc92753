//! Keeps the kernel's stack from what comes out of an interface: it would take packets for the
//! device's addresses as its own, and answer them untranslated.
//!
//! A packet socket hears a packet before the packet filter does, so what the filter drops has
//! reached us already. What the socket sends passes no filter; what the kernel would say there by
//! itself (neighbours, groups, a route that was left) does, and is dropped.

use serde_json::json;

use super::ExternalError;
use crate::InterfaceName;
use crate::foreign::ForeignChange;
use crate::journal::Journal;
use crate::nft::{self, NftError, Table, Tables, count, drop, matches, meta};

/// Before connection tracking, and before everything else there is (`raw` of nft(8) is -300).
const FIRST: i32 = -450;

/// The counter of what was kept from the stack.
const DROPPED: &str = "dropped";

/// Whose tables ours are, in the journal.
pub(super) const KIND: &str = "external";

#[derive(Debug)]
pub(super) struct Shut {
    name: InterfaceName,
    tables: Tables,
}

impl Shut {
    pub(super) async fn close(
        name: &InterfaceName,
        journal: Option<&Journal>,
    ) -> Result<Self, ExternalError> {
        let table = table(name);
        let mut commands: Vec<_> = table.anew().into();
        commands.push(table.counter(DROPPED));
        commands.push(table.chain("filter", "prerouting", FIRST));
        let from = matches(meta("iifname"), "==", json!(name.as_str()));
        commands.push(table.rule("prerouting", vec![from, count(DROPPED), drop()]));
        commands.push(table.chain("filter", "postrouting", FIRST));
        let to = matches(meta("oifname"), "==", json!(name.as_str()));
        commands.push(table.rule("postrouting", vec![to, drop()]));
        let mut shut = Self {
            name: name.clone(),
            tables: Tables::new(journal.cloned(), KIND),
        };
        shut.tables.note(std::slice::from_ref(&table))?;
        nft::run(commands).await.map_err(ExternalError::Filter)?;
        shut.tables.made(&[table]).await;
        Ok(shut)
    }

    /// What somebody else changed.
    pub(super) async fn look(&mut self) -> Vec<ForeignChange> {
        self.tables.look().await
    }

    /// How many packets came out of the interface and were kept from the stack.
    pub(super) async fn dropped(&self) -> Result<u64, NftError> {
        table(&self.name).packets(DROPPED).await
    }

    /// Gives the interface back to the stack.
    pub(super) async fn open(&mut self) {
        let table = table(&self.name);
        let opened = match nft::run(table.gone().into()).await {
            Ok(()) | Err(NftError::Missing) => self.tables.gone(&[table]).map_err(Into::into),
            Err(error) => Err(ExternalError::Filter(error)),
        };
        if let Err(error) = opened {
            tracing::warn!(%error, interface = %self.name, "its packet filter stays");
        }
    }
}

fn table(name: &InterfaceName) -> Table {
    Table {
        family: "inet",
        name: format!("vpn_tun_ext_{name}"),
    }
}
