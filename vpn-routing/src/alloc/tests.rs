//! The cases of document 001 by name, and every step against an oracle that compares bit by bit.

use super::*;
use proptest::prelude::*;

const UK: TunnelId = TunnelId::new(0);
const FR: TunnelId = TunnelId::new(1);
const US: TunnelId = TunnelId::new(2);

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
    texts.iter().map(|t| net(t)).collect()
}

fn admit(a: &mut Allocator, tunnel: TunnelId, text: &str) -> Admission {
    a.admit(tunnel, &[net(text)])
}

#[test]
fn case_1_same_subnet_different_addresses() {
    let mut a = Allocator::default();
    assert!(admit(&mut a, UK, "10.100.0.2/16").plan_changed);
    let fr = admit(&mut a, FR, "10.100.0.3/16");
    assert!(!fr.plan_changed);
    assert_eq!(a.plan_addresses(), nets(&["10.100.0.2/16"]));
    assert_eq!(
        fr.placements[0].role,
        Role::Secondary {
            of: net("10.100.0.0/16"),
            primary: UK
        }
    );
}

#[test]
fn case_2_different_subnets() {
    let mut a = Allocator::default();
    admit(&mut a, UK, "10.100.0.2/16");
    assert!(admit(&mut a, US, "10.102.0.2/16").plan_changed);
    assert_eq!(
        a.plan_addresses(),
        nets(&["10.100.0.2/16", "10.102.0.2/16"])
    );
}

#[test]
fn case_3_mixed_subnets() {
    let mut a = Allocator::default();
    admit(&mut a, UK, "10.100.0.2/16");
    admit(&mut a, FR, "10.100.0.3/16");
    admit(&mut a, US, "10.102.0.2/16");
    assert_eq!(
        a.plan_addresses(),
        nets(&["10.100.0.2/16", "10.102.0.2/16"])
    );
    let primary = |t| a.roles(t)[0].role.is_primary();
    assert_eq!([UK, FR, US].map(primary), [true, false, true]);
}

/// The secondary's packets leave with its own address and applications see the primary's.
#[test]
fn case_4_a_secondary_is_routed_by_translation() {
    let mut a = Allocator::default();
    admit(&mut a, UK, "10.100.0.2/16");
    admit(&mut a, FR, "10.100.0.3/16");
    let place = a.address_for(FR, Family::V4).unwrap();
    assert_eq!(place.assigned, net("10.100.0.3/16"));
    assert_eq!(place.on_device, net("10.100.0.2/16"));
    assert!(place.needs_translation());
    assert!(!a.address_for(UK, Family::V4).unwrap().needs_translation());
    assert_eq!(a.address_for(FR, Family::V6), None);
}

/// N-15: the primary was never elected again, and its entries were never removed.
#[test]
fn removal_promotes_and_keeps_the_address_until_the_last_leaves() {
    let mut a = Allocator::default();
    admit(&mut a, UK, "10.100.0.2/16");
    admit(&mut a, FR, "10.100.0.3/16");
    admit(&mut a, US, "10.100.0.4/16");
    let release = a.release(UK);
    assert!(!release.plan_changed);
    let change = RoleChange {
        subnet: net("10.100.0.0/16"),
        from: UK,
        to: FR,
    };
    assert_eq!(release.reelected, [change]);
    assert_eq!(a.plan_addresses(), nets(&["10.100.0.2/16"]));
    assert!(a.roles(UK).is_empty());
    assert!(!a.release(US).plan_changed);
    assert!(a.release(FR).plan_changed);
    assert!(a.plan_addresses().is_empty());
    assert_eq!(a.release(FR), Release::default());
    // Nothing of the old subnet is left: the next tunnel brings its own address.
    assert!(admit(&mut a, US, "10.100.0.4/16").plan_changed);
    assert_eq!(a.plan_addresses(), nets(&["10.100.0.4/16"]));
}

