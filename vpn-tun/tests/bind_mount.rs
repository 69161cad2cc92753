//! A `resolv.conf` that is a mount of its own, as in containers: only writing in place works.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeSet;
use std::fs;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use vpn_tun::dns::Restored;
use vpn_tun::{DnsApply, SystemDns};

#[test]
fn a_bind_mounted_file_is_written_and_restored() {
    let run = || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
            let required = std::env::var_os("VPN_LAB_REQUIRED").is_some_and(|value| value == "1");
            assert!(!required, "this test must not be skipped here: {error}");
            println!("SKIPPED: no mount namespace of our own ({error}); run as root");
            return;
        }
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (below, path) = (dir.path().join("below"), dir.path().join("resolv.conf"));
        let before = "nameserver 192.0.2.1\n# no newline at the end";
        fs::write(&below, before).unwrap();
        fs::write(&path, "").unwrap();
        mount(Some(&below), &path, none, MsFlags::MS_BIND, none).unwrap();
        // The tool of others: a replacement does not work here.
        let new = dir.path().join("new");
        fs::write(&new, "").unwrap();
        fs::rename(&new, &path).unwrap_err();
        let mut dns = SystemDns::new(DnsApply::ResolvConf, &path);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let servers = BTreeSet::from(["10.9.9.9".parse().unwrap()]);
        runtime.block_on(dns.apply(&servers)).unwrap();
        assert!(
            fs::read_to_string(&below)
                .unwrap()
                .contains("nameserver 10.9.9.9\n")
        );
        assert_eq!(runtime.block_on(dns.restore()).unwrap(), Restored::Restored);
        assert_eq!(fs::read_to_string(&below).unwrap(), before);
    };
    std::thread::spawn(run).join().unwrap();
}
