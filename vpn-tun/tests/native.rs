//! A native library's tunnel: the contract of a transport over a socket pair, boundaries of
//! messages, descriptors that are closed once.
#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, reason = "a failing test says so")]

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use async_trait::async_trait;
use socket2::{Domain, Socket, Type};
use tokio::net::UnixDatagram;
use tokio::sync::Mutex;
use vpn_core::packet::{Packet, PacketBatch};
use vpn_core::testing::conformance::{
    FarEnd, TransportFixture, number_of, numbered, tunnel_transport,
};
use vpn_core::{
    Assigned, DropCounters, DropReason, TransportError, TransportState, TunnelTransport,
};
use vpn_tun::external::{NativeControl, NativeTransport};

fn pair(kind: Type) -> (NativeTransport, NativeControl, Socket) {
    let (ours, theirs) = Socket::pair(Domain::UNIX, kind, None).expect("a pair");
    let (transport, control) = NativeTransport::new(ours.into()).expect("a transport");
    theirs.set_nonblocking(true).expect("set");
    (transport, control, theirs)
}

fn assigned() -> Assigned {
    Assigned {
        addresses: vec!["10.5.0.2/32".parse().expect("an address")],
        mtu: 1400,
        ..Assigned::default()
    }
}

fn batch() -> PacketBatch {
    PacketBatch::new(64, 1600)
}

struct Fixture {
    transport: NativeTransport,
    control: NativeControl,
    /// tokio has no SEQPACKET of its own; the calls are the same.
    library: Mutex<UnixDatagram>,
}

#[async_trait]
impl FarEnd for Fixture {
    async fn send(&self, number: u16) {
        let library = self.library.lock().await;
        library.send(&numbered(number)).await.expect("sent");
    }

    async fn receive(&self) -> u16 {
        let mut bytes = [0; 2048];
        let library = self.library.lock().await;
        let length = library.recv(&mut bytes).await.expect("received");
        number_of(&bytes[..length]).expect("a number")
    }
}

#[async_trait]
impl TransportFixture for Fixture {
    fn transport(&self) -> &dyn TunnelTransport {
        &self.transport
    }

    async fn answer(&self) {
        self.control.up(assigned());
    }
}

/// N-17: a descriptor without packets, or without room, is no error: it is waited for.
#[tokio::test]
async fn a_native_transport_conforms() {
    for kind in [Type::SEQPACKET, Type::DGRAM] {
        let make = async || {
            let (transport, control, theirs) = pair(kind);
            let library: std::os::unix::net::UnixDatagram = OwnedFd::from(theirs).into();
            let library = Mutex::new(UnixDatagram::from_std(library).expect("watched"));
            Fixture {
                transport,
                control,
                library,
            }
        };
        tunnel_transport(make).await.expect("kept");
    }
}

#[tokio::test]
async fn a_message_is_a_packet_whatever_its_length() {
    let (transport, control, theirs) = pair(Type::SEQPACKET);
    control.up(assigned());
    let lengths = [20, 1, 1400, 577, 1600, 1601, 20];
    for length in lengths {
        theirs.send(&vec![0x45; length]).expect("sent");
    }
    let (mut batch, mut drops) = (batch(), DropCounters::default());
    transport.readable().await.expect("packets");
    transport.try_recv(&mut batch, &mut drops).expect("open");
    let seen: Vec<usize> = batch
        .packets()
        .iter()
        .map(|packet| packet.bytes().len())
        .collect();
    assert_eq!(seen, [20, 1, 1400, 577, 1600, 20]);
    assert_eq!(drops.get(DropReason::TooBig), 1, "larger than a buffer");
}

/// A stream would join packets, and what is no socket has no messages.
#[tokio::test]
async fn what_does_not_keep_packets_apart_is_refused() {
    let (stream, _other) = Socket::pair(Domain::UNIX, Type::STREAM, None).expect("a pair");
    let error = NativeTransport::new(stream.into()).expect_err("a stream");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    let file = std::fs::File::open("/dev/null").expect("a file");
    NativeTransport::new(file.into()).expect_err("no socket");
}

/// N-18: the library's end is the end of the tunnel, and ours is closed on exec and exactly once.
#[tokio::test]
async fn ends() {
    let (ours, theirs) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).expect("a pair");
    ours.set_cloexec(false).expect("set");
    let number = ours.as_raw_fd();
    let (transport, control) = NativeTransport::new(ours.into()).expect("a transport");
    let flags = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).expect("flags");
    let flags = flags.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = u32::from_str_radix(flags.expect("flags").trim(), 8).expect("octal");
    assert_ne!(flags & libc::O_CLOEXEC as u32, 0, "closed on exec");
    control.up(assigned());
    let mut state = transport.state();
    assert!(matches!(state.next().await, TransportState::Up(_)));
    drop(theirs);
    transport.readable().await.expect("news");
    let (mut batch, mut drops) = (batch(), DropCounters::default());
    assert_eq!(transport.try_recv(&mut batch, &mut drops).expect("open"), 0);
    assert!(matches!(state.next().await, TransportState::Down(_)));
    assert!(batch.push(Packet::from_slice(&numbered(1))).is_ok());
    assert_eq!(transport.try_send(&mut batch, &mut drops).expect("open"), 0);
    assert_eq!((batch.len(), drops.total()), (0, 1), "counted");
    let transport = Arc::new(transport);
    transport.close().await;
    let closed = transport.try_recv(&mut batch, &mut drops);
    assert!(matches!(closed, Err(TransportError::Closed)));
    drop(control);
    assert_eq!(state.next().await, TransportState::Closed);
}
