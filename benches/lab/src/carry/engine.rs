//! From TUN to TUN through an engine of ours, with connections and translation on. The far device
//! stands for a tunnel that takes super-packets whole.

use std::net::Ipv4Addr;
use std::sync::Arc;

use async_trait::async_trait;
use vpn_core::device::{DeviceError, TunDevice};
use vpn_core::{
    Action, Assigned, DropCounters, DropReason, PacketBatch, Rule, RuleId, RuleMatch, RuleSnapshot,
    StateSender, StateWatch, TransportCapabilities, TransportError, TransportState,
    TunnelTransport,
};
use vpn_routing::RouterConfig;
use vpn_routing::engine::Engine;
use vpn_routing::owner::MemoryOwners;
use vpn_routing::rules::{CompiledRules, RuleCache, Target};
use vpn_tun::LinuxTun;

use super::{DEVICE, Words, in_far, ready, tun};
use crate::Error;
use crate::ground::{ASSIGNED, MTU};

/// The far end's address behind tunnel number `tunnel` of several.
pub(crate) const fn behind(tunnel: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 79, tunnel, 1)
}

/// The far device of tunnel number `tunnel`.
pub(crate) fn far_device(tunnel: u8) -> String {
    match tunnel {
        0 => DEVICE.to_owned(),
        n => format!("tun{n}"),
    }
}

/// With `tunnels=N` each of N rules sends one destination into a tunnel of its own; the last one's
/// rule has the rest. All tunnels were assigned the same address, as providers do.
pub(super) async fn run(words: &Words) -> Result<(), Error> {
    let offload = words.offload();
    let count = words.get("tunnels").unwrap_or("1").parse::<u8>()?.max(1);
    let app = tun(DEVICE, offload)?;
    let far = in_far(words, move || {
        (0..count)
            .map(|number| tun(&far_device(number), offload))
            .collect::<Result<Vec<_>, _>>()
    })?;
    let rules = RuleCache::new();
    let owners = Arc::new(MemoryOwners::new());
    let mut engine = Engine::new(
        Arc::new(app),
        owners,
        rules.clone(),
        RouterConfig::default(),
    );
    let mut snapshot = Vec::new();
    let mut tunnels = Vec::new();
    for (number, device) in (0..count).zip(far) {
        let name = far_device(number);
        let meant = match number {
            0 => RuleMatch::default(),
            n => RuleMatch {
                destination: Some(ipnet::Ipv4Net::from(behind(n)).into()),
                ..RuleMatch::default()
            },
        };
        let id = RuleId(u64::from(number) + 1);
        snapshot.push(Rule::new(id, meant, Action::Tunnel(name.clone())));
        let tunnel = engine.add_tunnel(&name, Arc::new(Tunnel::new(device)))?;
        tunnels.push((name, tunnel));
    }
    let named = |name: &str| tunnels.iter().find(|(n, _)| n == name).map(|(_, id)| *id);
    let nowhere = Target::Block(DropReason::BlockedByDefault);
    rules.swap(CompiledRules::compile(
        &RuleSnapshot::from(snapshot),
        &named,
        nowhere,
    )?);
    ready()?;
    Ok(engine.run().await.map(drop)?)
}

/// A device behind the interface of a tunnel.
#[derive(Debug)]
struct Tunnel {
    device: LinuxTun,
    state: StateSender,
}

impl Tunnel {
    fn new(device: LinuxTun) -> Self {
        let state = StateSender::new();
        state.set(TransportState::Up(Arc::new(Assigned {
            addresses: vec![ipnet::Ipv4Net::from(ASSIGNED).into()],
            mtu: MTU,
            ..Assigned::default()
        })));
        Self { device, state }
    }
}

fn error(error: DeviceError) -> TransportError {
    match error {
        DeviceError::Io(error) => TransportError::Io(error),
        _ => TransportError::Closed,
    }
}

#[async_trait]
impl TunnelTransport for Tunnel {
    fn capabilities(&self) -> TransportCapabilities {
        let plain = TransportCapabilities::plain(MTU);
        match self.device.has_offload() {
            true => plain.with_offload(),
            false => plain,
        }
    }

    fn state(&self) -> StateWatch {
        self.state.watch()
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.device.try_recv(batch, drops).map_err(error)
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.device.try_send(batch, drops).map_err(error)
    }

    async fn readable(&self) -> Result<(), TransportError> {
        self.device.readable().await.map_err(error)
    }

    async fn writable(&self) -> Result<(), TransportError> {
        self.device.writable().await.map_err(error)
    }

    async fn close(&self) {
        self.state.set(TransportState::Closed);
    }
}
