//! The core against a fake session, on invented time.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;

/// Says in the clear what it is told to: `seal` prefixes a data header with the index, `open`
/// strips it.
#[derive(Debug, Default)]
struct Script {
    ready: bool,
    ticks: VecDeque<Ticked>,
    reject: bool,
}

#[derive(Debug)]
struct FakeSession {
    script: Arc<Mutex<Script>>,
    next_index: Arc<AtomicU32>,
}

const DATA_HEADER: usize = 16;

impl Session for FakeSession {
    fn seal(&mut self, plain: BytesMut, out: &mut Vec<u8>) -> bool {
        let ready = self.script.lock().unwrap().ready;
        if ready {
            out.extend_from_slice(&plain);
        }
        ready
    }

    fn open(&mut self, mut datagram: BytesMut) -> Opened {
        let mut script = self.script.lock().unwrap();
        if script.reject {
            return Opened::Rejected(DropReason::NotAuthentic);
        }
        script.ready = true;
        let packet = datagram.split_off(DATA_HEADER);
        if packet.iter().all(|byte| *byte == 0) {
            Opened::Keepalive
        } else {
            Opened::Packet(packet)
        }
    }

    fn forget(&mut self) {
        self.script.lock().unwrap().ready = false;
    }

    fn initiate(&mut self, _: bool) -> Option<BytesMut> {
        let index = self.next_index.fetch_add(1, Ordering::Relaxed);
        let mut message = BytesMut::from(&[1, 0, 0, 0][..]);
        message.extend_from_slice(&index.to_le_bytes());
        Some(message)
    }

    fn tick(&mut self) -> Ticked {
        let mut script = self.script.lock().unwrap();
        script.ticks.pop_front().unwrap_or(Ticked::Idle)
    }

    fn is_ready(&self) -> bool {
        self.script.lock().unwrap().ready
    }

    fn handshake_age(&self) -> Option<Duration> {
        None
    }
}

struct Bench {
    core: Core,
    scripts: Vec<Arc<Mutex<Script>>>,
    now: Instant,
    out: Vec<Outgoing>,
}

const AT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 51820);

fn bench(allowed: &[&str]) -> Bench {
    let mut file =
        "[Interface]\nPrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n".to_owned();
    for networks in allowed {
        let key = crate::wg_quick::PrivateKey::generate().unwrap().public();
        file += &format!("[Peer]\nPublicKey = {key}\nAllowedIPs = {networks}\nEndpoint = {AT}\n");
    }
    let config = WgQuick::parse("test", &file).unwrap();
    let mut scripts = Vec::new();
    let next_index = Arc::new(AtomicU32::new(1));
    let core = Core::with_sessions(&config, &WireGuardOptions::default(), |_, _| {
        let script = Arc::new(Mutex::new(Script::default()));
        scripts.push(script.clone());
        Box::new(FakeSession {
            script,
            next_index: next_index.clone(),
        })
    });
    Bench {
        core,
        scripts,
        now: Instant::now(),
        out: Vec::new(),
    }
}

impl Bench {
    /// Does what the driver does when an attempt is due.
    fn approach(&mut self, peer: usize) {
        let now = self.now;
        let health = &mut self.core.peer_mut(peer).unwrap().health;
        health.demand(now);
        let permit = health.begin(now).unwrap();
        self.core.reached(peer, AT, now, &mut self.out);
        self.core
            .peer_mut(peer)
            .unwrap()
            .health
            .reached(permit, now);
    }

    fn outlet(&mut self, dst: [u8; 4], down: bool) -> Outlet {
        let packet = v4([10, 5, 0, 2], dst);
        self.core.outlet(&packet, down, self.now, &mut self.out)
    }

    fn arrive(&mut self, index: u32, payload: &[u8]) -> Arrival {
        let mut datagram = BytesMut::from(&[4, 0, 0, 0][..]);
        datagram.extend_from_slice(&index.to_le_bytes());
        datagram.extend_from_slice(&[0; 8]);
        datagram.extend_from_slice(payload);
        // The gate wants a tag's length at least.
        datagram.resize(datagram.len().max(DATA_HEADER + 16), 0);
        self.core.arrive(AT, datagram, self.now)
    }

