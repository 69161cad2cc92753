//! Touches forwarding: of the interfaces that need it, where the kernel can tell them apart.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use vpn_core::Family;

use crate::foreign::ForeignChange;
use crate::journal::{Journal, JournalError};
use crate::name::InterfaceName;
use crate::nft::{drop, matches, meta, set};
use crate::sysctl::{self, Changed, Restored, SysctlError};

/// Where the settings are, for the network namespace of the calling thread.
const V4: &str = "/proc/sys/net/ipv4/conf";
const V6: &str = "/proc/sys/net/ipv6/conf";

/// Per-interface forwarding of IPv6 (Linux 6.17).
const FORCE: &str = "force_forwarding";

/// Interfaces by which packets come and go, by family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interfaces {
    pub(crate) v4: BTreeSet<String>,
    pub(crate) v6: BTreeSet<String>,
}

impl Interfaces {
    pub(crate) const fn of(&mut self, family: Family) -> &mut BTreeSet<String> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// Interfaces on which forwarding is ours, by family: nothing else may profit from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) v4: BTreeSet<String>,
    pub(crate) v6: BTreeSet<String>,
    /// Our own interface, which counts by itself.
    pub(crate) own_v4: bool,
    pub(crate) own_v6: bool,
    /// This kernel forwards IPv6 on all interfaces, for us.
    pub(crate) v6_everywhere: bool,
}

impl Opened {
    /// Rules for the end of a forward chain: what else would be forwarded by what is open now.
    pub(crate) fn others_dropped(&self) -> Vec<Vec<Value>> {
        let of_family = |family: &str| matches(meta("nfproto"), "==", json!(family));
        let mut rules = Vec::new();
        for (family, names) in [("ipv4", &self.v4), ("ipv6", &self.v6)] {
            if names.is_empty() {
                continue;
            }
            let names = names.iter().map(|name| json!(name)).collect();
            let from = matches(meta("iifname"), "==", set(names));
            rules.push(vec![of_family(family), from, drop()]);
        }
        if self.v6_everywhere {
            rules.push(vec![of_family("ipv6"), drop()]);
        }
        rules
    }
}

/// Forwarding that is ours, and what it was before.
#[derive(Debug)]
pub(crate) struct Forwarding {
    changed: Changed,
    /// Whether this kernel can forward IPv6 on some interfaces only.
    narrow: bool,
}

impl Forwarding {
    /// `whose` tells its settings from others in the journal.
    pub(crate) fn new(journal: Option<Journal>, whose: &str) -> Result<Self, JournalError> {
        Ok(Self {
            changed: Changed::new(journal, whose)?,
            narrow: Path::new(&format!("{V6}/lo/{FORCE}")).exists(),
        })
    }

    /// What others set meanwhile.
    pub(crate) fn look(&self) -> Vec<ForeignChange> {
        self.changed.look()
    }

    /// Those of these interfaces that would be opened: that don't forward by themselves. A family
    /// without interfaces is not forwarded at all.
    pub(crate) fn needed(&self, wanted: &Interfaces) -> Opened {
        let off =
            |path: &str| self.changed.is_ours(path) || sysctl::read(path).is_some_and(|v| v == "0");
        let everywhere = format!("{V6}/all/forwarding");
        let mut opened = Opened {
            own_v4: !wanted.v4.is_empty(),
            own_v6: !wanted.v6.is_empty(),
            ..Opened::default()
        };
        let needs_v4 = |name: &&String| off(&format!("{V4}/{name}/forwarding"));
        opened.v4.extend(wanted.v4.iter().filter(needs_v4).cloned());
        if opened.own_v6 && off(&everywhere) {
            opened.v6_everywhere = !self.narrow;
            let needs_v6 = |name: &&String| self.narrow && off(&format!("{V6}/{name}/{FORCE}"));
            opened.v6.extend(wanted.v6.iter().filter(needs_v6).cloned());
        }
        opened
    }

