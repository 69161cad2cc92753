//! What is in memory keeps every contract.

use async_trait::async_trait;
use tokio::sync::{Mutex, watch};
use vpn_core::owner::NoOwners;
use vpn_core::rule::{RuleSnapshot, RuleSourceError};
use vpn_core::testing::conformance::*;
use vpn_core::testing::{
    AppSide, FarSide, MemoryDevice, MemoryDirectory, MemoryTransport, PcapTap, VirtualClock,
    memory_device, memory_transport,
};
use vpn_core::{
    Assigned, FlowKey, Owner, OwnerDetail, OwnerQuery, OwnerResolver, PeerDirectory, Protocol,
    Rule, RuleSource, TunDevice, TunnelTransport,
};

/// Packets each direction holds: fewer than the suites send when they fill it, more than they
/// send at once.
const CAPACITY: usize = 16;

#[derive(Debug)]
pub(crate) struct Device {
    device: MemoryDevice,
    pub(crate) apps: AppSide,
}

impl Device {
    pub(crate) fn new() -> Self {
        let (device, apps) = memory_device(CAPACITY, 1500);
        Self { device, apps }
    }
}

#[async_trait]
impl FarEnd for Device {
    async fn send(&self, number: u16) {
        self.apps.inject(&numbered(number)).unwrap();
    }
    async fn receive(&self) -> u16 {
        let packet = self.apps.take_wait().await.unwrap();
        self.number(packet.bytes()).unwrap()
    }
}

impl DeviceFixture for Device {
    fn device(&self) -> &dyn TunDevice {
        &self.device
    }
}

#[derive(Debug)]
pub(crate) struct Tunnel {
    transport: MemoryTransport,
    pub(crate) far: FarSide,
}

impl Tunnel {
    pub(crate) fn new() -> Self {
        let (transport, far) = memory_transport(CAPACITY, 1420);
        Self { transport, far }
    }
}

#[async_trait]
impl FarEnd for Tunnel {
    async fn send(&self, number: u16) {
        self.far.inject(&numbered(number)).unwrap();
    }
    async fn receive(&self) -> u16 {
        let packet = self.far.take_wait().await.unwrap();
        self.number(packet.bytes()).unwrap()
    }
}

#[async_trait]
impl TransportFixture for Tunnel {
    fn transport(&self) -> &dyn TunnelTransport {
        &self.transport
    }
    async fn answer(&self) {
        self.far.up(Assigned {
            addresses: vec!["10.5.0.2/32".parse().unwrap()],
            mtu: 1420,
            ..Assigned::default()
        });
    }
}

/// Rules that a program hands over; `None` stands for a store that cannot be read.
#[derive(Debug)]
pub(crate) struct FromHost {
    pub(crate) host: watch::Sender<Option<Vec<Rule>>>,
    seen: Mutex<watch::Receiver<Option<Vec<Rule>>>>,
}

impl FromHost {
    pub(crate) fn new() -> Self {
        let host = watch::Sender::new(Some(Vec::new()));
        let seen = Mutex::new(host.subscribe());
        Self { host, seen }
    }
}

#[async_trait]
impl RuleSource for FromHost {
    async fn load(&self) -> Result<RuleSnapshot, RuleSourceError> {
        let rules = self.seen.lock().await.borrow_and_update().clone();
        rules
            .map(RuleSnapshot::from)
            .ok_or_else(|| RuleSourceError::Invalid {
                place: "the host".to_owned(),
                entry: "its rules".to_owned(),
                problem: "they cannot be read".to_owned(),
            })
    }
    async fn changed(&self) {
        let _ = self.seen.lock().await.changed().await;
    }
}

#[async_trait]
impl RuleFixture for FromHost {
    fn source(&self) -> &dyn RuleSource {
        self
    }
    async fn set(&self, rules: &[Rule]) -> bool {
        self.host.send_replace(Some(rules.to_vec()));
        true
    }
    async fn damage(&self) -> bool {
        self.host.send_replace(None);
        true
    }
}

struct Directory(MemoryDirectory);

impl DirectoryFixture for Directory {
    fn directory(&self) -> &dyn PeerDirectory {
        &self.0
    }
}

pub(crate) fn query(port: u16) -> OwnerQuery {
    OwnerQuery {
        flow: FlowKey::new(
            Protocol::UDP,
            ([10, 5, 0, 2].into(), port),
            ([203, 0, 113, 10].into(), 53),
        ),
        detail: OwnerDetail::Uid,
    }
}

struct Nobody(NoOwners);

impl OwnerFixture for Nobody {
    fn resolver(&self) -> &dyn OwnerResolver {
        &self.0
    }
    fn known(&self) -> Vec<(OwnerQuery, Owner)> {
        Vec::new()
    }
    fn unknown(&self) -> Vec<OwnerQuery> {
        vec![query(1), query(2)]
    }
}

#[tokio::test]
async fn a_device_in_memory_conforms() {
    tun_device(async || Device::new()).await.unwrap();
}

#[tokio::test]
async fn a_transport_in_memory_conforms() {
    tunnel_transport(async || Tunnel::new()).await.unwrap();
}

#[tokio::test]
async fn rules_in_memory_conform() {
    rule_source(async || FromHost::new()).await.unwrap();
}

#[tokio::test]
async fn a_directory_in_memory_conforms() {
    let make = async || Directory(MemoryDirectory::new());
    peer_directory(make).await.unwrap();
}

#[tokio::test]
async fn a_resolver_that_knows_nobody_conforms() {
    owner_resolver(async || Nobody(NoOwners)).await.unwrap();
}

/// What wraps a device or a transport is one.
struct Wrapped<T, F> {
    outer: T,
    far: F,
}

#[async_trait]
impl<T: Send + Sync> FarEnd for Wrapped<T, AppSide> {
    async fn send(&self, number: u16) {
        self.far.inject(&numbered(number)).unwrap();
    }
    async fn receive(&self) -> u16 {
        let packet = self.far.take_wait().await.unwrap();
        self.number(packet.bytes()).unwrap()
    }
}

impl<T: TunDevice> DeviceFixture for Wrapped<T, AppSide> {
    fn device(&self) -> &dyn TunDevice {
        &self.outer
    }
}

#[tokio::test]
async fn a_capture_around_a_device_conforms() {
    let make = async || {
        let (device, far) = memory_device(CAPACITY, 1500);
        let outer = PcapTap::new(device, VirtualClock::new(), Vec::new());
        Wrapped { outer, far }
    };
    tun_device(make).await.unwrap();
}
