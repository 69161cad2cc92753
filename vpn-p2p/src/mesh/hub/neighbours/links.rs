//! Decides how a neighbour with a known endpoint is joined: as members join hubs, from the socket that
//! members use, and which of its datagrams is for that.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::BytesMut;
use vpn_core::PeerId;

use super::{At, Hub};
use crate::mesh::hub::Origin;
use crate::mesh::link::{Link, LinkConfig, LinkEvent, LinkOut};
use crate::mesh::way::{Carrier, HubId};
use crate::mesh::wire::Frame;

impl Hub {
    /// Begins to join neighbours whose endpoint is known.
    pub(in crate::mesh::hub) fn join_neighbours(&mut self, now: Instant) {
        for neighbour in self.config.neighbours.clone() {
            if !neighbour.endpoints.is_empty() {
                self.set_neighbour_endpoints(neighbour.key, neighbour.endpoints, now);
            }
        }
    }

    /// Where a neighbour is, as its name was resolved: it is joined there.
    pub fn set_neighbour_endpoints(
        &mut self,
        key: PeerId,
        endpoints: Vec<SocketAddr>,
        now: Instant,
    ) {
        let Some(at) = self.neighbours.with_key(key) else {
            return;
        };
        let record = self.record.clone();
        let seed = self.cookies.hash(&key.0);
        let Some(known) = self.neighbours.get_mut(at) else {
            return;
        };
        let link = known.link.get_or_insert_with(|| {
            // There are few enough neighbours for the number.
            let id = HubId(at.0 as u8);
            let config = LinkConfig {
                tls: false,
                ..LinkConfig::new(key, id)
            };
            let mut link = Link::new(config, seed, now);
            link.set_record(record, now);
            link
        });
        link.set_endpoints(endpoints, now);
        self.pump(at);
    }

    /// Which link's hub is there.
    pub(super) fn link_at(&self, from: Origin) -> Option<(At, SocketAddr)> {
        let from = from.address()?;
        let is = |known: &super::Known| {
            let link = known.link.as_ref();
            link.is_some_and(|link| link.is_from_hub(Carrier::Udp, Some(from)))
        };
        let found = self.neighbours.all().find(|(_, known)| is(known));
        found.map(|(at, _)| (at, from))
    }

    /// A frame that hubs send who joined.
    pub(in crate::mesh::hub) fn frame_of_hub(
        &mut self,
        from: Origin,
        frame: &Frame<'_>,
        now: Instant,
        unix: u64,
    ) -> bool {
        let Some((at, address)) = self.link_at(from) else {
            return false;
        };
        let keys = &*self.keys;
        let known = self.neighbours.known.get_mut(at.0);
        let Some(link) = known.and_then(|known| known.link.as_mut()) else {
            return false;
        };
        link.frame(Carrier::Udp, Some(address), frame, keys, now, unix);
        self.follow(at, now, unix);
        true
    }

    /// A datagram of WireGuard that is for no session of ours by its name: perhaps it is of a hub that
    /// we joined. A handshake that somebody begins never is. Given back if not.
    pub(in crate::mesh::hub) fn datagram_of_hub(
        &mut self,
        from: Origin,
        datagram: BytesMut,
        now: Instant,
        unix: u64,
    ) -> Option<BytesMut> {
        let Some((at, address)) = self.link_at(from).filter(|_| datagram.first() != Some(&1))
        else {
            return Some(datagram);
        };
        let (keys, echo) = (&*self.keys, crate::mesh::hub::echo(&datagram));
        let known = self.neighbours.known.get_mut(at.0);
        let Some(link) = known.and_then(|known| known.link.as_mut()) else {
            return Some(datagram);
        };
        if link
            .datagram(Carrier::Udp, Some(address), datagram, keys, now, unix)
            .is_err()
        {
            // It may have joined us before we were started again: then it does so anew.
            self.stranger(from, echo, now);
        }
        self.follow(at, now, unix);
        None
    }

    /// Whether there are links whose time is to be kept.
    pub(in crate::mesh::hub) fn next_of_neighbours(&self) -> Option<Instant> {
        let links = self.neighbours.known.iter();
        let next = links.filter_map(|known| known.link.as_ref()?.next_timeout());
        next.chain(self.neighbours.questions.next()).min()
    }

    /// Time passed.
    pub(in crate::mesh::hub) fn time_of_neighbours(&mut self, now: Instant, unix: u64) {
        for at in (0..self.neighbours.known.len()).map(At) {
            let known = self.neighbours.get_mut(at);
            if let Some(link) = known.and_then(|known| known.link.as_mut())
                && link.next_timeout().is_some_and(|next| next <= now)
            {
                link.handle_timeout(now);
                self.follow(at, now, unix);
            }
        }
        self.give_up(now);
    }

    /// Our record is another one.
    pub(in crate::mesh::hub) fn tell_record(&mut self, now: Instant) {
        let record = self.record.clone();
        for at in (0..self.neighbours.known.len()).map(At) {
            let known = self.neighbours.get_mut(at);
            if let Some(link) = known.and_then(|known| known.link.as_mut()) {
                link.set_record(record.clone(), now);
                self.pump(at);
            }
        }
    }

    /// Does what a link wants, and takes what it tells.
    fn follow(&mut self, at: At, now: Instant, unix: u64) {
        self.pump(at);
        loop {
            let known = self.neighbours.get_mut(at);
            let event = known.and_then(|known| known.link.as_mut()?.poll_event());
            match event {
                Some(LinkEvent::Up { .. }) => self.neighbours.questions.hope(),
                Some(LinkEvent::Between(message)) => self.hear(at, message, now, unix),
                Some(_) => {}
                None => break,
            }
        }
    }

    /// Sends what a link wants sent.
    pub(super) fn pump(&mut self, at: At) {
        let Some(known) = self.neighbours.known.get_mut(at.0) else {
            return;
        };
        let Some(link) = &mut known.link else {
            return;
        };
        while let Some(out) = link.poll() {
            // Its configuration has datagrams only.
            if let LinkOut::Udp(to, bytes) = out {
                self.out.push_back((Origin::Udp(to), bytes));
            }
        }
    }

    /// Ends for good.
    pub(in crate::mesh::hub) fn leave_hubs(&mut self, now: Instant) {
        for at in (0..self.neighbours.known.len()).map(At) {
            if let Some(link) = self.neighbours.get_mut(at).and_then(|it| it.link.as_mut()) {
                link.bye(now);
                self.pump(at);
            }
        }
    }
}
