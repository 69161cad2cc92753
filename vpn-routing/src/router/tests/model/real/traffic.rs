//! The packets of a transition: made, and handed to the router from the side they come from.

use super::*;

impl Real {
    pub(super) fn send(&mut self, oracle: &Oracle, port: u8, kind: Kind, to: To) {
        let (src, dst) = ends(port, to);
        // A socket starts with a SYN, but for those older than the router.
        let taken = oracle.holder(port).from;
        let older = self.sent.iter().rfind(|s| {
            let f = s.flow;
            f.protocol() == Protocol::TCP
                && (f.src(), f.src_port()) == src
                && (f.dst(), f.dst_port()) == dst
        });
        let kind = match kind {
            Kind::Ack | Kind::Fin | Kind::Rst if older.is_some_and(|s| s.step < taken) => Kind::Syn,
            kind => kind,
        };
        let number = self.sent.len() as u32;
        let payload = number.to_be_bytes();
        let tcp = |flags| build::tcp(src, dst, flags, 1, &payload);
        let mut asks = None;
        let bytes = match (kind, to) {
            (Kind::Udp, To::Resolver(name)) => {
                asks = Some(name);
                build::udp(
                    src,
                    dst,
                    &[question(number, name), payload.to_vec()].concat(),
                )
            }
            (Kind::Udp, _) => build::udp(src, dst, &payload),
            (Kind::Syn, _) => tcp(tcp_flags::SYN),
            (Kind::Ack, _) => tcp(tcp_flags::ACK),
            (Kind::Fin, _) => tcp(tcp_flags::FIN | tcp_flags::ACK),
            (Kind::Rst, _) => tcp(tcp_flags::RST),
            (Kind::Echo, _) => {
                build::icmp_echo(src.0, dst.0, build::Echo::Request, src.1, 1, &payload)
            }
        };
        let flow = self.enter(oracle, bytes.clone(), kind == Kind::Syn, asks);
        let before = self.router.accounts();
        self.at_device(oracle, &[bytes]);
        self.settle(oracle);
        if before.held == 0 {
            self.check_nothing_lost(oracle, port, &flow, asks, &before.drops);
        }
    }

    fn enter(&mut self, oracle: &Oracle, bytes: Vec<u8>, syn: bool, asks: Option<u8>) -> FlowKey {
        let flow = Packet::from_slice(&bytes).parse().unwrap().flow;
        self.sent.push(Sent {
            flow,
            step: oracle.step,
            bytes,
            new_connection: syn,
            asks,
        });
        flow
    }

    fn at_device(&mut self, oracle: &Oracle, packets: &[Vec<u8>]) {
        let mut batch = PacketBatch::new(packets.len().max(1), 1600);
        for bytes in packets {
            batch.push(Packet::from_slice(bytes)).unwrap();
        }
        let now = self.now(oracle);
        self.router.handle_device(now, &mut batch);
        assert!(batch.is_empty());
    }

    /// What comes out at the device for one packet from a tunnel.
    fn at_tunnel(&mut self, oracle: &Oracle, tunnel: u8, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut batch = PacketBatch::new(1, 1600);
        batch.push(Packet::from_slice(bytes)).unwrap();
        let (now, id) = (self.now(oracle), self.ids[usize::from(tunnel)]);
        self.router.handle_tunnel(now, id, &mut batch);
        assert!(batch.is_empty());
        self.take_device()
    }

    pub(in super::super) fn take_device(&mut self) -> Vec<Vec<u8>> {
        let mut taken = Vec::new();
        loop {
            let before = taken.len();
            let _ = self.router.transmit::<()>(Egress::Device, |queue, _| {
                taken.extend(queue.packets().iter().map(|p| p.bytes().to_vec()));
                queue.clear();
                Ok(taken.len() - before)
            });
            // Each worker has a queue.
            if taken.len() == before {
                return taken;
            }
        }
    }

