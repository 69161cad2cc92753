//! Forwards between a TUN and an interface of another program, and looks at nothing: what an
//! attached tunnel costs before a router has done any work. `.ci/lab-openvpn` runs it beside the
//! daemon, which does the same reads and writes.
//!
//! `attached_null DEVICE INTERFACE ADDRESS/PREFIX` makes the TUN `DEVICE`, takes `INTERFACE` over, and
//! prints "ready". Which packets come its way is up to who routes them to `DEVICE`. It ends when it is
//! killed; `INTERFACE` has to go then, as its packet filter stays.
#![allow(clippy::print_stdout, reason = "it says when it is ready")]

#[cfg(target_os = "linux")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    use ipnet::IpNet;
    use vpn_core::{PacketBatch, TransportState, TunDevice as _, TunnelTransport as _};
    use vpn_tun::external::{ExternalConfig, ExternalTransport};
    use vpn_tun::{InterfaceName, LinuxTun, TunConfig};

    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("DEVICE INTERFACE ADDRESS/PREFIX");
    let (device, interface) = (InterfaceName::new(next()?)?, InterfaceName::new(next()?)?);
    let address: IpNet = next()?.parse()?;
    let device = LinuxTun::create(TunConfig::named(device).mtu(1500).offload(true))?;
    let tunnel = ExternalConfig::new(interface).addresses(vec![address]);
    let tunnel = ExternalTransport::start(tunnel);
    let mut state = tunnel.state();
    while !matches!(state.next().await, TransportState::Up(_)) {}
    println!("ready");

    let batch = || {
        let largest = device.capabilities().max_packet as usize;
        PacketBatch::new(PacketBatch::DEFAULT_CAPACITY, largest)
    };
    let out = async {
        let (mut batch, mut drops) = (batch(), vpn_core::DropCounters::default());
        loop {
            device.readable().await?;
            device.try_recv(&mut batch, &mut drops)?;
            while !batch.is_empty() {
                if tunnel.try_send(&mut batch, &mut drops)? == 0 && !batch.is_empty() {
                    tunnel.writable().await?;
                }
            }
            tokio::task::yield_now().await;
        }
    };
    let back = async {
        let (mut batch, mut drops) = (batch(), vpn_core::DropCounters::default());
        loop {
            tunnel.readable().await?;
            tunnel.try_recv(&mut batch, &mut drops)?;
            while !batch.is_empty() {
                if device.try_send(&mut batch, &mut drops)? == 0 && !batch.is_empty() {
                    device.writable().await?;
                }
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ended = out => ended,
        ended = back => ended,
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {}
