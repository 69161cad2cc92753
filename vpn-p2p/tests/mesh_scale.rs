//! What a mesh costs each of its members, with a hundred and with ten thousand of them: messages,
//! bytes, memory, time. In one world on virtual time, with sessions that have no cryptography.
//!
//! ```text
//! cargo test --release -p vpn-p2p --all-features --test mesh_scale -- --ignored --nocapture
//! MESH_PLOT=benches/pictures/mesh.svg …   # draws what it measured
//! MESH_MEMBERS=100,1000 …                 # other sizes than 100, 1,000 and 10,000
//! ```
//!
//! Time grows with the memory that all members take together: it does not fit into caches. What a
//! member does is counted by instructions instead, which `.ci/mesh-instructions` compares.
#![cfg(all(feature = "mesh", feature = "testing"))]
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test says what it measured"
)]

#[path = "common/plot.rs"]
mod plot;

use std::time::Duration;

use allocation_counter::measure;
use vpn_p2p::mesh::testing::NatKind;
use vpn_p2p::mesh::testing::world::{At, Weather, World};

/// Peers that each member wants to be connected with; so it has twice as many.
const WANTED: [usize; 2] = [1, 7];

/// The time within which all members start: a hub meets thousands per second, not all at once.
const SECONDS_TO_JOIN: Duration = Duration::from_secs(20);

/// How long a mesh is left alone to be counted: twice until sessions are renewed.
const IDLE: Duration = Duration::from_secs(240);

/// What one size costs, per member.
#[derive(Clone, Copy, Debug)]
struct Cost {
    members: usize,
    /// Messages and bytes sent until everybody is connected.
    messages: f64,
    bytes: f64,
    /// Messages that the hub took and sent until then.
    hub_messages: f64,
    /// Messages sent while idle, within 100 s.
    idle: f64,
    /// What the hub took and sent in that time.
    hub_idle: f64,
    /// Bytes of memory, and the hub's for it.
    memory: f64,
    hub_memory: f64,
    /// Microseconds of processor until everybody is connected, and per second when idle: the
    /// member's, its part of the hub's and of the simulated network's.
    joining: f64,
    idling: f64,
    /// The part of pairs that are direct.
    direct: f64,
}

/// Nanoseconds that this thread has had of a processor. Others on the machine do not count.
fn spent() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = stat.split(' ').next().and_then(|first| first.parse().ok());
    first.unwrap_or(0)
}

fn sent(world: &World) -> [u64; 2] {
    world.members().fold([0; 2], |[messages, bytes], at| {
        let counters = world.member(at).counters;
        [messages + counters.messages(), bytes + counters.bytes()]
    })
}

/// The time in which nobody has anything to say; by its name valgrind finds it.
#[inline(never)]
fn instructions_are_counted_here(world: &mut World) {
    world.run(IDLE);
}

/// The sizes to be compared.
fn sizes() -> Vec<usize> {
    let named = std::env::var("MESH_MEMBERS").unwrap_or_else(|_| "100,1000,10000".to_owned());
    let sizes = named.split(',').map(|size| size.parse().expect("a number"));
    sizes.collect()
}

