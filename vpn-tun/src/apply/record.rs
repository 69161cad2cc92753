//! Decides how what an applier and the direct transport do is written down in the journal.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::config::CaptureConfig;
use crate::journal::{Journal, JournalError};
use crate::name::InterfaceName;

/// Rules and routes of a capture, also where they stay when it ends.
pub(crate) const CAPTURE: &str = "capture:";
/// Rules of the direct transport.
pub(crate) const DIRECT: &str = "direct:";
const INTERFACE: &str = "interface:";

/// Writes down that rules and routes are about to be made.
pub(crate) fn note_capture(
    journal: Option<&Journal>,
    of: &str,
    capture: &CaptureConfig,
) -> Result<(), JournalError> {
    let Some(journal) = journal else {
        return Ok(());
    };
    let (mark, priority, ipv6) = (capture.mark, capture.priority, capture.ipv6);
    journal.set(
        &format!("{of}{}", capture.table),
        format!("{mark} {priority} {}", u8::from(ipv6)),
    )
}

/// They are gone.
pub(crate) fn forget_capture(
    journal: Option<&Journal>,
    of: &str,
    capture: &CaptureConfig,
) -> Result<(), JournalError> {
    journal.map_or(Ok(()), |j| j.remove(&format!("{of}{}", capture.table)))
}

/// The captures whose rules and routes were made and not removed.
pub(crate) fn captures(journal: &Journal, of: &str) -> Result<Vec<CaptureConfig>, JournalError> {
    let read = |table: &str, entry: &str| {
        let mut words = entry.split(' ');
        let capture = CaptureConfig::default()
            .table(table.parse().ok()?)
            .mark(words.next()?.parse().ok()?)
            .priority(words.next()?.parse().ok()?);
        let ipv6 = words.next()? == "1";
        let capture = CaptureConfig { ipv6, ..capture };
        capture.check().ok().map(|()| capture)
    };
    let all = journal.with_prefix(of).into_iter();
    all.map(|(table, entry)| {
        read(&table, &entry).ok_or_else(|| journal.unreadable(&format!("{of}{table}")))
    })
    .collect()
}

/// What an applier did to an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OnInterface {
    /// Tells it from a later one of the same name.
    pub(crate) index: u32,
    /// Its MTU before, in bytes.
    pub(crate) former_mtu: u32,
    /// Its MTU by us; 0 if it was left as it was.
    pub(crate) mtu: u16,
    pub(crate) addresses: BTreeSet<IpNet>,
}

impl OnInterface {
    pub(crate) fn note(
        &self,
        journal: Option<&Journal>,
        name: &InterfaceName,
    ) -> Result<(), JournalError> {
        let Some(journal) = journal else {
            return Ok(());
        };
        let mut entry = format!("{} {} {}", self.index, self.former_mtu, self.mtu);
        for address in &self.addresses {
            entry.push_str(&format!(" {address}"));
        }
        journal.set(&format!("{INTERFACE}{name}"), entry)
    }

    fn read(entry: &str) -> Option<Self> {
        let mut words = entry.split(' ');
        Some(Self {
            index: words.next()?.parse().ok()?,
            former_mtu: words.next()?.parse().ok()?,
            mtu: words.next()?.parse().ok()?,
            addresses: words.map(|word| word.parse().ok()).collect::<Option<_>>()?,
        })
    }

    /// What was done to interfaces, by their names.
    pub(crate) fn all(journal: &Journal) -> Result<Vec<(String, Self)>, JournalError> {
        let all = journal.with_prefix(INTERFACE).into_iter();
        all.map(|(name, entry)| match Self::read(&entry) {
            Some(noted) => Ok((name, noted)),
            None => Err(journal.unreadable(&format!("{INTERFACE}{name}"))),
        })
        .collect()
    }

    pub(crate) fn forget(journal: Option<&Journal>, name: &str) -> Result<(), JournalError> {
        journal.map_or(Ok(()), |j| j.remove(&format!("{INTERFACE}{name}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_again_and_nonsense_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path().join("journal")).unwrap();
        let mut capture = CaptureConfig::default().table(900).mark(7).priority(9_000);
        capture.ipv6 = false;
        note_capture(Some(&journal), CAPTURE, &capture).unwrap();
        assert_eq!(captures(&journal, CAPTURE).unwrap(), [capture.clone()]);
        assert_eq!(captures(&journal, DIRECT).unwrap(), []);
        let noted = OnInterface {
            index: 7,
            former_mtu: 1500,
            mtu: 1420,
            addresses: ["10.5.0.2/32", "fd00::2/128"]
                .map(|a| a.parse().unwrap())
                .into(),
        };
        noted
            .note(Some(&journal), &"vpn0".parse().unwrap())
            .unwrap();
        assert_eq!(
            OnInterface::all(&journal).unwrap(),
            [("vpn0".to_owned(), noted)]
        );
        forget_capture(Some(&journal), CAPTURE, &capture).unwrap();
        OnInterface::forget(Some(&journal), "vpn0").unwrap();
        assert!(journal.is_empty());
        for (key, entry) in [("capture:900", "7 0 1"), ("capture:x", "7 9000 1")] {
            journal.set(key, entry).unwrap();
            assert!(captures(&journal, CAPTURE).is_err(), "{key} {entry}");
            journal.remove(key).unwrap();
        }
        journal.set("interface:vpn0", "7 1500 1420 x").unwrap();
        assert!(OnInterface::all(&journal).is_err());
    }
}
