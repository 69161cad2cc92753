//! Relays of our own, each a process: the hub, and a reflector that only moves datagrams.
#![allow(
    clippy::print_stdout,
    reason = "who starts it reads where it is from standard output"
)]

use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use vpn_p2p::mesh::Identity;
use vpn_p2p::mesh::hub::{HubConfig, HubServer, Listen, Rate, TlsLimits};
use vpn_p2p::mesh::wire::Token;

use crate::Error;

/// What admits both ends to the hub.
pub(super) const TOKEN: &str = "bench";

/// Where their addresses are from.
pub(super) const NETWORK: &str = "10.77.0.0/24";

/// Bytes of one segmented send.
const MAX_RUN: usize = 65_000;

/// Runs as a relay until it is killed.
pub(crate) fn main(words: &[String]) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match words {
        [kind] if kind == "hub" => runtime.block_on(hub()),
        [kind, to] if kind == "reflector" => runtime.block_on(reflect(to.parse()?)),
        _ => Err("relay what?".into()),
    }
}

async fn hub() -> Result<(), Error> {
    let mut config = HubConfig {
        token: Some(Token(TOKEN.to_owned().into())),
        networks: vec![NETWORK.parse()?],
        ..HubConfig::default()
    };
    let all = Rate::new(1 << 40, 1 << 40);
    (config.limits.relay_bytes, config.limits.relay_packets) = (all, all);
    let listen = Listen::on(&["127.0.0.1:0".parse()?], false)?;
    let hub = HubServer::start(config, TlsLimits::default(), &Identity::generate()?, listen)?;
    let at = hub.local_addrs().first().ok_or("no address")?;
    println!("ready {at}");
    std::future::pending().await
}

/// What came in one batch goes on in one send, as far as its parts are equally long.
async fn reflect(to: SocketAddr) -> Result<(), Error> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let state = UdpSocketState::new((&socket).into())?;
    let _ = state.set_recv_buffer_size((&socket).into(), 4 << 20);
    let _ = state.set_send_buffer_size((&socket).into(), 4 << 20);
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    println!("ready {}", socket.local_addr()?);
    let mut buffers = vec![vec![0; 65_535]; BATCH_SIZE];
    let mut run = Vec::new();
    loop {
        socket.readable().await?;
        let mut meta = [RecvMeta::default(); BATCH_SIZE];
        let mut slices: Vec<IoSliceMut<'_>> =
            buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        let came = socket.try_io(Interest::READABLE, || {
            state.recv((&socket).into(), &mut slices, &mut meta)
        });
        drop(slices);
        let Ok(count) = came else { continue };
        let (mut segment, most) = (0, state.max_gso_segments());
        let send = |run: &mut Vec<u8>, segment: usize| {
            let transmit = Transmit {
                destination: to,
                ecn: None,
                contents: run,
                segment_size: (run.len() > segment).then_some(segment),
                src_ip: None,
            };
            // What there is no room for is lost, and counted at the end.
            let _ = state.try_send((&socket).into(), &transmit);
            run.clear();
        };
        for (meta, buffer) in meta.iter().zip(&buffers).take(count) {
            let whole = run.len() % segment.max(1) == 0;
            let fits = run.len() + meta.len <= MAX_RUN.min(most * segment);
            let goes_on = meta.stride == segment && whole && fits;
            if !goes_on && !run.is_empty() {
                send(&mut run, segment);
            }
            segment = meta.stride.max(1);
            run.extend_from_slice(&buffer[..meta.len]);
        }
        if !run.is_empty() {
            send(&mut run, segment);
        }
    }
}
