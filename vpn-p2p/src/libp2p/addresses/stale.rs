//! For how long packets go astray when an address is another's: ten to a thousand nodes on virtual time,
//! against a directory that answers late and loses requests, answers and news.
//!
//! Nodes die without a word, and others take their addresses a lease later, as with etcd.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;
use crate::directory::records::Draft;
use crate::identity::Identity;
use crate::libp2p::body::TERMS;

/// Milliseconds: of the whole, between two packets of a tunnel, and a holder's usual life.
const OBSERVED: u64 = 600_000;
const EVERY: u64 = 2_000;
const LIVES: u64 = 300_000;

/// After so long an address of a dead node is another's.
const LEASE: u64 = 10_000;

/// How late news and answers are, and of a hundred, how many are lost.
const LATE: std::ops::Range<u64> = 20..200;
const LOST: u64 = 5;

/// A question is repeated after this, and so often; then it could not be asked.
const PATIENCE: u64 = 1_000;
const TRIES: u64 = 4;

/// When a tunnel gives up a node that does not answer: its connection is silent, then it cannot be made.
const GIVEN_UP: u64 = 25_000;

/// Tunnels that are observed, each one of the nodes.
const TUNNELS: usize = 10;

const UNIX: u64 = 1_000_000;

/// The same numbers in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The holder of an address dies; then somebody else has it.
    Dies(usize),
    Taken(usize),
    /// A tunnel hears of the holder since then.
    News(usize, usize),
    Sends(usize),
    /// The answer to a tunnel's question; whether there is one.
    Answer(usize, usize, bool),
    GivenUp(usize, PeerId),
}

/// Who has an address; nobody, while its dead holder's lease lasts.
struct Holds {
    record: PeerRecord,
    lives: bool,
}

struct World {
    dice: Dice,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    held: Vec<Holds>,
    tunnels: Vec<Addresses>,
    follows: bool,
    identities: u64,
    began: Instant,
    /// What was seen: packets, questions.
    packets: u64,
    questions: u64,
    /// Since when packets of a tunnel for an address and its holder go astray.
    astray: HashMap<(usize, usize), (PeerId, u64)>,
    /// Of each packet that did not go to who has the address, for how long that was so, in milliseconds.
    behind: Vec<u64>,
}

fn address(number: usize) -> IpAddr {
    [10, 7, (number >> 8) as u8, number as u8].into()
}

impl World {
    fn new(nodes: usize, authority: Authority, follows: bool) -> Self {
        let mut world = Self {
            dice: Dice(nodes as u64),
            events: BinaryHeap::new(),
            held: Vec::new(),
            tunnels: Vec::new(),
            follows,
            identities: 0,
            began: Instant::now(),
            packets: 0,
            questions: 0,
            astray: HashMap::new(),
            behind: Vec::new(),
        };
        for number in 0..nodes {
            // From 1 on: the first one of a prefix is nobody's.
            let record = world.somebody(number + 1);
            world.held.push(Holds {
                record,
                lives: true,
            });
            let dies = world.dice.below(2 * LIVES);
            world.at(dies, Event::Dies(number));
        }
        for tunnel in 0..TUNNELS {
            let place = Place {
                me: PeerId([tunnel as u8; 32]),
                own: vec![[10, 7, 255, tunnel as u8].into()],
                networks: vec!["10.7.0.0/16".parse().unwrap()],
                authority,
            };
            world.tunnels.push(Addresses::new(place, 4 * nodes));
            let first = world.dice.below(EVERY);
            world.at(first, Event::Sends(tunnel));
        }
        world
    }

    fn at(&mut self, time: u64, event: Event) {
        self.events.push(Reverse((time, event)));
    }

    /// The record of a new node with this address.
    fn somebody(&mut self, number: usize) -> PeerRecord {
        self.identities += 1;
        let mut secret = [5; 32];
        secret[..8].copy_from_slice(&self.identities.to_be_bytes());
        let draft = Draft {
            addresses: vec![address(number)],
            sequence: 1,
            expires: UNIX + 3600,
            ..Draft::default()
        };
        let identity = Identity::from_bytes(&secret);
        draft.sign(&identity, &TERMS).unwrap()
    }

    fn late(&mut self) -> u64 {
        LATE.start + self.dice.below(LATE.end - LATE.start)
    }

    fn run(&mut self) {
        while let Some(Reverse((now, event))) = self.events.pop()
            && now < OBSERVED
        {
            self.happens(now, event);
        }
    }