fn cost(count: usize) -> Cost {
    let mut world = World::new(Weather::default(), count as u64);
    world.add_hub();
    for number in 0..count {
        // As many homes as one finds: most have an easy NAT, a few none, or one that is hard.
        let kind = match number % 10 {
            0 => NatKind::Open,
            8 | 9 => NatKind::Symmetric,
            _ => NatKind::Easy,
        };
        let site = world.add_site(kind);
        world.add_member(site);
    }
    let start = spent();
    let pause = SECONDS_TO_JOIN / count as u32;
    for at in world.members() {
        world.start(at);
        world.run(pause);
    }
    world.run(Duration::from_secs(5));
    let peer = |at: At, wanted: usize| At((at.0 + wanted) % count);
    for at in world.members() {
        for wanted in WANTED {
            world.send(at, peer(at, wanted));
        }
        world.run(pause);
    }
    // Until the last rounds of challenges are over.
    world.run(Duration::from_secs(100));
    let joined = spent();
    let [messages, bytes] = sent(&world);
    let hub = world.hub(0).handled;

    instructions_are_counted_here(&mut world);
    let idled = spent();
    let [after, _] = sent(&world);
    let hub_after = world.hub(0).handled;

    let mut direct = 0;
    for at in world.members() {
        for wanted in WANTED {
            direct += usize::from(world.is_direct(at, peer(at, wanted)));
            let way = world.way(at, peer(at, wanted));
            assert!(way.is_some(), "{at:?} is alone");
        }
    }
    let freed = |bytes: i64| -bytes as f64 / count as f64;
    let members = world.take_members();
    let hubs = world.take_hubs();
    let each = |number: u64| number as f64 / count as f64;
    // Per 100 s.
    let idle = |number: u64| each(number) * 100.0 / IDLE.as_secs_f64();
    let hub_messages = |handled: [u64; 2]| handled[0] + handled[1];
    Cost {
        members: count,
        messages: each(messages),
        bytes: each(bytes),
        hub_messages: each(hub_messages(hub)),
        idle: idle(after - messages),
        hub_idle: idle(hub_messages(hub_after) - hub_messages(hub)),
        memory: freed(measure(|| drop(members)).bytes_current),
        hub_memory: freed(measure(|| drop(hubs)).bytes_current),
        joining: each(joined - start) / 1e3,
        idling: each(idled - joined) / 1e3 / IDLE.as_secs_f64(),
        direct: direct as f64 / (count * WANTED.len()) as f64,
    }
}

/// What is drawn.
const QUANTITIES: [&str; 6] = [
    "messages to join and connect",
    "messages in 100 s, idle",
    "messages through the hub",
    "KiB of memory",
    "KiB of the hub's memory",
    "µs of processor per idle second",
];

impl Cost {
    fn plotted(&self) -> Vec<f64> {
        vec![
            self.messages,
            self.idle,
            self.hub_messages,
            self.memory / 1024.0,
            self.hub_memory / 1024.0,
            self.idling,
        ]
    }

    fn print(&self) {
        println!(
            "{:>6} members, each: {:.1} messages ({:.0} bytes) to be connected with {} peers, {:.1} \
             through the hub; idle {:.1} in 100 s ({:.1} through the hub); {:.1} KiB of memory, {:.1} \
             KiB of the hub's; {:.0} µs to join, {:.1} µs per idle second; {:.0} % of pairs direct",
            self.members,
            self.messages,
            self.bytes,
            2 * WANTED.len(),
            self.hub_messages,
            self.idle,
            self.hub_idle,
            self.memory / 1024.0,
            self.hub_memory / 1024.0,
            self.joining,
            self.idling,
            self.direct * 100.0
        );
    }

    /// What must not grow, and by how much it may vary: hash tables are up to half empty.
    fn assert_as_cheap_as(&self, small: &Self) {
        let ratio = |large: f64, small: f64| large / small;
        assert!(ratio(self.messages, small.messages) < 1.1);
        assert!(ratio(self.bytes, small.bytes) < 1.1);
        assert!(ratio(self.hub_messages, small.hub_messages) < 1.1);
        assert!(ratio(self.idle, small.idle) < 1.1);
        assert!(ratio(self.memory, small.memory) < 1.1);
        assert!(ratio(self.hub_memory, small.hub_memory) < 1.5);
        assert!(self.direct > 0.6, "{}", self.direct);
    }
}

#[test]
fn four_times_as_many_members_cost_each_the_same() {
    let small = cost(30);
    let large = cost(120);
    small.print();
    large.print();
    large.assert_as_cheap_as(&small);
    // Keepalives to four peers and the hub at most every 25 s, renewals of sessions among them.
    assert!(large.idle <= 4.0 * 5.0, "{}", large.idle);
}

#[test]
#[ignore = "minutes, and its times mean something in release only"]
fn a_hundred_a_thousand_ten_thousand() {
    let measured = |count| {
        let cost = cost(count);
        cost.print();
        cost
    };
    let costs: Vec<Cost> = sizes().into_iter().map(measured).collect();
    for larger in &costs[1..] {
        larger.assert_as_cheap_as(&costs[0]);
    }
    if let Some(path) = std::env::var_os("MESH_PLOT") {
        let title = "What a mesh costs each member, over the number of members";
        let points = costs.iter().map(|cost| (cost.members, cost.plotted()));
        let points: Vec<plot::Point> = points.collect();
        std::fs::write(path, plot::svg(title, &QUANTITIES, &points)).expect("the plot");
    }
}
