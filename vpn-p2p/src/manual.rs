//! How-tos, tuning and troubleshooting. Directories, the mesh and libp2p have chapters of their own:
//! `manual::directories`, `manual::mesh`, `manual::libp2p`.
#![cfg_attr(
    feature = "wireguard",
    doc = r#"
# Connect to a provider

Give the file as it came. Show its warnings: what is not run or not taken over is listed there.

```no_run
use std::sync::Arc;
use vpn_core::{DropCounters, PacketBatch, TransportState, TunnelTransport, Underlay};
use vpn_p2p::{WgQuick, WireGuardOptions, WireGuardTransport};

async fn connect(underlay: Arc<dyn Underlay>) -> Result<(), Box<dyn std::error::Error>> {
    let config = WgQuick::read("uk.conf")?;
    for warning in &config.warnings {
        eprintln!("uk.conf: {warning}");
    }
    let tunnel = WireGuardTransport::new(config, underlay, WireGuardOptions::default())?;
    // An engine does this: reading is what completes the handshake.
    let mut batch = PacketBatch::new(PacketBatch::DEFAULT_CAPACITY, 1500);
    let mut drops = DropCounters::default();
    loop {
        tunnel.readable().await?;
        tunnel.try_recv(&mut batch, &mut drops)?;
        batch.clear();
        if let TransportState::Up(assigned) = tunnel.state().get() {
            println!("{:?}", assigned.addresses);
            break;
        }
    }
    tunnel.close().await;
    Ok(())
}
```

# Be the provider

A configuration whose peers have no `Endpoint` waits for them. Without `ListenPort` the system
chooses one; [`local_addrs`](crate::WireGuardTransport::local_addrs) tells it.

```no_run
use std::sync::Arc;
use vpn_core::Underlay;
use vpn_p2p::wg_quick::PrivateKey;
use vpn_p2p::{WgQuick, WireGuardOptions, WireGuardTransport};

fn serve(underlay: Arc<dyn Underlay>) -> Result<(), Box<dyn std::error::Error>> {
    let (server, client) = (PrivateKey::generate()?, PrivateKey::generate()?);
    let file = format!(
        "[Interface]\nPrivateKey = {}\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.5.0.2/32\n",
        *server.reveal_base64(),
        client.public(),
    );
    let config = WgQuick::parse("server", &file)?;
    let options = WireGuardOptions::default().local([127, 0, 0, 1].into());
    let server = WireGuardTransport::new(config, underlay, options)?;
    println!("listening on {:?}", server.local_addrs());
    Ok(())
}
```
"#
)]
//!
//! # What "up" and "down" mean
//!
//! *Up*: a peer proved that it has the keys. As initiator its handshake response is the proof, as
//! responder the first packet sealed with the new keys. *Down, no answer*: a handshake or data was
//! left unanswered for 15 s. An idle tunnel is not questioned: it stays up, as WireGuard is silent
//! when nobody talks; the next packet finds out. With `PersistentKeepalive` a dead peer is still
//! found only by data or the next re-keying, because keepalives are not answered.
//!
//! While down, the peer is approached at least every five seconds, with its name resolved anew and
//! from a new port, so a healed path is back in less than ten.
//!
//! # On demand
//!
//! `WireGuardOptions::on_demand` makes a tunnel that is *dormant* at first: no
//! socket, no handshake, no keepalive. The first packet wakes it, and waits until the handshake is
//! done; after a while without packets the tunnel rests again and forgets its session. A tunnel with a
//! peer that has no `Endpoint` never rests, for that peer could not find it.
//!
//! The time from handshake to response is the tunnel's round trip, smoothed; groups of tunnels
//! choose by it.
//!
//! # Several peers
//!
//! The longest matching `AllowedIPs` prefix decides which peer a packet goes to, and only that
//! peer may send from such an address. The same prefix in two peers is refused at parsing: in
//! `wg`, the later one would silently take it away. The tunnel is up while any peer is. Packets to
//! a peer without a session start its handshake and are dropped meanwhile, so that one dead peer
//! holds nobody up; a tunnel with one peer leaves them with the caller instead.
//!
//! # Tuning
//!
//! * The inner MTU is what the underlay knows of the path, minus 60 bytes over IPv4 or 80 over
//!   IPv6, and never more than the file's. Without one in the file, a path counts as 1500 bytes at
//!   most, and 1420 is taken where nothing is known. Where the path is the narrower of the two it
//!   is rounded down to a multiple of 16: a peer that knows nothing of it pads to that. Of several peers' paths the narrowest counts.
//!   It is measured again when a peer moves, when the system refuses a datagram as too big, and
//!   every five seconds; a new value is a new state `Up`.
//! * Datagrams of equal length leave in one system call where the kernel segments (GSO), and arrive
//!   in few where it coalesces (GRO). A device with offload gives long runs of equal packets.
//! * What a batch with room for super-packets receives is joined again: segments of a stream, and equal
//!   datagrams of a flow but those of DNS. A device without offload has no such batch.
//! * Sealing costs one allocation per packet, and three copies of it: the library wants to own both
//!   of its buffers. A segment is cut straight into the first. Measured, that is a sixth of the time that
//!   sealing 1,424 bytes takes, and a third for 96. Opening works in place.
//!
//! # Troubleshooting
//!
//! | What you see | Why, and what to do |
//! |---|---|
//! | `connecting`, then `down: the peer does not answer` | wrong key, wrong port, UDP blocked, or nobody calls `try_recv` |
//! | `down: the network refuses: cannot send to …` | no route, or a packet filter, refuses our own handshakes; tried again at least every five seconds |
//! | `down: the endpoint's name cannot be resolved` | the underlay's resolver is not reachable outside the tunnel |
//! | drops `address_not_allowed`, outbound | the destination is in no peer's `AllowedIPs` |
//! | drops `address_not_allowed`, inbound | the peer sends from a source it may not use |
//! | drops `not_authentic` | a replay, a wrong key, or noise on the port |
//! | drops `too_big` | larger than [the MTU](#tuning): the sender ignores it, or the path shrank |
//! | drops `no_session` | the tunnel is down, or another of several peers has no session yet |
//! | drops `refused` | the system would not send: no route, or a packet filter |
//! | `tx_lost` in the statistics grows | the socket was full, and then its network went: those packets count as sent |

#[cfg(feature = "directory")]
#[cfg_attr(docsrs, doc(cfg(feature = "directory")))]
pub mod directories;
#[cfg(feature = "libp2p")]
#[cfg_attr(docsrs, doc(cfg(feature = "libp2p")))]
pub mod libp2p;
#[cfg(feature = "mesh")]
#[cfg_attr(docsrs, doc(cfg(feature = "mesh")))]
pub mod mesh;