    fn happens(&mut self, now: u64, event: Event) {
        let clock = self.began + Duration::from_millis(now);
        let unix = UNIX + now / 1000;
        match event {
            Event::Dies(number) => {
                self.held[number].lives = false;
                self.at(now + LEASE, Event::Taken(number));
            }
            Event::Taken(number) => {
                let record = self.somebody(number + 1);
                self.held[number] = Holds {
                    record,
                    lives: true,
                };
                for tunnel in 0..TUNNELS {
                    let (late, lost) = (self.late(), self.dice.below(100) < LOST);
                    if self.follows && !lost {
                        self.at(now + late, Event::News(tunnel, number));
                    }
                }
                let dies = now + self.dice.below(2 * LIVES);
                self.at(dies, Event::Dies(number));
            }
            Event::News(tunnel, number) => {
                let record = self.held[number].record.clone();
                // Known already, by an answer that was faster.
                let _ = self.tunnels[tunnel].learn(record, clock, unix);
            }
            Event::Sends(tunnel) => {
                self.at(now + EVERY, Event::Sends(tunnel));
                // Nine times of ten to one of ten friends.
                let all = self.held.len() as u64;
                let among = if self.dice.below(10) < 9 {
                    all.min(10)
                } else {
                    all
                };
                let number = ((tunnel as u64 * 7 + self.dice.below(among)) % all) as usize;
                self.packets += 1;
                let found = self.tunnels[tunnel].find(address(number + 1), clock, unix);
                let held = &self.held[number];
                let right = found == Where::Peer(held.record.peer) || found == Where::Waits;
                if right || !held.lives {
                    self.astray.remove(&(tunnel, number));
                } else {
                    let holder = held.record.peer;
                    let first = self.astray.entry((tunnel, number)).or_insert((holder, now));
                    if first.0 != holder {
                        *first = (holder, now);
                    }
                    self.behind.push(now - first.1);
                }
                if let Where::Peer(peer) = found
                    && (!right || !held.lives)
                {
                    let packet = Packet::from_slice(&[0x45; 20]);
                    if self.tunnels[tunnel].hold_for(peer, &packet, clock) {
                        self.at(now + GIVEN_UP, Event::GivenUp(tunnel, peer));
                    }
                }
            }
            Event::Answer(tunnel, number, is_there) => {
                let held = &self.held[number];
                let (record, lives) = (held.record.clone(), held.lives);
                let peer = record.peer;
                let to = &mut self.tunnels[tunnel];
                if is_there && lives {
                    // The same as before, maybe.
                    let _ = to.learn(record, clock, unix);
                }
                let found = is_there.then(|| Vec::from_iter(lives.then_some(peer)));
                to.answered(address(number + 1), found, clock, unix);
            }
            Event::GivenUp(tunnel, peer) => self.tunnels[tunnel].not_connected(peer, clock, unix),
        }
        for tunnel in 0..TUNNELS {
            for asked in self.tunnels[tunnel].take_questions() {
                self.ask(tunnel, asked, now);
            }
        }
    }

    fn ask(&mut self, tunnel: usize, asked: IpAddr, now: u64) {
        let IpAddr::V4(v4) = asked else { return };
        let [.., high, low] = v4.octets();
        let number = usize::from(high) * 256 + usize::from(low) - 1;
        for attempt in 0..TRIES {
            self.questions += 1;
            let lost = self.dice.below(100) < LOST || self.dice.below(100) < LOST;
            if !lost {
                let at = now + attempt * PATIENCE + self.late();
                self.at(at, Event::Answer(tunnel, number, true));
                return;
            }
        }
        self.at(now + TRIES * PATIENCE, Event::Answer(tunnel, number, false));
    }
}

/// Packets that did not go to who has the address, in a thousand; for how many seconds that was so at most;
/// questions of a tunnel in a minute.
fn observe(nodes: usize, authority: Authority, follows: bool) -> (f64, f64, f64) {
    let mut world = World::new(nodes, authority, follows);
    world.run();
    let old = world.behind.len() as f64 / world.packets as f64 * 1e3;
    let worst = world.behind.iter().max().map_or(0.0, |ms| *ms as f64 / 1e3);
    let minutes = OBSERVED as f64 / 60_000.0;
    let asked = world.questions as f64 / TUNNELS as f64 / minutes;
    (old, worst, asked)
}

#[test]
#[allow(clippy::print_stdout, reason = "it says what it measured")]
fn when_an_address_is_anothers_packets_go_there_soon() {
    for follows in [true, false] {
        let mut asked = Vec::new();
        for nodes in [10, 100, 1000] {
            let (old, worst, questions) = observe(nodes, Authority::Directory, follows);
            println!(
                "{nodes:>5} nodes, news {}: {old:.1} ‰ of packets astray, at most for {worst:.1} s; {questions:.2} questions of a tunnel in a minute",
                if follows { "followed" } else { "not followed" },
            );
            // Told; or found out by a connection that fails, then the directory is asked, which said
            // "nobody" a moment before.
            let patience = (TRIES * PATIENCE + LATE.end) as f64 / 1e3;
            let nobody = NOBODY_FIRST.as_secs_f64() * 8.0;
            let bound = (GIVEN_UP + EVERY) as f64 / 1e3 + patience + nobody;
            assert!(worst <= bound, "{nodes} nodes: {worst}");
            assert!(
                old < if follows { 10.0 } else { 100.0 },
                "{nodes} nodes: {old}"
            );
            asked.push(questions);
        }
        // A packet asks once at most.
        let most = 60_000.0 / EVERY as f64;
        assert!(asked.iter().all(|asked| *asked < most), "{asked:?}");
    }
}