#[test]
fn overlap_contained_and_containing_join_what_is_there() {
    let mut a = Allocator::default();
    admit(&mut a, UK, "10.0.0.2/8");
    let within = admit(&mut a, FR, "10.100.0.2/16");
    assert!(!within.plan_changed);
    assert_eq!(within.placements[0].role.subnet(), net("10.0.0.0/8"));

    let mut a = Allocator::default();
    admit(&mut a, UK, "10.100.0.2/16");
    admit(&mut a, FR, "10.102.0.2/16");
    let around = admit(&mut a, US, "10.0.0.2/8");
    assert!(!around.plan_changed);
    assert_eq!(around.placements[0].on_device, net("10.100.0.2/16"));
}

#[test]
fn identical_addresses_are_on_the_device_once() {
    let mut a = Allocator::default();
    for (i, tunnel) in [UK, FR, US].into_iter().enumerate() {
        let admission = admit(&mut a, tunnel, "10.5.0.2/32");
        assert_eq!(admission.plan_changed, i == 0);
        assert_eq!(admission.placements[0].role.is_primary(), i == 0);
        assert!(!admission.placements[0].needs_translation());
    }
    assert_eq!(a.plan_addresses(), nets(&["10.5.0.2/32"]));
}

#[test]
fn neighbours_as_single_addresses_are_two_subnets() {
    let mut a = Allocator::default();
    for (tunnel, text) in [(UK, "10.5.0.2/32"), (FR, "10.5.0.3/32")] {
        assert!(admit(&mut a, tunnel, text).plan_changed);
    }
    for (tunnel, text) in [(US, "fd00::2/128"), (TunnelId::new(3), "fd00::3/128")] {
        assert!(admit(&mut a, tunnel, text).plan_changed);
    }
    assert_eq!(a.plan_addresses().len(), 4);
}

/// N-16: only /8, /16 and /24 were computed.
#[test]
fn odd_prefix_lengths() {
    for (first, same, other) in [
        ("10.1.31.2/20", "10.1.16.9/20", "10.1.32.1/20"),
        ("10.1.3.2/22", "10.1.0.9/22", "10.1.4.1/22"),
        ("10.1.1.61/30", "10.1.1.62/30", "10.1.1.65/30"),
        ("10.1.1.2/31", "10.1.1.3/31", "10.1.1.4/31"),
        ("fd00::2/127", "fd00::3/127", "fd00::4/127"),
    ] {
        let mut a = Allocator::default();
        admit(&mut a, UK, first);
        assert!(!admit(&mut a, FR, same).plan_changed, "{same}");
        assert!(admit(&mut a, US, other).plan_changed, "{other}");
    }
}

#[test]
fn other_addresses_for_an_admitted_tunnel() {
    let mut a = Allocator::default();
    a.admit(UK, &[net("10.5.0.2/16"), net("fd00::2/64")]);
    // The same subnet: the address on the device stays under the live flows.
    let again = a.admit(UK, &[net("10.5.0.9/16"), net("fd00::2/64")]);
    assert!(!again.plan_changed);
    assert!(again.placements[0].needs_translation());
    assert!(!again.placements[1].needs_translation());
    // Another subnet: the old address goes.
    let moved = a.admit(UK, &[net("10.6.0.2/16")]);
    assert!(moved.plan_changed);
    assert_eq!(a.plan_addresses(), nets(&["10.6.0.2/16"]));
    assert!(a.admit(UK, &[]).plan_changed);
    assert_eq!(a.tunnels().count(), 0);
}

#[test]
fn priority_takes_the_role_but_not_the_address() {
    let mut a = Allocator::new(Policy::Priority);
    a.set_priority(FR, 10);
    admit(&mut a, UK, "10.5.0.2/16");
    let fr = admit(&mut a, FR, "10.5.0.3/16");
    assert!(!fr.plan_changed);
    assert!(fr.placements[0].role.is_primary());
    assert_eq!(fr.reelected[0].from, UK);
    assert_eq!(fr.placements[0].on_device, net("10.5.0.2/16"));
    assert!(
        !admit(&mut a, US, "10.5.0.4/16").placements[0]
            .role
            .is_primary()
    );
    assert_eq!(a.release(FR).reelected[0].to, UK);
}

#[test]
fn sticky_gives_the_role_back_after_a_reconnect() {
    for (policy, back) in [(Policy::Sticky, true), (Policy::First, false)] {
        let mut a = Allocator::new(policy);
        admit(&mut a, UK, "10.5.0.2/16");
        admit(&mut a, FR, "10.5.0.3/16");
        a.release(UK);
        let again = admit(&mut a, UK, "10.5.0.2/16");
        assert!(!again.plan_changed);
        assert_eq!(again.placements[0].role.is_primary(), back);
    }
}

