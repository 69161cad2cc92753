//! Any split of the bytes decodes alike, and no bytes do harm.

use bytes::BytesMut;
use proptest::prelude::*;
use vpn_core::packet::Gso;
use vpn_core::{Offload, Packet};
use vpn_p2p::streams::frame::{
    Control, Encoded, Frame, FrameError, MAX_PACKET, Purpose, Session, StreamId, decode,
};

fn control() -> impl Strategy<Value = Control> {
    let stream = any::<u32>().prop_map(|n| StreamId::theirs(n.into()));
    prop_oneof![
        (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(session, number, probe)| {
            Control::Hello {
                session: Session(session),
                number,
                purpose: if probe { Purpose::Probe } else { Purpose::Data },
            }
        }),
        any::<u64>().prop_map(|session| Control::Welcome {
            session: Session(session)
        }),
        (any::<u64>(), any::<u64>()).prop_map(|(packets, bytes)| Control::Ack { packets, bytes }),
        stream.clone().prop_map(|stream| Control::Stop { stream }),
        (stream, any::<u64>()).prop_map(|(stream, packets)| Control::Stopped { stream, packets }),
        Just(Control::Bye),
        any::<u64>().prop_map(|number| Control::Ping { number }),
        any::<u64>().prop_map(|number| Control::Pong { number }),
    ]
}

#[derive(Clone, Debug)]
enum Sent {
    Packet(Vec<u8>, Offload, bool),
    Control(Control),
}

fn sent() -> impl Strategy<Value = Sent> {
    let bytes = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 1..200),
        1 => prop::collection::vec(any::<u8>(), 60_000..66_000)
            .prop_filter("too long", |bytes| bytes.len() <= MAX_PACKET),
    ];
    let offload = (any::<u16>(), any::<bool>()).prop_map(|(size, partial_checksum)| Offload {
        gso: (size > 0).then_some(Gso { size }),
        partial_checksum,
    });
    prop_oneof![
        (bytes, offload, any::<bool>()).prop_map(|(b, o, room)| Sent::Packet(b, o, room)),
        control().prop_map(Sent::Control),
    ]
}

fn encoded(sent: &Sent) -> Encoded {
    match sent {
        Sent::Packet(bytes, offload, true) => {
            Encoded::packet(Packet::from_slice(bytes).with_offload(*offload))
        }
        // Without room before it.
        Sent::Packet(bytes, offload, false) => {
            Encoded::packet(Packet::new(BytesMut::from(&bytes[..]), 0).with_offload(*offload))
        }
        Sent::Control(control) => Encoded::control(*control),
    }
}

/// As the other end names streams.
fn mirrored(control: Control) -> Control {
    match control {
        Control::Stop { stream } => Control::Stop {
            stream: stream.mirrored(),
        },
        Control::Stopped { stream, packets } => Control::Stopped {
            stream: stream.mirrored(),
            packets,
        },
        other => other,
    }
}

proptest! {
    /// Regressions S-6 and L-25: what a read yields is not a packet.
    #[test]
    fn s6_any_split_decodes_alike(
        frames in prop::collection::vec(sent(), 0..20),
        cuts in prop::collection::vec(1_usize..3000, 1..50),
    ) {
        let mut wire = Vec::new();
        for frame in &frames {
            let mut encoded = encoded(frame);
            // Written in parts as well.
            while !encoded.is_written() {
                let part = encoded.bytes().len().min(700);
                wire.extend_from_slice(&encoded.bytes()[..part]);
                encoded.advance(part);
            }
        }
        let (mut buffer, mut got, mut rest) = (BytesMut::new(), Vec::new(), &wire[..]);
        for &cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            buffer.extend_from_slice(now);
            rest = later;
            while let Some(frame) = decode(&mut buffer).unwrap() {
                got.push(frame);
            }
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(got.len(), frames.len());
        for (got, sent) in got.iter().zip(&frames) {
            match (got, sent) {
                (Frame::Packet(packet), Sent::Packet(bytes, offload, _)) => {
                    prop_assert_eq!(packet.bytes(), &bytes[..]);
                    prop_assert_eq!(packet.offload, *offload);
                }
                (Frame::Control(got), Sent::Control(sent)) => {
                    prop_assert_eq!(*got, mirrored(*sent));
                }
                _ => prop_assert!(false, "{got:?} for {sent:?}"),
            }
        }
    }

    /// Neither a panic, nor memory for what a header alone says.
    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = decode(&mut buffer) {}
        prop_assert!(buffer.capacity() <= 64);
    }
}

fn refused(bytes: &[u8]) -> FrameError {
    let mut buffer = BytesMut::from(bytes);
    let error = decode(&mut buffer).unwrap_err();
    assert_eq!(buffer, bytes, "an error takes nothing");
    error
}

#[test]
fn what_is_not_a_frame_is_told() {
    let get = *b"GET / HTTP/1.1\r\n";
    assert_eq!(refused(&get), FrameError::Kind(b'G'));
    let long = [0xd0, 0, 0, 0, 0, 1, 0, 0x28];
    let length = 65_576;
    assert_eq!(refused(&long), FrameError::Length { kind: 0xd0, length });
    let empty = [0xd0, 0, 0, 0, 0, 0, 0, 0];
    let none = FrameError::Length {
        kind: 0xd0,
        length: 0,
    };
    assert_eq!(refused(&empty), none);
    let super_of_nothing = [0xd0, 2, 0, 0, 0, 0, 0, 1];
    assert!(matches!(
        refused(&super_of_nothing),
        FrameError::Flags { flags: 2, .. }
    ));
    let mut newer = Encoded::control(Control::Welcome {
        session: Session(1),
    })
    .bytes()
    .to_vec();
    newer[9] = 2;
    assert_eq!(refused(&newer), FrameError::Version(2));
}
