//! The kernel's answers keep the contract of a resolver.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use socket2::Socket;
use vpn_core::testing::conformance::{OwnerFixture, owner_resolver};
use vpn_core::{Owner, OwnerDetail, OwnerQuery, OwnerResolver, Protocol};
use vpn_routing::owner::LinuxOwners;

use crate::common::*;

const SITE: &str = "127.0.0.9:53";

/// Alice has port 5000, and two users have port 5001.
struct Fixture {
    owners: LinuxOwners,
    alice: Socket,
    _shared: [Socket; 2],
}

#[async_trait]
impl OwnerFixture for Fixture {
    fn resolver(&self) -> &dyn OwnerResolver {
        &self.owners
    }
    fn known(&self) -> Vec<(OwnerQuery, Owner)> {
        let by_user = query(Protocol::UDP, "127.0.0.1:5000", SITE);
        let by_process = OwnerQuery {
            detail: OwnerDetail::Process,
            ..by_user
        };
        let user = Owner {
            socket: inode(&self.alice),
            ..Owner::user(ALICE)
        };
        let program = std::env::current_exe().unwrap().canonicalize().unwrap();
        let process = Owner {
            executable: Some(Arc::from(program)),
            ..user.clone()
        };
        vec![(by_user, user), (by_process, process)]
    }
    fn unknown(&self) -> Vec<OwnerQuery> {
        [5001, 5002]
            .map(|port| query(Protocol::UDP, &format!("127.0.0.1:{port}"), SITE))
            .into()
    }
    async fn patience(&self) {
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

#[test]
fn owners_of_the_kernel_conform() {
    in_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let make = async || Fixture {
            owners: owners(),
            alice: udp(ALICE, "127.0.0.1:5000"),
            _shared: [ALICE, BOB].map(|uid| udp(uid, "127.0.0.1:5001")),
        };
        runtime.block_on(owner_resolver(make)).unwrap();
    });
}