#[test]
fn the_hosts_networks_are_reported_and_not_taken() {
    let mut a = Allocator::default();
    a.set_host_networks([net("192.168.1.7/24"), net("10.0.0.5/8")]);
    for (text, kind) in [
        ("192.168.1.9/24", ConflictKind::Equal),
        ("192.168.1.7/32", ConflictKind::SameAddress),
        ("192.168.0.1/16", ConflictKind::Contains),
        ("10.5.0.2/32", ConflictKind::Within),
    ] {
        let admission = admit(&mut a, UK, text);
        assert_eq!(admission.conflicts[0].kind, kind, "{text}");
        assert_eq!(admission.placements.len(), 1);
        assert!(a.plan_addresses().iter().all(|n| n.prefix_len() == 32));
        a.release(UK);
    }
    assert!(admit(&mut a, UK, "172.16.0.2/12").conflicts.is_empty());
    a.set_host_networks([net("172.16.5.1/16")]);
    assert_eq!(a.conflicts(UK)[0].kind, ConflictKind::Contains);
    assert!(a.conflicts(FR).is_empty());
}

#[test]
fn impossible_and_too_many_addresses_are_refused() {
    let mut a = Allocator::default();
    for text in ["0.0.0.0/0", "127.0.0.1/8", "224.0.0.1/4", "ff02::1/16"] {
        let admission = admit(&mut a, UK, text);
        assert_eq!(admission.refused, [(net(text), Refusal::NotUnicast)]);
    }
    let many: Vec<IpNet> = (1..=MAX_ADDRESSES_PER_TUNNEL as u8 + 1)
        .map(|i| IpNet::new([10, i, 0, 1].into(), 16).unwrap())
        .collect();
    let admission = a.admit(UK, &many);
    assert_eq!(admission.placements.len(), MAX_ADDRESSES_PER_TUNNEL);
    assert_eq!(admission.refused[0].1, Refusal::TooMany);
}

/// Whether two prefixes share an address, bit by bit.
fn naive_overlap(a: IpNet, b: IpNet) -> bool {
    let bits = |addr: IpAddr| match addr {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let (x, y) = (bits(a.addr()), bits(b.addr()));
    let bit = |bytes: &[u8], i: usize| bytes[i / 8] >> (7 - i % 8) & 1;
    let len = usize::from(a.prefix_len().min(b.prefix_len()));
    x.len() == y.len() && (0..len).all(|i| bit(&x, i) == bit(&y, i))
}

#[derive(Clone, Debug)]
enum Step {
    Admit(TunnelId, Vec<IpNet>),
    Release(TunnelId),
}

fn any_net() -> impl Strategy<Value = IpNet> {
    // Few distinct bits, so that collisions are the rule.
    prop_oneof![
        (0u8..4, 0u8..3, 1u8..5, 0u8..=32).prop_map(|(b, c, d, len)| IpNet::new(
            [10, b, c, d].into(),
            len
        )
        .unwrap()),
        (0u16..3, 1u16..5, 0u8..=128).prop_map(|(a, b, len)| {
            IpNet::new([0xfd00, a, 0, 0, 0, 0, 0, b].into(), len).unwrap()
        }),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let tunnel = (0u16..6).prop_map(TunnelId::new);
    prop_oneof![
        3 => (tunnel.clone(), prop::collection::vec(any_net(), 0..4))
            .prop_map(|(t, nets)| Step::Admit(t, nets)),
        1 => tunnel.prop_map(Step::Release),
    ]
}

fn any_policy() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::First),
        Just(Policy::Priority),
        Just(Policy::Sticky)
    ]
}

