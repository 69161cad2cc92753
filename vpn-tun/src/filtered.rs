//! Touches forwarding and the packet filter, in an order in which nothing is forwarded unfiltered.

use serde_json::Value;

use crate::forwarding::{Forwarding, Interfaces, Opened};
use crate::journal::{Journal, JournalError};
use crate::name::InterfaceName;
use crate::nft::{self, NftError, Table, Tables};
use crate::sysctl::SysctlError;

/// Forwarding, and the table without which it must not be.
#[derive(Debug)]
pub(crate) struct Filtered {
    pub(crate) forwarding: Forwarding,
    pub(crate) tables: Tables,
    /// What the table was made of.
    made: Option<Vec<Value>>,
}

impl Filtered {
    /// `whose` tells its settings and its table from others in the journal.
    pub(crate) fn new(journal: Option<Journal>, whose: &'static str) -> Result<Self, JournalError> {
        Ok(Self {
            forwarding: Forwarding::new(journal.clone(), whose)?,
            tables: Tables::new(journal, whose),
            made: None,
        })
    }

    /// Forwards between our own interface and these. What is not needed any more ends first, then
    /// the table made of `commands` is there, then the rest begins.
    ///
    /// A table that somebody removed is made again: without it, what is open for us would be open
    /// to everybody. If that fails nothing is forwarded until it succeeds.
    pub(crate) async fn follow<E>(
        &mut self,
        ours: &InterfaceName,
        wanted: &Interfaces,
        table: &Table,
        commands: impl FnOnce(&Opened) -> Vec<Value>,
    ) -> Result<(), E>
    where
        E: From<SysctlError> + From<JournalError> + From<NftError>,
    {
        if self.made.is_some() && self.tables.lost().await {
            tracing::warn!(%table, "somebody removed the filter of what is forwarded: it is made again");
            self.made = None;
            self.forwarding.narrow::<E>(ours, &Opened::default())?;
        }
        let needed = self.forwarding.needed(wanted);
        self.forwarding.narrow::<E>(ours, &needed)?;
        let commands = commands(&needed);
        if self.made.as_ref() != Some(&commands) {
            let tables = std::slice::from_ref(table);
            self.tables.note(tables)?;
            nft::run(commands.clone()).await?;
            self.tables.made(tables).await;
            self.made = Some(commands);
        }
        // Each time: an interface that comes again begins anew.
        self.forwarding.open::<E>(ours, &needed)
    }
}
