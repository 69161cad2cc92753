//! A host is played: it establishes interfaces, in its own way with addresses it dislikes.

use super::*;

/// What a host does with an address that another interface has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duplicates {
    /// It leaves the address out and says nothing.
    Ignore,
    /// It says no to the whole interface.
    Reject,
    /// It takes the address away from the other interface.
    Replace,
    /// It says no, and does not say why.
    Fail,
}

/// A host with descriptors: the open ones, oldest first.
struct Host {
    duplicates: Duplicates,
    taken: BTreeSet<IpNet>,
    rebuild: Rebuild,
    now: Instant,
    open: Vec<u32>,
    next: u32,
    interface: InterfacePlan,
    rebuilds: u32,
    attempts: u32,
    in_place: u32,
}

impl Host {
    fn new(abilities: Abilities, duplicates: Duplicates) -> Self {
        Self {
            duplicates,
            taken: BTreeSet::new(),
            rebuild: Rebuild::new(abilities),
            now: Instant::now(),
            open: Vec::new(),
            next: 0,
            interface: InterfacePlan::default(),
            rebuilds: 0,
            attempts: 0,
            in_place: 0,
        }
    }

    /// Time passes, and what is due is done.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.rebuild.next_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            if let Some(step) = self.rebuild.poll(self.now) {
                assert_eq!(self.rebuild.poll(self.now), None, "one step at a time");
                let outcome = self.act(step);
                self.rebuild.done(self.now, outcome);
            }
        }
        self.now = end;
    }

    fn act(&mut self, step: Step) -> Outcome {
        match step {
            Step::InPlace(changes) => {
                self.in_place += 1;
                for change in &changes {
                    assert!(self.rebuild.abilities.can(change), "{change:?}");
                    apply(&mut self.interface, change);
                }
                Outcome::Applied
            }
            Step::Rebuild(plan) => self.establish(plan),
        }
    }

    fn establish(&mut self, mut plan: InterfacePlan) -> Outcome {
        self.attempts += 1;
        let taken = plan.addresses.intersection(&self.taken).next().copied();
        match (taken, self.duplicates) {
            (Some(net), Duplicates::Reject) => return Outcome::Refused(net),
            (Some(_), Duplicates::Fail) => return Outcome::Failed,
            (Some(net), Duplicates::Ignore) => drop(plan.addresses.remove(&net)),
            (Some(net), Duplicates::Replace) => drop(self.taken.remove(&net)),
            (None, _) => {}
        }
        // The new one first, the old one last: never none.
        self.open.push(self.next);
        self.next += 1;
        if self.open.len() == 2 {
            self.open.remove(0);
        }
        assert_eq!(self.open.len(), 1);
        self.rebuilds += 1;
        self.interface = plan;
        Outcome::Applied
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn plan(addresses: &[&str]) -> InterfacePlan {
    InterfacePlan {
        addresses: addresses.iter().map(|text| net(text)).collect(),
        routes: [net("0.0.0.0/0")].into(),
        dns: ["100.127.255.53".parse().unwrap()].into(),
        mtu: 1420,
        bypass: Vec::new(),
    }
}

fn started(abilities: Abilities, duplicates: Duplicates) -> Host {
    let mut host = Host::new(abilities, duplicates);
    let now = host.now;
    // The parts of a start come one after the other.
    host.rebuild.want(now, plan(&[]));
    host.pass(QUIET / 2);
    host.rebuild.want(host.now, plan(&["10.5.0.2/32"]));
    host.pass(Duration::from_secs(5));
    assert_eq!((host.rebuilds, host.in_place), (1, 0), "one start");
    host
}

/// N-13: the first plan was a reason to build the interface a second time.
#[test]
fn a_start_is_one_interface_and_an_empty_plan_none() {
    let mut host = Host::new(Abilities::NONE, Duplicates::Reject);
    host.rebuild.want(host.now, InterfacePlan::default());
    host.pass(Duration::from_secs(5));
    assert_eq!(host.rebuilds, 0);
    // Rules that come later build it then.
    let mut host = started(Abilities::NONE, Duplicates::Reject);
    host.rebuild.want(host.now, plan(&["10.5.0.2/32"]));
    host.pass(Duration::from_secs(5));
    assert_eq!(host.rebuilds, 1, "the same plan is no change");
}

#[test]
fn a_burst_is_one_interface() {
    let mut host = started(Abilities::NONE, Duplicates::Reject);
    for n in 0..50 {
        let more = format!("10.{n}.0.2/32");
        host.rebuild.want(host.now, plan(&["10.5.0.2/32", &more]));
        host.pass(Duration::from_millis(5));
    }
    host.pass(Duration::from_secs(5));
    assert_eq!(host.rebuilds, 2);
    // Never quiet: at most one a second.
    let before = host.rebuilds;
    for n in 0..200u8 {
        let more = format!("10.{n}.0.2/32");
        host.rebuild.want(host.now, plan(&["10.5.0.2/32", &more]));
        host.pass(Duration::from_millis(50));
    }
    assert!((9..=11).contains(&(host.rebuilds - before)));
}

#[test]
fn what_can_wait_waits_and_comes_with_the_next() {
    let mut host = started(Abilities::NONE, Duplicates::Reject);
    let mut next = plan(&[]);
    next.routes.insert(net("10.0.0.0/8"));
    next.mtu = 1280;
    next.dns.clear();
    host.rebuild.want(host.now, next.clone());
    host.pass(Duration::from_secs(5));
    assert_eq!(
        host.rebuilds, 1,
        "an address and a resolver less, a narrower MTU"
    );
    next.addresses.insert(net("10.6.0.2/32"));
    host.rebuild.want(host.now, next.clone());
    host.pass(Duration::from_secs(5));
    assert_eq!(host.rebuilds, 2);
    assert_eq!(host.interface, next);
}

#[test]
fn what_leads_around_is_closed_at_once() {
    let mut host = started(Abilities::NONE, Duplicates::Reject);
    let mut open = plan(&["10.5.0.2/32"]);
    open.bypass = vec![Bypass::new(Way::Main).uids(5..=5)];
    host.rebuild.want(host.now, open);
    host.pass(Duration::from_secs(5));
    assert_eq!(host.rebuilds, 1, "more is captured than needs to be");
    let mut host = started(Abilities::NONE, Duplicates::Reject);
    let mut both = plan(&["10.5.0.2/32", "10.6.0.2/32"]);
    both.bypass = vec![Bypass::new(Way::Main).uids(5..=5)];
    host.rebuild.want(host.now, both);
    host.pass(Duration::from_secs(5));
    host.rebuild
        .want(host.now, plan(&["10.5.0.2/32", "10.6.0.2/32"]));
    host.pass(Duration::from_secs(5));
    assert_eq!(host.rebuilds, 3);
    assert!(host.interface.bypass.is_empty());
}

#[test]
fn what_can_be_changed_in_place_is() {
    let mut host = started(Abilities::ALL, Duplicates::Reject);
    let next = plan(&["10.6.0.2/32"]);
    host.rebuild.want(host.now, next.clone());
    host.pass(Duration::from_secs(5));
    assert_eq!((host.rebuilds, host.in_place), (1, 1));
    assert_eq!(host.interface, next);
    let mut some = Abilities::NONE;
    some.dns = true;
    let mut host = started(some, Duplicates::Reject);
    let mut next = plan(&[]);
    next.dns.insert("100.127.255.54".parse().unwrap());
    host.rebuild.want(host.now, next.clone());
    host.pass(Duration::from_secs(5));
    assert_eq!((host.rebuilds, host.in_place), (1, 1));
    // The address that may stay is still there, and known to be.
    assert_eq!(host.interface.addresses.len(), 1);
    assert_eq!(host.rebuild.stands(), Some(&host.interface));
}

#[test]
fn a_duplicate_address_ends_in_one_interface_whatever_the_host_does_with_it() {
    for (duplicates, expected) in [
        (Duplicates::Ignore, 1),
        (Duplicates::Reject, 1),
        (Duplicates::Replace, 2),
    ] {
        let mut host = started(Abilities::NONE, duplicates);
        host.taken.insert(net("10.6.0.2/32"));
        let wanted = plan(&["10.5.0.2/32", "10.6.0.2/32"]);
        host.rebuild.want(host.now, wanted.clone());
        host.pass(Duration::from_secs(600));
        assert_eq!(host.interface.addresses.len(), expected, "{duplicates:?}");
        assert!(host.attempts <= 3, "{duplicates:?}: {}", host.attempts);
        let refused = host.rebuild.refused().len();
        assert_eq!(refused, usize::from(duplicates == Duplicates::Reject));
        // What happens around it does not bring it up again.
        let before = host.attempts;
        for mtu in 1300..1350 {
            let mut next = wanted.clone();
            next.mtu = mtu;
            host.rebuild.want(host.now, next);
            host.pass(Duration::from_secs(2));
        }
        assert_eq!(host.attempts, before, "{duplicates:?}");
        // It goes, and comes back when it is free.
        host.rebuild.want(host.now, plan(&["10.5.0.2/32"]));
        host.pass(Duration::from_secs(2));
        host.taken.clear();
        host.rebuild
            .want(host.now, plan(&["10.5.0.2/32", "10.6.0.2/32"]));
        host.pass(Duration::from_secs(2));
        assert!(host.rebuild.refused().is_empty());
        if duplicates == Duplicates::Reject {
            assert_eq!(host.interface.addresses.len(), 2);
        }
    }
}

#[test]
fn a_host_that_fails_is_asked_less_and_less_and_keeps_what_it_has() {
    let mut host = started(Abilities::NONE, Duplicates::Fail);
    host.taken.insert(net("10.6.0.2/32"));
    host.rebuild
        .want(host.now, plan(&["10.5.0.2/32", "10.6.0.2/32"]));
    host.pass(Duration::from_secs(3600));
    assert!((50..80).contains(&host.attempts), "{}", host.attempts);
    assert_eq!((host.rebuilds, host.open.len()), (1, 1));
    host.taken.clear();
    host.pass(LONGEST_WAIT + QUIET);
    assert_eq!(host.rebuilds, 2);
}

#[test]
fn an_interface_that_the_system_took_is_built_again() {
    let mut host = started(Abilities::NONE, Duplicates::Reject);
    host.open.clear();
    host.rebuild.gone(host.now);
    host.pass(Duration::from_secs(5));
    assert_eq!(host.rebuilds, 2);
}