/// Applies one step and checks every promise about the difference it made.
fn check_step(a: &mut Allocator, step: &Step) -> Result<(), TestCaseError> {
    let before = a.clone();
    let plan = a.plan_addresses();
    let (moved, changed) = match step {
        Step::Admit(tunnel, assigned) => {
            let admission = a.admit(*tunnel, assigned);
            let added: BTreeSet<IpNet> = a.plan_addresses().difference(&plan).copied().collect();
            for place in &admission.placements {
                let own = added.contains(&place.on_device);
                let fresh = !plan.iter().any(|&d| naive_overlap(d, place.assigned));
                if fresh && before.roles(*tunnel).is_empty() {
                    prop_assert!(own, "{place:?} overlaps nothing and is not on the device");
                }
                if !place.role.is_primary() {
                    prop_assert!(!own, "a secondary changed the plan: {place:?}");
                }
            }
            let mut distinct: Vec<IpAddr> = Vec::new();
            for n in assigned {
                if !distinct.contains(&n.addr()) {
                    distinct.push(n.addr());
                }
            }
            prop_assert_eq!(admission.placements.len(), distinct.len());
            (*tunnel, admission.plan_changed)
        }
        Step::Release(tunnel) => {
            let release = a.release(*tunnel);
            prop_assert!(a.roles(*tunnel).is_empty());
            prop_assert!(a.plan_addresses().is_subset(&plan));
            (*tunnel, release.plan_changed)
        }
    };
    prop_assert_eq!(changed, plan != a.plan_addresses());
    for other in before.tunnels().filter(|&t| t != moved) {
        let addresses = |a: &Allocator| -> Vec<_> {
            let places = a.roles(other).into_iter();
            places.map(|p| (p.assigned, p.on_device)).collect()
        };
        prop_assert_eq!(addresses(&before), addresses(a), "live flows of {}", other);
    }
    Ok(())
}

fn check_state(a: &Allocator) -> Result<(), TestCaseError> {
    let plan: Vec<IpNet> = a.plan_addresses().into_iter().collect();
    for (i, &x) in plan.iter().enumerate() {
        for &y in &plan[i + 1..] {
            prop_assert!(
                !naive_overlap(x, y),
                "{} and {} overlap on the device",
                x,
                y
            );
        }
    }
    let all: Vec<(TunnelId, Placement)> = a
        .tunnels()
        .flat_map(|t| a.roles(t).into_iter().map(move |p| (t, p)))
        .collect();
    for (tunnel, place) in &all {
        let found = a.place_of(*tunnel, place.assigned.addr());
        prop_assert_eq!(found.as_ref(), Some(place));
        prop_assert!(plan.contains(&place.on_device));
        prop_assert!(naive_overlap(place.assigned, place.on_device));
    }
    for device in plan {
        let primaries: BTreeSet<TunnelId> = all
            .iter()
            .filter(|(_, p)| p.on_device == device && p.role.is_primary())
            .map(|(t, _)| *t)
            .collect();
        prop_assert_eq!(primaries.len(), 1, "primaries of {}", device);
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_step_keeps_the_promises(
        policy in any_policy(),
        priorities in prop::collection::vec(0u32..3, 6),
        steps in prop::collection::vec(any_step(), 1..30),
    ) {
        let mut a = Allocator::new(policy);
        for (i, priority) in priorities.into_iter().enumerate() {
            a.set_priority(TunnelId::new(i as u16), priority);
        }
        for step in &steps {
            check_step(&mut a, step)?;
            check_state(&a)?;
        }
        for tunnel in 0..6 {
            a.release(TunnelId::new(tunnel));
        }
        prop_assert!(a.plan_addresses().is_empty());
    }
}

/// The host routes such an address itself: as its own it would be delivered and not routed.
#[test]
fn a_tunnel_that_stays_off_the_device_brings_no_address() {
    let (uk, direct) = (TunnelId::new(0), TunnelId::new(1));
    let mut allocator = Allocator::new(Policy::First);
    allocator.keep_off_device(direct, true);
    let own: IpNet = "100.127.118.112/32".parse().unwrap();
    assert!(!allocator.admit(direct, &[own]).plan_changed);
    assert!(allocator.plan_addresses().is_empty() && !allocator.is_on_device(own.addr()));
    let place = allocator.address_for(direct, Family::V4).unwrap();
    assert_eq!(place.assigned, own);
    // Another one that shares it has to be reachable.
    assert!(allocator.admit(uk, &[own]).plan_changed);
    assert!(allocator.release(uk).plan_changed);
    allocator.keep_off_device(direct, false);
    assert!(allocator.is_on_device(own.addr()));
}
