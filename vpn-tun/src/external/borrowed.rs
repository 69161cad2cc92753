//! Touches what an interface of another program needs while it is ours: that it is up, and that the
//! kernel has no queue before it. Both are written down, and given back.

use super::ExternalError;
use crate::apply::ApplyError;
use crate::apply::netlink::Netlink;
use crate::device::sys::index_of;
use crate::journal::Journal;
use crate::name::InterfaceName;

/// What the journal's entries begin with; the interface follows. They hold its index, and whether
/// its queue was the kernel's and it was down.
const PREFIX: &str = "attached:";

/// What is given back.
#[derive(Debug)]
pub(super) struct Borrowed {
    name: String,
    index: u32,
    /// The kernel had a queue of its own before it.
    queue: bool,
    /// It was down.
    down: bool,
    journal: Option<Journal>,
}

impl Borrowed {
    /// Brings the interface up, without a queue of the kernel's.
    pub(super) async fn take(
        netlink: &Netlink,
        name: &InterfaceName,
        index: u32,
        journal: Option<&Journal>,
    ) -> Result<Self, ExternalError> {
        let link = netlink.link(index).await?;
        let this = Self {
            name: name.to_string(),
            index,
            queue: netlink.has_own_queue(index).await?,
            down: link.is_some_and(|link| !link.up),
            journal: journal.cloned(),
        };
        // A program's own interface, which goes with it, is as easily noted as told from others.
        if let Some(journal) = journal {
            journal.set(&this.key(), this.entry())?;
        }
        // Before the socket: one that is bound to an interface that is down begins with an error.
        netlink.link_up(index).await?;
        if this.queue {
            // With one, a full tunnel would lose packets and tell nobody.
            netlink.no_queue(index).await?;
        }
        Ok(this)
    }

    /// Gives it back, if it is still there. Answers whether it was.
    pub(super) async fn give_back(&self) -> Result<bool, ApplyError> {
        let there = index_of(&self.name) == Some(self.index);
        if there {
            let netlink = Netlink::open()?;
            if self.queue {
                netlink.own_queue(self.index).await?;
            }
            if self.down {
                netlink.link_down(self.index).await?;
            }
        }
        if let Some(journal) = &self.journal {
            journal.remove(&self.key())?;
        }
        Ok(there && (self.queue || self.down))
    }

    /// Gives back what a former run borrowed: the interfaces that are still there.
    pub(super) async fn recover(journal: &Journal) -> Result<Vec<String>, ApplyError> {
        let mut done = Vec::new();
        for (name, entry) in journal.with_prefix(PREFIX) {
            let noted = Self::read(&name, &entry, journal);
            let noted = noted.ok_or_else(|| journal.unreadable(&format!("{PREFIX}{name}")))?;
            if noted.give_back().await? {
                done.push(name);
            }
        }
        Ok(done)
    }

    fn key(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    fn entry(&self) -> String {
        let (queue, down) = (u8::from(self.queue), u8::from(self.down));
        format!("{} {queue} {down}", self.index)
    }

    fn read(name: &str, entry: &str, journal: &Journal) -> Option<Self> {
        let mut words = entry.split(' ');
        Some(Self {
            name: name.to_owned(),
            index: words.next()?.parse().ok()?,
            queue: words.next()? == "1",
            down: words.next()? == "1",
            journal: Some(journal.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path().join("journal")).unwrap();
        let noted = Borrowed {
            name: "wg0".to_owned(),
            index: 7,
            queue: true,
            down: false,
            journal: Some(journal.clone()),
        };
        let read = Borrowed::read("wg0", &noted.entry(), &journal).unwrap();
        assert_eq!((read.index, read.queue, read.down), (7, true, false));
        assert!(Borrowed::read("wg0", "7 1", &journal).is_none());
    }
}
