//! What becomes of a datagram between its sender's socket and its receiver's.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;

use super::queue::{Event, Stream};
use super::{At, World};
use crate::mesh::hub::Origin;
use crate::mesh::testing::keys::mix;
use crate::mesh::testing::nat::NatKind;
use crate::mesh::way::HubId;
use crate::mesh::wire::Frame;

/// Time between two members of one site.
const LOCAL: Duration = Duration::from_micros(500);

impl World {
    /// A member's socket sends.
    pub(super) fn send_udp(&mut self, sender: At, to: SocketAddr, bytes: &[u8]) {
        let now = self.now();
        let node = &mut self.members[sender.0];
        let (inside, site) = (node.inside(), node.site());
        node.counters
            .sent(self.hubs.iter().any(|hub| hub.at() == to), bytes.len());
        let bytes = BytesMut::from(bytes);
        if let Some(&receiver) = self.inside.get(&to) {
            let is_near = self.members[receiver.0].site() == site;
            let open = self.sites[self.members[receiver.0].site().0].nat.kind() == NatKind::Open;
            if is_near {
                let event = Event::Inside {
                    from: inside,
                    to: receiver,
                    bytes,
                };
                self.queue.push(now + LOCAL, event);
                return;
            }
            if !open {
                // An address of somebody else's site leads nowhere here.
                self.lost += 1;
                return;
            }
        }
        match self.sites[site.0].nat.out(inside, to, now) {
            Some(from) => self.fly(Some(sender), from, to, bytes),
            None => self.lost += 1,
        }
    }

    /// A datagram is outside now.
    pub(super) fn fly(
        &mut self,
        sender: Option<At>,
        from: SocketAddr,
        to: SocketAddr,
        bytes: BytesMut,
    ) {
        if self.chance() < self.weather.loss {
            self.lost += 1;
            return;
        }
        let delay = self.delay(from.ip(), to.ip()) + self.weather.jitter.mul_f64(self.chance());
        let event = Event::Datagram {
            sender,
            from,
            to,
            bytes,
        };
        self.queue.push(self.now() + delay, event);
    }

    /// The same both ways.
    pub(super) fn delay(&self, a: IpAddr, b: IpAddr) -> Duration {
        let number = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => ip.to_bits() as u64,
        };
        let share = mix(mix(number(a)) ^ mix(number(b))) as f64 / u64::MAX as f64;
        let (short, long) = self.weather.delay;
        short + (long - short).mul_f64(share)
    }

    /// A datagram is where its address says.
    pub(super) fn arrive(
        &mut self,
        sender: Option<At>,
        from: SocketAddr,
        to: SocketAddr,
        bytes: BytesMut,
    ) {
        let now = self.now();
        if let Some(hub) = self.hubs.iter().position(|hub| hub.at() == to) {
            self.hub_takes(hub, Origin::Udp(from), bytes);
            return;
        }
        let receiver = self.outside.get(&to.ip()).and_then(|site| {
            let inside = self.sites[site.0].nat.take(from, to, now)?;
            self.inside.get(&inside).copied()
        });
        match receiver {
            Some(receiver) if self.is_deaf(sender, receiver, &bytes) => self.lost += 1,
            Some(receiver) if !self.is_cut(sender, receiver) => self.deliver(receiver, from, bytes),
            _ => self.lost += 1,
        }
    }

    fn is_cut(&self, sender: Option<At>, receiver: At) -> bool {
        sender.is_some_and(|sender| self.cut.contains(&(sender, receiver)))
    }

    fn is_deaf(&self, sender: Option<At>, receiver: At, bytes: &[u8]) -> bool {
        let is_welcome = matches!(Frame::read(bytes), Ok(Frame::Welcome { .. }));
        sender.is_none() && !is_welcome && self.deaf.contains(&receiver)
    }

    /// A member wants a stream to a hub at one of these addresses.
    pub(super) fn open_stream(&mut self, member: At, hub: HubId, to: &[SocketAddr]) {
        let Some(at) = self.hubs.iter().position(|hub| to.contains(&hub.at())) else {
            return;
        };
        self.next_stream += 1;
        let stream = Stream(self.next_stream);
        self.members[member.0].streams.insert(hub, stream);
        self.hubs[at].streams.insert(stream, (member, hub));
        // TCP's handshake and TLS's.
        let delay = self.stream_delay(member, at) * 4;
        self.queue
            .push(self.now() + delay, Event::Opened { stream });
    }

    pub(super) fn stream_delay(&self, member: At, hub: usize) -> Duration {
        let site = self.members[member.0].site();
        self.delay(self.sites[site.0].nat.outside(), self.hubs[hub].at().ip())
    }

    fn ends_of(&self, stream: Stream) -> Option<(usize, At, HubId)> {
        let ends = self.hubs.iter().enumerate();
        ends.filter_map(|(at, hub)| Some((at, hub.streams.get(&stream)?)))
            .map(|(at, (member, hub))| (at, *member, *hub))
            .next()
    }

    pub(super) fn stream_opened(&mut self, stream: Stream) {
        let Some((at, member, hub)) = self.ends_of(stream) else {
            return;
        };
        let is_up = self.hubs[at].is_up();
        if !is_up {
            self.hubs[at].streams.remove(&stream);
        }
        self.stream_is(member, hub, stream, is_up);
    }

    /// A member's stream sends.
    pub(super) fn send_stream(&mut self, member: At, hub: HubId, bytes: &[u8]) {
        let node = &mut self.members[member.0];
        node.counters.sent(true, bytes.len());
        let Some(&stream) = node.streams.get(&hub) else {
            return;
        };
        if let Some((at, ..)) = self.ends_of(stream) {
            let event = Event::ToHub {
                stream,
                bytes: BytesMut::from(bytes),
            };
            self.queue
                .push(self.now() + self.stream_delay(member, at), event);
        }
    }

    /// A hub's stream sends.
    pub(super) fn hub_sends_stream(&mut self, at: usize, stream: Stream, bytes: &[u8]) {
        if let Some(&(member, _)) = self.hubs[at].streams.get(&stream) {
            let event = Event::ToMember {
                stream,
                bytes: BytesMut::from(bytes),
            };
            self.queue
                .push(self.now() + self.stream_delay(member, at), event);
        }
    }

    pub(super) fn stream_to_hub(&mut self, stream: Stream, bytes: BytesMut) {
        if let Some((at, ..)) = self.ends_of(stream) {
            self.hub_takes(at, Origin::Tls(stream.0), bytes);
        }
    }

    pub(super) fn stream_to_member(&mut self, stream: Stream, bytes: BytesMut) {
        if let Some((_, member, hub)) = self.ends_of(stream)
            && self.members[member.0].streams.get(&hub) == Some(&stream)
        {
            self.deliver_stream(member, hub, bytes);
        }
    }

    /// A member is done with its stream.
    pub(super) fn close_stream(&mut self, member: At, hub: HubId) {
        let Some(stream) = self.members[member.0].streams.remove(&hub) else {
            return;
        };
        if let Some((at, ..)) = self.ends_of(stream) {
            self.hubs[at].streams.remove(&stream);
            self.hub_loses(at, stream);
        }
    }
}
