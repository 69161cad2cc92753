//! Decides where UDP was not answered: networks are told apart by the address that we have in them.
//! Pure.
//!
//! Two networks may give us the same address. What that costs is a TLS connection opened at once,
//! beside the question by UDP: nothing that is allowed is left out.

use std::collections::VecDeque;
use std::net::IpAddr;

/// Networks that are remembered: more than one is in within a month, and few enough to be looked
/// through. The one that was seen to block longest ago is forgotten.
const MAX_NETWORKS: usize = 32;

/// Which networks block UDP, as far as is known.
#[derive(Debug, Default)]
pub(super) struct Networks {
    /// The address by which we leave now.
    here: Option<IpAddr>,
    /// Those in which TLS was what worked, the newest one last.
    blocking: VecDeque<IpAddr>,
    /// It is so where we are, be the address known or not.
    blocked: bool,
}

impl Networks {
    /// Whether TLS is tried at once.
    pub(super) const fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// The network may be another one; which, is not known yet.
    pub(super) fn left(&mut self) {
        self.here = None;
        self.blocked = false;
    }

    /// We leave by this address. Whether that makes TLS worth trying at once, and did not before.
    pub(super) fn is(&mut self, here: IpAddr) -> bool {
        if self.here.replace(here) == Some(here) {
            return false;
        }
        let before = self.blocked;
        self.blocked = self.blocking.contains(&here);
        self.blocked && !before
    }

    /// This is what worked.
    pub(super) fn learned(&mut self, blocked: bool) {
        self.blocked = blocked;
        let Some(here) = self.here else {
            return;
        };
        self.blocking.retain(|known| *known != here);
        if blocked {
            if self.blocking.len() >= MAX_NETWORKS {
                self.blocking.pop_front();
            }
            self.blocking.push_back(here);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn home(n: u8) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::new(192, 168, n, 2))
    }

    #[test]
    fn a_network_is_remembered_until_udp_works_in_it() {
        let mut networks = Networks::default();
        assert!(!networks.is(home(1)));
        networks.learned(true);
        assert!(networks.is_blocked());
        networks.left();
        assert!(!networks.is_blocked(), "another one may not block");
        assert!(!networks.is(home(2)) && !networks.is_blocked());
        networks.left();
        assert!(networks.is(home(1)) && networks.is_blocked());
        assert!(!networks.is(home(1)), "told once");
        networks.learned(false);
        networks.left();
        assert!(!networks.is(home(1)) && !networks.is_blocked());
    }

    #[test]
    fn the_oldest_one_is_forgotten() {
        let mut networks = Networks::default();
        for n in 0..=MAX_NETWORKS as u8 {
            networks.left();
            networks.is(home(n));
            networks.learned(true);
        }
        assert_eq!(networks.blocking.len(), MAX_NETWORKS);
        networks.left();
        assert!(!networks.is(home(0)) && networks.is(home(1)));
    }
}