    /// Lets these interfaces and our own forward. The packet filter must have been told.
    pub(crate) fn open<E>(&mut self, ours: &InterfaceName, opened: &Opened) -> Result<(), E>
    where
        E: From<SysctlError> + From<JournalError>,
    {
        let own = |of_family: bool| of_family.then_some(ours.as_str()).into_iter();
        for name in own(opened.own_v4).chain(opened.v4.iter().map(String::as_str)) {
            // Who forwards by themselves (containers, virtual machines) sets `all`, and with it this.
            let all = format!("{V4}/all/forwarding");
            let path = format!("{V4}/{name}/forwarding");
            self.changed.set_below::<E>(&path, "1", &all)?;
        }
        if opened.v6_everywhere {
            // First: an interface that begins to forward forgets its routers otherwise.
            for name in interfaces() {
                let path = format!("{V6}/{name}/accept_ra");
                if sysctl::read(&path).is_some_and(|value| value == "1") {
                    self.changed.set::<E>(&path, "2")?;
                }
                // `all` overwrites it now, and again on the way back.
                if name != "all" {
                    self.changed.keep(&format!("{V6}/{name}/forwarding"), "1")?;
                }
            }
            self.changed
                .set::<E>(&format!("{V6}/all/forwarding"), "1")?;
        } else if self.narrow {
            for name in own(opened.own_v6).chain(opened.v6.iter().map(String::as_str)) {
                let path = format!("{V6}/{name}/{FORCE}");
                self.changed.set::<E>(&path, "1")?;
            }
        }
        Ok(())
    }

    /// Brings the former settings back where what is open is not in `opened`. The packet filter
    /// must not have been narrowed yet.
    pub(crate) fn narrow<E>(&mut self, ours: &InterfaceName, opened: &Opened) -> Result<(), E>
    where
        E: From<SysctlError> + From<JournalError>,
    {
        let stays = |path: &str| {
            let of = |base: &str, setting: &str| {
                let name = path.strip_prefix(base)?.strip_prefix('/')?;
                name.strip_suffix(setting)?.strip_suffix('/')
            };
            let within = |name: &str, names: &BTreeSet<String>, own: bool| {
                names.contains(name) || own && name == ours.as_str()
            };
            if let Some(name) = of(V4, "forwarding") {
                within(name, &opened.v4, opened.own_v4)
            } else if let Some(name) = of(V6, FORCE) {
                within(name, &opened.v6, opened.own_v6)
            } else {
                opened.v6_everywhere
            }
        };
        let restored = self.changed.restore_but::<E>(stays)?;
        for change in restored.left {
            tracing::warn!("left as somebody else made it: {change}");
        }
        Ok(())
    }

    /// Brings the former settings back.
    pub(crate) fn close<E>(&mut self) -> Result<Restored, E>
    where
        E: From<SysctlError> + From<JournalError>,
    {
        self.changed.restore()
    }
}

fn interfaces() -> impl Iterator<Item = String> {
    std::fs::read_dir(V6)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::direct::DirectError;
    use nix::sched::{CloneFlags, unshare};

    /// As on a kernel that forwards IPv6 everywhere or nowhere (before 6.17).
    #[test]
    fn without_forwarding_by_interface_all_forward_and_still_listen_to_routers() {
        let test = || {
            if unshare(CloneFlags::CLONE_NEWNET).is_err() {
                println!("SKIPPED: no network namespace of our own; run as root");
                return;
            }
            let value = |path: &str| sysctl::read(&format!("/proc/sys/net/{path}")).unwrap();
            let seen = || {
                [
                    "ipv4/conf/lo/forwarding",
                    "ipv6/conf/all/forwarding",
                    "ipv6/conf/lo/forwarding",
                    "ipv6/conf/lo/accept_ra",
                ]
                .map(value)
            };
            let before = seen();
            assert_eq!(before, ["0", "0", "0", "1"]);
            let lo: BTreeSet<String> = ["lo".to_owned()].into();
            let uplink = Interfaces {
                v4: lo.clone(),
                v6: lo.clone(),
            };
            let mut forwarding = Forwarding {
                narrow: false,
                ..Forwarding::new(None, "test").unwrap()
            };
            let needed = forwarding.needed(&uplink);
            assert!(needed.v6_everywhere && needed.v6.is_empty() && needed.v4.contains("lo"));
            let ours = "vpn0d".parse().unwrap();
            forwarding.open::<DirectError>(&ours, &needed).unwrap();
            assert_eq!(seen(), ["1", "1", "1", "2"]);
            assert_eq!(
                forwarding.needed(&uplink),
                needed,
                "it is ours as long as it is open"
            );
            let of_v4 = Interfaces {
                v4: lo,
                ..Interfaces::default()
            };
            let narrower = forwarding.needed(&of_v4);
            forwarding.narrow::<DirectError>(&ours, &narrower).unwrap();
            forwarding.open::<DirectError>(&ours, &narrower).unwrap();
            assert_eq!(seen(), ["1", "0", "0", "1"], "no IPv6 behind it any more");
            forwarding.open::<DirectError>(&ours, &needed).unwrap();
            assert_eq!(seen(), ["1", "1", "1", "2"]);
            forwarding.close::<DirectError>().unwrap();
            assert_eq!(seen(), before);
        };
        std::thread::spawn(test).join().unwrap();
    }
}
