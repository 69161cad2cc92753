//! How a link seals, queues and numbers what it says.

use std::net::SocketAddr;

use bytes::BytesMut;
use zeroize::Zeroizing;

use super::{Link, LinkEvent, LinkOut, MAX_QUEUED, PADDING, Stage, Tls};
use crate::mesh::way::Carrier;
use crate::mesh::wire::frame::HEADER;
use crate::mesh::wire::{Between, Plain, ToHub};

impl Link {
    /// Says something as one hub to another; `false` while it is not up.
    pub fn between(&mut self, message: Between) -> bool {
        let Stage::Up(live) = &self.stage else {
            return false;
        };
        let (via, to) = (live.via, live.to);
        self.seal(&ToHub::Between(message), via, to)
    }

    pub(super) fn open_tls(&mut self) {
        if self.tls == Tls::Closed {
            self.tls = Tls::Opening;
            let endpoints = self.endpoints.clone();
            self.push(LinkOut::OpenTls(endpoints));
        }
    }

    pub(super) fn close_tls(&mut self) {
        self.tls_until = None;
        if self.tls != Tls::Closed {
            self.tls = Tls::Closed;
            self.push(LinkOut::CloseTls);
        }
    }

    /// Seals a message and sends it; `false` without a session.
    pub(super) fn seal(&mut self, message: &impl Plain, via: Carrier, to: SocketAddr) -> bool {
        // It may hold the token.
        let mut plain = Zeroizing::new(message.to_plain());
        let padded = plain.len().next_multiple_of(PADDING);
        plain.resize(padded, 0);
        self.seal_bytes(&plain, via, to)
    }

    /// The same with bytes that are padded.
    pub(super) fn seal_bytes(&mut self, plain: &[u8], via: Carrier, to: SocketAddr) -> bool {
        let mut sealed = Vec::with_capacity(plain.len() + PADDING * 2);
        let done = self
            .held
            .as_mut()
            .is_some_and(|held| held.session.seal(BytesMut::from(plain), &mut sealed));
        if done {
            self.send(via, to, sealed);
        }
        done
    }

    pub(super) fn send(&mut self, via: Carrier, to: SocketAddr, datagram: Vec<u8>) {
        if let Some(echo) = datagram
            .get(HEADER..)
            .and_then(|body| body.first_chunk::<8>())
        {
            self.echoes.note(*echo);
        }
        self.push(match via {
            Carrier::Udp => LinkOut::Udp(to, datagram),
            Carrier::Tls => LinkOut::Tls(datagram),
        });
    }

    /// Sends by the way that is used now.
    pub(super) fn send_here(&mut self, datagram: Vec<u8>) {
        let way = match &self.stage {
            Stage::Joining(joining) => Some((joining.via, joining.to)),
            Stage::Up(live) => Some((live.via, live.to)),
            _ => None,
        };
        if let Some((via, to)) = way {
            self.send(via, to, datagram);
        }
    }

    pub(super) fn push(&mut self, out: LinkOut) {
        if self.out.len() < MAX_QUEUED {
            self.out.push_back(out);
        }
    }

    pub(super) fn event(&mut self, event: LinkEvent) {
        if self.events.len() < MAX_QUEUED {
            self.events.push_back(event);
        }
    }

    /// A number nobody can guess who has not seen one of ours (SplitMix64).
    pub(super) const fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The number of the next question inside of the session.
    pub(super) const fn number(&mut self) -> u32 {
        // 0 is nobody's question.
        self.next_id = match self.next_id.wrapping_add(1) {
            0 => 1,
            next => next,
        };
        self.next_id
    }
}
