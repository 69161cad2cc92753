//! A tunnel that a native library runs: it gets one end of a socket pair, and each message is one IP
//! packet. Here the "library" is a thread whose far end echoes UDP datagrams.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;

use vpn_core::testing::build;
use vpn_core::{Assigned, DropCounters, Packet, PacketBatch, TunnelTransport};
use vpn_tun::external::NativeTransport;

/// What runs on the other side of a C interface, say: it reads a packet, and writes one.
fn library(end: &socket2::Socket) -> std::io::Result<()> {
    use std::io::Read as _;
    let mut bytes = [0; 1500];
    loop {
        let mut reader = end;
        let length = reader.read(&mut bytes)?;
        if length == 0 {
            return Ok(());
        }
        // IPv4 and UDP with the ends exchanged: the checksums stay right.
        let packet = &mut bytes[..length];
        for (one, other, length) in [(12, 16, 4), (20, 22, 2)] {
            for at in 0..length {
                packet.swap(one + at, other + at);
            }
        }
        end.send(packet)?;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    use socket2::{Domain, Socket, Type};
    // SEQPACKET: a message is a packet. A stream would join them, and is refused.
    let (ours, theirs) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None)?;
    let (tunnel, control) = NativeTransport::new(ours.into())?;
    let thread = std::thread::spawn(move || library(&theirs));

    // Once the library says that it is connected, and what it was assigned:
    control.up(Assigned {
        addresses: vec!["10.5.0.2/32".parse()?],
        mtu: 1400,
        ..Assigned::default()
    });
    let (mut batch, mut drops) = (PacketBatch::new(8, 1500), DropCounters::default());
    for text in ["one", "two", "three"] {
        let packet = build::udp("10.5.0.2:4000", "203.0.113.10:7", text.as_bytes());
        let _ = batch.push(Packet::from_slice(&packet));
    }
    tunnel.writable().await?;
    let sent = tunnel.try_send(&mut batch, &mut drops)?;
    let mut answers = 0;
    while answers < sent {
        tunnel.readable().await?;
        tunnel.try_recv(&mut batch, &mut drops)?;
        for packet in batch.packets() {
            println!("back: {}", String::from_utf8_lossy(&packet.bytes()[28..]));
            answers += 1;
        }
        batch.recycle_front(batch.len());
    }
    tunnel.close().await;
    // Our end is closed with the transport, and that ends the library.
    drop(tunnel);
    let ended = thread.join().map_err(|_| "the library failed")?;
    println!("{sent} sent, {answers} back; the library ended: {ended:?}");
    Ok(())
}
