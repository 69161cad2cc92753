//! Decides from which of its addresses a hub answers whom: from the one that it was asked at. A node
//! believes nothing that comes from elsewhere, and a NAT lets nothing else in. Pure.
//!
//! Most hubs are asked at one address: that one is remembered once, and who asks at others one by one.
//! Members have their places here for as long as the hub knows them; who only asks has one until enough
//! others asked. Who forges a member's address leads what is sent to it astray until it next speaks.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// Strangers that are remembered: more than handshakes wait. All are forgotten where there are more.
const STRANGERS: usize = 4096;

/// Members that are remembered until it is looked who of them is still one.
const MEMBERS: usize = 4096;

/// Addresses that were looked at whether they are this machine's. One that has more of them answers as
/// the system chooses.
const LOOKED_AT: usize = 64;

/// Who asked where, of one family.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Where the first one asked, and most do.
    usual: Option<IpAddr>,
    members: HashMap<SocketAddr, IpAddr>,
    strangers: HashMap<SocketAddr, IpAddr>,
    /// Members after which it is looked again who is one.
    next_look: usize,
    looked_at: HashMap<IpAddr, bool>,
}

impl Asked {
    /// Somebody asked at this address. `is_ours` says whether datagrams can leave from there: those to
    /// a broadcast address came too. `is_known` says whether somebody is a member.
    pub(super) fn note(
        &mut self,
        from: SocketAddr,
        at: IpAddr,
        is_ours: impl Fn(IpAddr) -> bool,
        is_known: impl Fn(SocketAddr) -> bool,
    ) {
        if self.usual == Some(at) {
            if !(self.members.is_empty() && self.strangers.is_empty()) {
                self.members.remove(&from);
                self.strangers.remove(&from);
            }
            return;
        }
        if !self.is_usable(at, is_ours) {
            return;
        }
        if self.usual.is_none() {
            self.usual = Some(at);
            return;
        }
        if is_known(from) {
            self.strangers.remove(&from);
            self.members.insert(from, at);
            if self.members.len() >= self.next_look.max(MEMBERS) {
                self.members.retain(|member, _| is_known(*member));
                self.next_look = self.members.len() * 2;
            }
            return;
        }
        self.members.remove(&from);
        if self.strangers.len() >= STRANGERS {
            self.strangers.clear();
        }
        self.strangers.insert(from, at);
    }

    fn is_usable(&mut self, at: IpAddr, is_ours: impl Fn(IpAddr) -> bool) -> bool {
        if let Some(known) = self.looked_at.get(&at) {
            return *known;
        }
        if self.looked_at.len() >= LOOKED_AT {
            return false;
        }
        *self.looked_at.entry(at).or_insert_with(|| is_ours(at))
    }

    /// From where somebody is answered; `None`: as the system chooses.
    pub(super) fn answer(&self, to: SocketAddr) -> Option<IpAddr> {
        if self.members.is_empty() && self.strangers.is_empty() {
            return self.usual;
        }
        let other = self.members.get(&to).or_else(|| self.strangers.get(&to));
        other.copied().or(self.usual)
    }
}

/// Whether an address is this machine's own, and one host's.
pub(super) fn is_own(address: IpAddr) -> bool {
    let Ok(mut interfaces) = nix::ifaddrs::getifaddrs() else {
        return false;
    };
    address.is_loopback()
        || interfaces.any(|interface| {
            let Some(own) = interface.address else {
                return false;
            };
            let v4 = own.as_sockaddr_in().map(|own| IpAddr::V4(own.ip()));
            let v6 = own.as_sockaddr_in6().map(|own| IpAddr::V6(own.ip()));
            v4.or(v6) == Some(address)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn remote(n: u32) -> SocketAddr {
        SocketAddr::from((n.to_be_bytes(), 7))
    }

    #[test]
    fn each_is_answered_from_where_it_asked_and_nobody_from_a_broadcast_address() {
        let (first, second, broadcast) = (ip("192.0.2.1"), ip("192.0.2.2"), ip("192.0.2.255"));
        let mut asked = Asked::default();
        assert_eq!(asked.answer(remote(1)), None);
        for (from, at) in [
            (9, broadcast),
            (1, first),
            (2, second),
            (3, second),
            (4, broadcast),
        ] {
            asked.note(
                remote(from),
                at,
                |at| at != broadcast,
                |from| from == remote(3),
            );
        }
        let answers = [1, 2, 3, 4, 5].map(|n| asked.answer(remote(n)));
        assert_eq!(
            answers,
            [first, second, second, first, first].map(Some),
            "what nobody asked at is the usual one"
        );
        asked.note(remote(2), first, |_| true, |_| true);
        assert_eq!(asked.answer(remote(2)), Some(first), "it asks there now");
    }

    #[test]
    fn strangers_push_out_no_member_and_all_are_bounded() {
        let (first, second) = (ip("192.0.2.1"), ip("192.0.2.2"));
        let mut asked = Asked::default();
        let is_known = |from: SocketAddr| from.ip() < ip("0.0.0.100");
        asked.note(remote(1), first, |_| true, is_known);
        for n in 1..20_000 {
            asked.note(remote(n), second, |_| true, is_known);
        }
        assert_eq!(asked.answer(remote(50)), Some(second));
        assert_eq!(asked.answer(remote(200)), Some(first), "forgotten");
        assert!(asked.strangers.len() <= STRANGERS);
        for n in 1..20_000 {
            // Each is a member when it asks, and none later.
            asked.note(remote(n), second, |_| true, |from| from == remote(n));
        }
        assert!(asked.members.len() <= MEMBERS);
        for n in 1..=255 {
            asked.note(
                remote(1),
                ip(&format!("198.51.100.{n}")),
                |_| true,
                is_known,
            );
        }
        assert!(asked.looked_at.len() <= LOOKED_AT);
    }
}