    fn tick(&mut self) -> Vec<usize> {
        let mut due = Vec::new();
        self.core.tick(self.now, &mut self.out, &mut due);
        due
    }
}

fn v4(src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0];
    packet.extend(src);
    packet.extend(dst);
    packet
}

#[test]
fn padding_is_cut_and_foreign_sources_are_dropped() {
    let mut bench = bench(&["198.51.100.0/24"]);
    bench.approach(0);
    let good = v4([198, 51, 100, 7], [10, 5, 0, 2]);
    let mut padded = good.clone();
    padded.resize(48, 0);
    let Arrival::Packet(packet) = bench.arrive(1, &padded) else {
        panic!("not a packet");
    };
    assert_eq!(packet, good);
    let foreign = v4([203, 0, 113, 7], [10, 5, 0, 2]);
    assert!(matches!(
        bench.arrive(1, &foreign),
        Arrival::Dropped(DropReason::AddressNotAllowed)
    ));
    assert!(matches!(
        bench.arrive(1, &[0xff; 20]),
        Arrival::Dropped(DropReason::Malformed)
    ));
    assert!(matches!(
        bench.arrive(77, &good),
        Arrival::Dropped(DropReason::NoSession)
    ));
    assert_eq!(bench.core.stats.rx_packets, 1);
}

#[test]
fn what_is_not_authentic_proves_nothing_and_moves_nobody() {
    let mut bench = bench(&["0.0.0.0/0"]);
    bench.approach(0);
    bench.scripts[0].lock().unwrap().reject = true;
    bench.now += Duration::from_secs(15);
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 9));
    let mut datagram = BytesMut::from(&[4, 0, 0, 0, 1, 0, 0, 0][..]);
    datagram.resize(64, 1);
    let arrival = bench.core.arrive(elsewhere, datagram, bench.now);
    assert!(matches!(
        arrival,
        Arrival::Dropped(DropReason::NotAuthentic)
    ));
    assert_eq!(bench.core.standing(bench.now), Standing::Silent);
    bench.scripts[0].lock().unwrap().ready = true;
    assert_eq!(bench.outlet([9, 9, 9, 9], false), Outlet::Open(0, AT));
}

#[test]
fn one_peer_waits_several_do_not() {
    let mut alone = bench(&["0.0.0.0/0"]);
    assert_eq!(alone.outlet([9, 9, 9, 9], false), Outlet::Wait);
    alone.approach(0);
    assert_eq!(alone.outlet([9, 9, 9, 9], false), Outlet::Wait);
    let dropped = Outlet::Drop(DropReason::NoSession);
    assert_eq!(alone.outlet([9, 9, 9, 9], true), dropped);
    let mut two = bench(&["0.0.0.0/0", "10.9.0.0/16"]);
    two.approach(0);
    two.approach(1);
    assert!(matches!(two.arrive(1, &[]), Arrival::Handled));
    assert_eq!(two.outlet([9, 9, 9, 9], false), Outlet::Open(0, AT));
    assert_eq!(two.outlet([10, 9, 0, 1], false), dropped);
}

#[test]
fn silence_is_noticed_and_ended_by_anything_authentic() {
    let mut bench = bench(&["0.0.0.0/0"]);
    bench.approach(0);
    assert_eq!(bench.core.standing(bench.now), Standing::Unchanged);
    bench.now += Duration::from_secs(15);
    assert_eq!(bench.core.standing(bench.now), Standing::Silent);
    assert_eq!(bench.tick(), [0]);
    assert!(matches!(bench.arrive(1, &[]), Arrival::Handled));
    assert_eq!(bench.core.standing(bench.now), Standing::Alive);
    assert!(bench.core.opened && bench.core.alive);
    assert_eq!(bench.tick(), [0; 0]);
}

