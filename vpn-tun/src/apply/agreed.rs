//! Decides what may go around the device when a plan could not be applied. Pure.
//!
//! By then the router has the new plan's rules. What the old list let around may be what they send into a
//! tunnel; what the new one lets around may be what could not be applied.

use vpn_core::{Bypass, Way};

/// A list that lets around only what both lists let around: what is captured before anything else by
/// either, and then what decides alike in both.
pub(super) fn agreed(old: &[Bypass], new: &[Bypass]) -> Vec<Bypass> {
    if old == new {
        return old.to_vec();
    }
    let (old_first, old_rest) = captured_first(old);
    let (new_first, new_rest) = captured_first(new);
    let same = old_rest.iter().zip(new_rest).take_while(|(a, b)| a == b);
    let mut list = old_first.to_vec();
    list.extend(
        new_first
            .iter()
            .filter(|entry| !old_first.contains(entry))
            .cloned(),
    );
    list.extend(same.map(|(entry, _)| entry.clone()));
    list
}

/// What a list captures before it lets anything around, and the rest.
fn captured_first(list: &[Bypass]) -> (&[Bypass], &[Bypass]) {
    let first = list.iter().position(|entry| entry.way == Way::Main);
    list.split_at(first.unwrap_or(list.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn lists() -> impl Strategy<Value = Vec<Bypass>> {
        let entry = (any::<bool>(), prop::option::of(0u32..3));
        let entry = entry.prop_map(|(main, uid)| {
            let mut entry = Bypass::new(if main { Way::Main } else { Way::Capture });
            entry.uids = uid.map(|uid| uid..=uid);
            entry
        });
        vec(entry, 0..6)
    }

    fn way(list: &[Bypass], uid: u32) -> Way {
        let meant = |e: &&Bypass| e.uids.as_ref().is_none_or(|uids| uids.contains(&uid));
        list.iter().find(meant).map_or(Way::Capture, |e| e.way)
    }

    proptest! {
        #[test]
        fn what_is_agreed_goes_around_by_both(old in lists(), new in lists()) {
            let list = agreed(&old, &new);
            for uid in 0..4 {
                if way(&list, uid) == Way::Main {
                    prop_assert_eq!((way(&old, uid), way(&new, uid)), (Way::Main, Way::Main));
                }
            }
            prop_assert_eq!(agreed(&old, &old), old);
        }
    }

    /// The way to where rules come from stands first in each list: without it nothing is ever mended.
    #[test]
    fn what_stands_first_in_both_stays_whatever_resolvers_there_are() {
        let to = |net: &str, way| Bypass::new(way).destination(net.parse().unwrap());
        let dns = |host: u8| to(&format!("10.99.0.{host}/32"), Way::Capture);
        let (own, user) = (
            to("192.0.2.7/32", Way::Main),
            Bypass::new(Way::Main).uids(1000..=1000),
        );
        let list = agreed(&[dns(1), own.clone(), user], &[dns(2), own.clone()]);
        assert_eq!(list, [dns(1), dns(2), own]);
    }
}
