//! Somebody who never stops sending, and somebody on the uplink who writes down what gets there.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests are no tests to the lint

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Result, in_namespace};
use rtnetlink::Handle;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use vpn_core::{InterfacePlan, TunDevice};
use vpn_tun::{Applier, CaptureConfig, LinuxTun, OnExit, TunConfig, TunError};

const V4: &str = "203.0.113.10:80";
const V6: &str = "[2001:db8:ffff::10]:80";
const HOLDER: &str = "VPN_TUN_HOLDER";
/// Longer than any machine of ours needs; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// Four kinds of senders: both families, connected (which caches a route) or not.
const KINDS: usize = 4;

/// Sends numbered datagrams without a mark, as fast as it may, in a thread of this namespace.
struct Sender {
    number: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    fn start() -> Result<Self> {
        let mut sockets = Vec::new();
        for connected in [false, true] {
            for (bind, to) in [("0.0.0.0:0", V4), ("[::]:0", V6)] {
                let socket = UdpSocket::bind(bind)?;
                socket.set_nonblocking(true)?;
                let to: SocketAddr = to.parse()?;
                if connected {
                    socket.connect(to)?;
                }
                sockets.push((socket, (!connected).then_some(to)));
            }
        }
        let (number, stop) = (
            Arc::new(AtomicU32::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (numbers, stopped) = (number.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let number = numbers.fetch_add(1, Ordering::SeqCst).to_be_bytes();
                for (kind, (socket, to)) in sockets.iter().enumerate() {
                    let text = [&number[..], &[kind as u8]].concat();
                    // Blocked is what we want; the watcher judges.
                    let _ = match to {
                        Some(to) => socket.send_to(&text, to),
                        None => socket.send(&text),
                    };
                }
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        Ok(Self {
            number,
            stop,
            thread: Some(thread),
        })
    }

    /// Every later datagram has at least this number.
    fn now(&self) -> u32 {
        self.number.load(Ordering::SeqCst)
    }

    /// Every datagram with a smaller number has been sent, or blocked; the last one taken may
    /// still be on its way.
    fn done(&self) -> u32 {
        self.now().saturating_sub(1)
    }

    /// Waits until so many more rounds were sent.
    async fn rounds(&self, count: u32) {
        let goal = self.now() + count;
        let start = Instant::now();
        while self.now() < goal {
            assert!(start.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Writes down the numbers of the datagrams that got to the uplink, by kind.
struct Watcher {
    seen: Arc<Mutex<[BTreeSet<u32>; KINDS]>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    fn start() -> Result<Self> {
        const ETH_P_ALL: u16 = 3;
        let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
        socket.set_recv_buffer_size(16 * 1024 * 1024)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let seen: Arc<Mutex<[BTreeSet<u32>; KINDS]>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (sets, stopped) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut frame = [0; 2048];
            loop {
                match std::io::Read::read(&mut &socket, &mut frame) {
                    Ok(length) => {
                        if let Some((number, kind)) = leaked(&frame[..length]) {
                            sets.lock().unwrap()[kind].insert(number);
                        }
                    }
                    Err(_) if stopped.load(Ordering::Relaxed) => break,
                    Err(_) => {}
                }
            }
        });
        Ok(Self {
            seen,
            stop,
            thread: Some(thread),
        })
    }

    /// Waits until something of every kind got through: a link that just came up loses some.
    async fn awake(&self) {
        let start = Instant::now();
        while self.seen().iter().any(BTreeSet::is_empty) {
            assert!(start.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn seen(&self) -> [BTreeSet<u32>; KINDS] {
        self.seen.lock().unwrap().clone()
    }

    /// Ends, after everything that had arrived was read.
    fn finish(mut self) -> [BTreeSet<u32>; KINDS] {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
        self.seen()
    }
}

/// Number and kind of one of our datagrams in an Ethernet frame. What the TUN shows has no
/// Ethernet header and is not meant.
fn leaked(frame: &[u8]) -> Option<(u32, usize)> {
    let payload = match frame.get(12..15)? {
        [0x08, 0x00, 0x45] if frame.get(30..34)? == [203, 0, 113, 10] => frame.get(42..47)?,
        [0x86, 0xdd, v] if v >> 4 == 6 => {
            let to = SocketAddr::from((<[u8; 16]>::try_from(frame.get(38..54)?).ok()?, 80));
            if to != V6.parse().ok()? {
                return None;
            }
            frame.get(62..67)?
        }
        _ => return None,
    };
    let number = u32::from_be_bytes(*payload.first_chunk()?);
    Some((number, usize::from(payload[4])))
}

/// Without these the uplink would ask for its neighbours first, and again later.
async fn neighbours(netlink: &Handle) -> Result<()> {
    let up = common::uplink(netlink).await?;
    for to in ["203.0.113.10", "2001:db8:ffff::10"] {
        let to: IpAddr = to.parse()?;
        let entry = netlink.neighbours().add(up, to);
        entry
            .link_layer_address(&[2, 0, 0, 0, 0, 1])
            .execute()
            .await?;
    }
    Ok(())
}

fn plan() -> InterfacePlan {
    InterfacePlan {
        addresses: ["10.5.0.2/16", "fd00:5::2/64"]
            .map(|a| a.parse().unwrap())
            .into(),
        mtu: 1380,
        ..InterfacePlan::default()
    }
}

async fn captured() -> Result<(LinuxTun, Applier)> {
    // A test beside this one may have forked: until its child execs, the former descriptor lives.
    let start = Instant::now();
    let tun = loop {
        match LinuxTun::create(TunConfig::named("vpn0".parse()?)) {
            Err(TunError::NameInUse(_)) if start.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            result => break result?,
        }
    };
    let mut applier = Applier::new(tun.name(), Some(CaptureConfig::default()))?;
    applier.engage().await?;
    applier.apply(&plan()).await?;
    Ok((tun, applier))
}

/// What was seen until a moment is everything that was sent, in one piece; after it, nothing.
fn ends_in_one_cut(seen: &[BTreeSet<u32>; KINDS], first: u32, before: u32) {
    for (kind, numbers) in seen.iter().enumerate() {
        let numbers: Vec<u32> = numbers.iter().copied().filter(|n| *n >= first).collect();
        assert!(!numbers.is_empty(), "kind {kind}: nothing was ever seen");
        let last = numbers[numbers.len() - 1];
        assert!(last < before, "kind {kind}: {last} after {before}");
        assert_eq!(
            numbers.len() as u32,
            last - numbers[0] + 1,
            "kind {kind}: got through between two steps"
        );
    }
}

/// N-12: promise of the capture's order: former routes, then blackhole or device, never back.
#[test]
fn engaging_cuts_once_and_for_good() {
    in_namespace(|| async {
        let netlink = common::netlink();
        neighbours(&netlink).await?;
        for round in 0..5 {
            let watcher = Watcher::start()?;
            let sender = Sender::start()?;
            watcher.awake().await;
            sender.rounds(200).await;
            let (tun, mut applier) = captured().await?;
            let engaged = sender.now();
            sender.rounds(300).await;
            // Other plans, the device's end and a second start open nothing either.
            applier
                .apply(&InterfacePlan {
                    mtu: 1300,
                    ..InterfacePlan::default()
                })
                .await?;
            sender.rounds(100).await;
            tun.shutdown();
            drop((tun, applier));
            sender.rounds(100).await;
            let (tun, mut applier) = captured().await?;
            sender.rounds(100).await;
            applier.disengage(OnExit::Block).await?;
            drop((tun, applier));
            sender.rounds(100).await;
            let seen = watcher.seen();
            let cut = sender.done();
            Applier::remove_leftovers(&CaptureConfig::default(), None).await?;
            drop(sender);
            println!(
                "round {round}: {:?} datagrams before, {} rounds blocked",
                seen.each_ref().map(BTreeSet::len),
                cut - engaged
            );
            let all = watcher
                .finish()
                .map(|numbers| numbers.range(..cut).copied().collect());
            ends_in_one_cut(&all, 0, engaged);
        }
        Ok(())
    });
}

/// Run by the test below in a process of its own, which is then killed.
#[test]
fn holder() {
    if std::env::var_os(HOLDER).is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let _held = captured().await.unwrap();
        println!("captured");
        std::future::pending::<()>().await;
    });
}

struct Holder(Child);

impl Holder {
    fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--exact", "holder", "--nocapture"])
            .env(HOLDER, "1")
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no output")?;
        let holder = Self(child);
        let mut lines = BufReader::new(stdout).lines();
        while !lines
            .next()
            .ok_or("the holder ended")??
            .ends_with("captured")
        {}
        Ok(holder)
    }

    fn kill(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_process_leaves_the_block_and_the_next_takes_over_without_a_gap() {
    in_namespace(|| async {
        let netlink = common::netlink();
        neighbours(&netlink).await?;
        let watcher = Watcher::start()?;
        let sender = Sender::start()?;
        watcher.awake().await;
        sender.rounds(100).await;
        let holder = Holder::start()?;
        let engaged = sender.now();
        sender.rounds(100).await;
        holder.kill()?;
        common::gone(&netlink, "vpn0").await?;
        sender.rounds(200).await;
        for (mark, to) in [(None, V4), (None, V6)] {
            assert!(common::lookup(mark, to).is_err(), "{to}");
        }
        let second = Holder::start()?;
        sender.rounds(100).await;
        second.kill()?;
        let (tun, mut applier) = captured().await?;
        sender.rounds(100).await;
        let cut = sender.done();
        applier.disengage(OnExit::Open).await?;
        drop((tun, applier));
        // Open again, and seen again: the watcher was awake all the time.
        sender.rounds(100).await;
        drop(sender);
        let seen = watcher.finish();
        for numbers in &seen {
            assert!(numbers.range(cut..).next().is_some());
        }
        let until = seen.map(|numbers| numbers.range(..cut).copied().collect());
        ends_in_one_cut(&until, 0, engaged);
        Ok(())
    });
}

/// R19 of IPv4, written down: a socket bound to the uplink gets past every routing rule.
#[test]
fn the_watcher_can_see_a_leak() {
    in_namespace(|| async {
        let netlink = common::netlink();
        neighbours(&netlink).await?;
        let watcher = Watcher::start()?;
        let (_tun, _applier) = captured().await?;
        let bound = UdpSocket::bind("0.0.0.0:0")?;
        socket2::SockRef::from(&bound).bind_device(Some(b"up0"))?;
        let start = Instant::now();
        while watcher.seen()[0].is_empty() {
            // Again and again: a link that just came up loses the first ones.
            bound.send_to(&[0, 0, 0, 9, 0], V4)?;
            assert!(start.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let to: SockAddr = V4.parse::<SocketAddr>()?.into();
        let marked = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        marked.set_mark(vpn_tun::apply::DEFAULT_MARK)?;
        while watcher.seen()[0].len() < 2 {
            marked.send_to(&[0, 0, 0, 10, 0], &to)?;
            assert!(start.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    });
}
