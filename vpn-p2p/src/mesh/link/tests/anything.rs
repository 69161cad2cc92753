//! Whatever happens, in whichever order.

use super::*;

/// What may happen to a link.
#[derive(Clone, Debug)]
enum Happening {
    Pass(u16),
    Udp(bool),
    Tls(bool),
    TlsEnds,
    Restart,
    Forget,
    Refuse(bool),
    Network,
    Relay(u8, bool),
    Stranger(u8),
    Find(u32),
    Record,
    Endpoints(bool),
    Garbage(Vec<u8>),
    Bye,
    Lose(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => any::<u16>().prop_map(Happening::Pass),
        2 => any::<bool>().prop_map(Happening::Udp),
        2 => any::<bool>().prop_map(Happening::Tls),
        1 => Just(Happening::TlsEnds),
        1 => Just(Happening::Restart),
        1 => Just(Happening::Forget),
        1 => any::<bool>().prop_map(Happening::Refuse),
        1 => Just(Happening::Network),
        2 => any::<(u8, bool)>().prop_map(|(tag, heard)| Happening::Relay(tag, heard)),
        1 => any::<u8>().prop_map(Happening::Stranger),
        1 => any::<u32>().prop_map(Happening::Find),
        1 => Just(Happening::Record),
        1 => any::<bool>().prop_map(Happening::Endpoints),
        1 => prop::collection::vec(any::<u8>(), 0..80).prop_map(Happening::Garbage),
        1 => Just(Happening::Bye),
        1 => (0u64..60).prop_map(Happening::Lose),
    ]
}

impl World {
    fn happens(&mut self, what: &Happening, sequence: u64) {
        match what {
            Happening::Pass(milliseconds) => self.run(f64::from(*milliseconds) / 1_000.0),
            Happening::Udp(works) => self.udp = *works,
            Happening::Tls(works) => self.tls = *works,
            Happening::TlsEnds => {
                self.tls_open = false;
                self.link.tls_failed(self.now);
            }
            Happening::Restart => self.hub.restart(),
            Happening::Forget => self.hub.forget(),
            Happening::Refuse(refuses) => {
                self.hub.refuses = refuses.then_some(Refusal::NotAdmitted);
            }
            Happening::Network => self.link.network_changed(self.now),
            Happening::Relay(tag, heard) => {
                self.link.relayed(Tag([*tag; 8]), self.now);
                if *heard {
                    self.link.relay_heard();
                }
            }
            Happening::Stranger(tag) => {
                let frame = Frame::Stranger { echo: [*tag; 8] }.to_bytes();
                self.deliver(Carrier::Udp, &frame);
            }
            Happening::Find(id) => {
                let what = What::Peer(self.identity.id().0);
                self.link.find(*id, what, self.now);
            }
            Happening::Record => self.new_record(sequence),
            Happening::Endpoints(first) => {
                let mut both = vec![at(HUB), at(HUB_V6)];
                both.rotate_left(usize::from(*first));
                self.link.set_endpoints(both, self.now);
            }
            Happening::Garbage(bytes) => {
                if !is_frame(bytes) && !bytes.is_empty() {
                    self.deliver(Carrier::Udp, bytes);
                }
            }
            Happening::Bye => {
                if let Some(bye) = self.hub.seal(&ToMember::Bye) {
                    self.deliver(Carrier::Udp, &bye);
                }
            }
            Happening::Lose(every) => self.lose = *every,
        }
        self.flush();
    }
}

/// A registration that was given up made the link due again in the same moment.
#[test]
fn a_record_the_hub_does_not_hear_of_leaves_it_at_rest() {
    let mut world = World::new();
    world.udp = false;
    world.run(1.07);
    world.tls = false;
    world.new_record(2);
    world.run(5.0);
    world.tls = true;
    world.run(10.0);
    assert_eq!(world.hub.registered.last(), Some(&2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happened in whichever order: once the hub can be reached, it is; by UDP if that works; and
    /// what is looked for is answered.
    #[test]
    fn it_always_comes_back(happenings in prop::collection::vec(happening(), 0..60), by_tls in any::<bool>()) {
        let mut world = World::new();
        for (at, what) in happenings.iter().enumerate() {
            world.happens(what, 2 + at as u64);
        }
        (world.udp, world.tls) = (!by_tls, true);
        world.hub.refuses = None;
        world.lose = 0;
        // What is up may be dead without knowing: 60 s until it is asked at the latest, 3 s until it is given
        // up, the longest pause and a round.
        world.run(60.0 + 3.0 + 34.0 + 10.0);
        let way = world.link.way().map(|it| it.0);
        prop_assert_eq!(way, Some(if by_tls { Carrier::Tls } else { Carrier::Udp }));
        let found = world.events.iter().filter(|(_, it)| matches!(it, LinkEvent::Found { .. } | LinkEvent::NotFound { .. } | LinkEvent::Unanswered { .. }));
        let asked: std::collections::BTreeSet<u32> = happenings.iter().filter_map(|it| match it {
            Happening::Find(id) => Some(*id),
            _ => None,
        }).collect();
        prop_assert!(found.count() >= asked.len());
        // Ups and downs alternate, but for a change of the carrier.
        let mut up = false;
        for (_, event) in &world.events {
            match event {
                LinkEvent::Up { .. } => up = true,
                LinkEvent::Down { .. } => {
                    prop_assert!(up);
                    up = false;
                }
                _ => {}
            }
        }
        // And it is no storm: what is sent in any second is bounded.
        let mut per_second = std::collections::BTreeMap::<u64, usize>::new();
        for (at, _, bytes) in &world.sent {
            if bytes.first() == Some(&0x81) {
                *per_second.entry(at.as_secs()).or_default() += 1;
            }
        }
        let changes = happenings.iter().filter(|it| !matches!(it, Happening::Pass(_))).count();
        prop_assert!(per_second.values().all(|count| *count <= 14 + 8 * changes));
    }
}
