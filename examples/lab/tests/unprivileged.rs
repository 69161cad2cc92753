//! Namespaces without root: in a user namespace, entered before any thread exists.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test with a main of its own"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::time::Duration;

use vpn_lab::{
    LabPlan, Namespace, ProviderLab, SITE4, SITE6, client, enter_user_namespace, missing, veth,
};

fn main() {
    // `cargo test -- --list` and filters ask before they run.
    if std::env::args().any(|argument| argument == "--list") {
        println!("namespaces_without_root: test");
        return;
    }
    if let Err(error) = enter_user_namespace() {
        println!("SKIPPED: {error}: this system allows no user namespaces");
        return;
    }
    if let Some(reason) = missing(&[])
        && !reason.contains("/dev/net/tun")
    {
        println!("SKIPPED: {reason}");
        return;
    }
    two_machines_and_a_cable();
    processes_start_inside_and_end_with_their_value();
    println!("test namespaces_without_root ... ok");
    if let Some(reason) = missing(&["bridge"]) {
        println!("SKIPPED: providers_without_root: {reason}");
        return;
    }
    a_lab_with_our_own_servers();
    println!("test providers_without_root ... ok");
}

fn a_lab_with_our_own_servers() {
    let lab = ProviderLab::start(LabPlan::default()).expect("a lab");
    for region in lab.regions() {
        let name = region.namespace().run(|| client::region_of(SITE4.into()));
        assert_eq!(name.expect("inside").expect("an answer"), region.name());
    }
    let name = lab.client().run(|| client::region_of(SITE6.into()));
    assert_eq!(name.expect("inside").expect("an answer"), "direct");
}

fn two_machines_and_a_cable() {
    let a = Namespace::new("a").expect("a namespace");
    let b = Namespace::new("b").expect("a namespace");
    veth(&a, "eth0", &b, "eth0").expect("a cable");
    let addresses: [(IpAddr, IpAddr, u8); 2] = [
        (
            Ipv4Addr::new(10, 0, 0, 1).into(),
            Ipv4Addr::new(10, 0, 0, 2).into(),
            24,
        ),
        (
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into(),
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).into(),
            64,
        ),
    ];
    for (here, there, prefix) in addresses {
        a.add_address("eth0", here, prefix).expect("an address");
        b.add_address("eth0", there, prefix).expect("an address");
        let listener = b
            .run(|| TcpListener::bind((there, 80)))
            .expect("inside")
            .expect("a listener");
        let limit = Duration::from_secs(5);
        a.run(|| TcpStream::connect_timeout(&(there, 80).into(), limit))
            .expect("inside")
            .expect("a connection");
        drop(listener);
    }
    a.set_rp_filter(1).expect("rp_filter");
    a.set_mtu("eth0", 1400).expect("an MTU");
    a.forward().expect("forwarding");
}

fn processes_start_inside_and_end_with_their_value() {
    let namespace = Namespace::new("c").expect("a namespace");
    namespace
        .ip("link add only-here type veth")
        .expect("a link");
    let links = namespace.tool("ip", "-o link show").expect("links");
    assert!(links.contains("only-here"), "{links}");
    let mut command = std::process::Command::new("sleep");
    command.arg("60");
    let process = namespace.spawn(command).expect("a process");
    let folder = format!("/proc/{}", process.id());
    assert!(std::path::Path::new(&folder).exists());
    drop(process);
    assert!(!std::path::Path::new(&folder).exists());
}
