//! Numbers and names as people read them, short.

use std::collections::BTreeMap;

pub(crate) use vpn_examples::words::{bytes, count, milliseconds, rate};

use super::snapshot::Owner;

/// What an application is called: its package, its program and user, or its user.
pub(crate) fn app(owner: &Owner, users: &BTreeMap<u32, String>) -> String {
    let user = match owner.uid {
        Some(uid) => match users.get(&uid) {
            Some(name) => name.clone(),
            None => format!("uid {uid}"),
        },
        None if owner.inbound => return "from outside".to_owned(),
        None => return "not asked".to_owned(),
    };
    match (&owner.package, &owner.executable) {
        (Some(package), _) => package.clone(),
        (None, Some(path)) => {
            let program = path.rsplit('/').next().unwrap_or(path);
            format!("{program} ({user})")
        }
        (None, None) => user,
    }
}