    /// A datagram of four pieces or five. Its payload is its number again and again, so that each
    /// piece ends with it.
    pub(super) fn fragments(
        &mut self,
        oracle: &Oracle,
        port: u8,
        to: To,
        first: usize,
        backwards: bool,
    ) {
        let (src, dst) = ends(port, to);
        let number = self.sent.len() as u32;
        let bytes = build::udp(src, dst, &number.to_be_bytes().repeat(32));
        let flow = self.enter(oracle, bytes.clone(), false, None);
        let before = self.router.accounts();
        let mtu = if src.0.is_ipv4() { 60 } else { 88 };
        // One sender's identifications differ; those of two may be the same.
        let ids = self.fragment_ids.entry(src.0).or_default();
        *ids += 1;
        let mut pieces = build::fragments(&bytes, mtu, *ids);
        let count = pieces.len();
        pieces.rotate_left(first % count);
        if backwards {
            pieces.reverse();
        }
        for piece in pieces {
            self.at_device(oracle, &[piece]);
            self.settle(oracle);
        }
        // A resolver gets queries only, and whole.
        if matches!(to, To::Resolver(_)) {
            self.in_pieces.insert(flow);
        } else if before.held == 0 {
            self.check_nothing_lost(oracle, port, &flow, None, &before.drops);
        }
    }

    pub(super) fn noise(&mut self, oracle: &Oracle, bytes: &[u8], tunnel: Option<u8>) {
        let mut bytes = bytes.to_vec();
        if let Some(first) = bytes.first_mut() {
            *first = if *first & 1 == 0 { 0x45 } else { 0x60 };
        }
        // Not by chance somebody's flow: the oracle would not know it.
        if Packet::from_slice(&bytes)
            .parse()
            .is_ok_and(|p| !p.first_fragment)
        {
            return;
        }
        match tunnel {
            None => self.at_device(oracle, &[bytes]),
            Some(tunnel) => {
                let out = self.at_tunnel(oracle, tunnel, &bytes);
                assert!(out.is_empty(), "noise was delivered: {out:?}");
            }
        }
    }

    /// A packet that came through a tunnel is answered by its far end, or by another tunnel.
    pub(super) fn reply(&mut self, oracle: &Oracle, which: u16, wrong: bool, kind: u8) {
        let Some(came) = self.pick(which) else { return };
        let via = if wrong {
            (came.tunnel + 1) % TUNNELS
        } else {
            came.tunnel
        };
        let back = came.wire.reversed();
        let (src, dst) = ((back.src(), back.src_port()), (back.dst(), back.dst_port()));
        let ack = tcp_flags::ACK;
        let flags = [
            tcp_flags::SYN | ack,
            ack,
            ack | tcp_flags::FIN,
            tcp_flags::RST,
        ];
        let payload = came.sent.to_be_bytes();
        let asks = self.sent[came.sent as usize].asks;
        let bytes = match (came.wire.protocol(), asks) {
            (Protocol::UDP, Some(name)) => {
                let address =
                    [super::super::super::world::SITE, "203.0.113.99"][usize::from(kind % 2)];
                let name = NAMES[usize::from(name)];
                let says = Says::Address(name, address, 60);
                let message = answer(came.sent as u16, name, 1, &[says]);
                build::udp(src, dst, &message)
            }
            (Protocol::UDP, None) => build::udp(src, dst, &payload),
            (Protocol::TCP, _) => build::tcp(src, dst, flags[usize::from(kind)], 1, &payload),
            _ => build::icmp_echo(src.0, dst.0, build::Echo::Reply, dst.1, 1, &payload),
        };
        let out = self.at_tunnel(oracle, via, &bytes);
        self.check_delivered(oracle, &came, via, kind, &bytes, out);
    }

    pub(super) fn error_in(&mut self, oracle: &Oracle, which: u16, wrong: bool) {
        let Some(came) = self.pick(which) else { return };
        let via = if wrong {
            (came.tunnel + 1) % TUNNELS
        } else {
            came.tunnel
        };
        let source = came.wire.src();
        let v6 = source.is_ipv6();
        let (kind, code) = if v6 { (1, 0) } else { (3, 1) };
        let bytes = build::icmp(
            addr(HOP[usize::from(v6)]),
            source,
            kind,
            code,
            0,
            &came.bytes,
        );
        let out = self.at_tunnel(oracle, via, &bytes);
        self.check_error_delivered(&came, via, out);
    }

    pub(super) fn error_out(&mut self, oracle: &Oracle, which: u16) {
        if self.delivered.is_empty() {
            return;
        }
        let at = usize::from(which) % self.delivered.len();
        let quoted = self.delivered[at].bytes.clone();
        let flow = Packet::from_slice(&quoted).parse().unwrap().flow;
        let (kind, code) = if flow.src().is_ipv6() { (1, 4) } else { (3, 3) };
        let bytes = build::icmp(flow.dst(), flow.src(), kind, code, 0, &quoted);
        self.at_device(oracle, &[bytes]);
    }

    fn pick(&self, which: u16) -> Option<Came> {
        let count = self.came.len().max(1);
        self.came.get(usize::from(which) % count).cloned()
    }
}