/// After gotatun gives up (90 s), somebody who waits is served anew; an idle peer is left alone.
#[test]
fn an_expired_session_starts_again_only_where_somebody_waits() {
    let mut bench = bench(&["0.0.0.0/0"]);
    bench.scripts[0]
        .lock()
        .unwrap()
        .ticks
        .extend([Ticked::Expired, Ticked::Expired]);
    assert_eq!(bench.tick(), [0; 0]);
    bench.approach(0);
    assert_eq!(bench.tick(), [0]);
}

/// A cut of a minute: handshakes in vain, then the old session's data again.
#[test]
fn vain_handshakes_do_not_push_out_the_session_in_use() {
    let mut bench = bench(&["0.0.0.0/0"]);
    bench.approach(0);
    assert!(matches!(bench.arrive(1, &[]), Arrival::Handled));
    for _ in 0..1000 {
        bench.core.initiate(0, true, bench.now, &mut bench.out);
    }
    assert!(matches!(bench.arrive(1, &[]), Arrival::Handled));
    assert_eq!(bench.core.by_index.len(), INDICES_PER_PEER);
}

/// Several peers, several paths: the tunnel has the narrowest MTU, and a peer that moved is
/// measured again.
#[test]
fn the_narrowest_path_decides_and_moved_peers_are_measured_again() {
    let mut bench = bench(&["0.0.0.0/0", "10.9.0.0/16"]);
    let now = bench.now;
    assert!(bench.core.unmeasured(now).is_empty());
    bench.approach(0);
    bench.approach(1);
    assert_eq!(bench.core.unmeasured(now), [(0, AT), (1, AT)]);
    assert_eq!(bench.core.measured(0, AT, 1400, now), 1400);
    assert_eq!(bench.core.measured(1, AT, 1420, now), 1400);
    assert!(bench.core.unmeasured(now).is_empty());
    let elsewhere: SocketAddr = "[2001:db8::1]:9".parse().unwrap();
    let mut datagram = BytesMut::from(&[4, 0, 0, 0, 1, 0, 0, 0][..]);
    datagram.resize(DATA_HEADER + 16, 0);
    let arrival = bench.core.arrive(elsewhere, datagram, bench.now);
    assert!(matches!(arrival, Arrival::Handled));
    assert_eq!(bench.core.unmeasured(now), [(0, elsewhere)]);
    assert_eq!(bench.core.measured(0, elsewhere, 1380, now), 1380);
}

/// N-24: a path that narrows later, or a datagram that turns out too big for it.
#[test]
fn a_path_is_measured_again_after_a_while_and_when_something_was_too_big() {
    let mut bench = bench(&["0.0.0.0/0"]);
    let now = bench.now;
    bench.approach(0);
    bench.core.measured(0, AT, 1400, now);
    assert!(bench.core.unmeasured(now + MEASURE_EVERY / 2).is_empty());
    assert_eq!(bench.core.unmeasured(now + MEASURE_EVERY), [(0, AT)]);
    assert_eq!(bench.core.measured(0, AT, 1300, now), 1300);
    bench.core.too_big("192.0.2.77:1".parse().unwrap());
    assert!(bench.core.unmeasured(now).is_empty());
    bench.core.too_big(AT);
    assert_eq!(bench.core.unmeasured(now), [(0, AT)]);
    // Wider again, too.
    assert_eq!(bench.core.measured(0, AT, 1400, now), 1400);
}

#[test]
fn only_the_newest_session_names_are_kept() {
    let mut bench = bench(&["0.0.0.0/0"]);
    bench.approach(0);
    for _ in 0..1000 {
        bench.core.initiate(0, true, bench.now, &mut bench.out);
    }
    assert_eq!(bench.core.by_index.len(), INDICES_PER_PEER);
    let kept: HashSet<u32> = bench.core.peers[0].indices.iter().copied().collect();
    assert_eq!(kept, bench.core.by_index.keys().copied().collect());
    assert_eq!(kept.iter().max(), Some(&1001));
}
