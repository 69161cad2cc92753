//! Keeps the kernel's stack from what comes out of an interface: it would take packets for the
//! device's addresses as its own, and answer them untranslated.
//!
//! A packet socket hears a packet before the packet filter does, so what the filter drops has
//! reached us already. What the socket sends passes no filter; what the kernel would say there by
//! itself (neighbours, groups, a route that was left) does, and is dropped.

use serde_json::json;

use super::ExternalError;
use crate::InterfaceName;
use crate::nft::{self, NftError, Table, count, drop, matches, meta};

/// Before connection tracking, and before everything else there is (`raw` of nft(8) is -300).
const FIRST: i32 = -450;

/// The counter of what was kept from the stack.
const DROPPED: &str = "dropped";

#[derive(Debug)]
pub(super) struct Shut {
    name: InterfaceName,
}

impl Shut {
    pub(super) async fn close(name: &InterfaceName) -> Result<Self, ExternalError> {
        let table = table(name);
        let mut commands: Vec<_> = table.anew().into();
        commands.push(table.counter(DROPPED));
        commands.push(table.chain("filter", "prerouting", FIRST));
        let from = matches(meta("iifname"), "==", json!(name.as_str()));
        commands.push(table.rule("prerouting", vec![from, count(DROPPED), drop()]));
        commands.push(table.chain("filter", "postrouting", FIRST));
        let to = matches(meta("oifname"), "==", json!(name.as_str()));
        commands.push(table.rule("postrouting", vec![to, drop()]));
        nft::run(commands).await.map_err(ExternalError::Filter)?;
        Ok(Self { name: name.clone() })
    }

    /// How many packets came out of the interface and were kept from the stack.
    pub(super) async fn dropped(&self) -> Result<u64, NftError> {
        table(&self.name).packets(DROPPED).await
    }

    /// Gives the interface back to the stack.
    pub(super) async fn open(&self) {
        if let Err(error) = nft::run(table(&self.name).gone().into()).await {
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
