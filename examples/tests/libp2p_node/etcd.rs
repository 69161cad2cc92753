//! Machines that find each other through etcd, and get their addresses from it, over TLS with certificates
//! of both sides.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use vpn_lab::{Namespace, Process};
use vpn_lab_etcd::{Papers, SERVER_NAME};

use super::traffic::{Long, iperf3_server, pings};
use super::world::{LIMIT, Network, machines, outer, until};

/// Where etcd is: at the switch.
const ETCD: &str = "192.0.2.100";

/// Seconds; the least that etcd has.
const LEASE: u64 = 5;

/// Six addresses, so that four nodes want the same one now and then.
const VPN: &str = "virtual_ip = \"auto\"\nsubnet = \"10.9.0.0/29\"";

fn etcd(switch: &Namespace, folder: &TempDir, papers: &Papers) -> Process {
    let address = ETCD.parse().expect("an address");
    let mut command = vpn_lab_etcd::command(folder.path(), address, [2379, 2380], "https");
    command.args(papers.options());
    let process = switch.spawn(command).expect("etcd");
    until("etcd's answer", || {
        let tried = switch.run(|| {
            let at = format!("{ETCD}:2379").parse().expect("an address");
            TcpStream::connect_timeout(&at, Duration::from_secs(1))
        });
        tried.is_ok_and(|connected| connected.is_ok())
    });
    process
}

/// The node's address, as it says.
fn own(network: &Network, number: usize) -> String {
    let status = network.status(number);
    let address = status["addresses"][0].as_str();
    address.expect("an address").to_owned()
}

#[test]
fn with_etcd_addresses_are_leased_and_traffic_goes_on_without_it() {
    if vpn_lab::skip(&["ip", "ping", "iperf3", "etcd"]) {
        return;
    }
    let (switch, machines) = machines();
    let at = format!("address add {ETCD}/24 dev br0");
    switch.ip(&at).expect("an address");
    let data = TempDir::new().expect("a folder");
    let papers = Papers::new();
    let mut server = etcd(&switch, &data, &papers);
    let network = Network::new(5, &outer(0));
    let file = |name: &str| papers.path(name).display().to_string();
    let table = format!(
        "discovery = \"etcd\"\netcd = [\"https://{ETCD}:2379\"]\netcd_lease = {LEASE}\n\
         etcd_server_name = \"{SERVER_NAME}\"\netcd_ca = \"{}\"\n\
         etcd_certificate = \"{}\"\netcd_key = \"{}\"",
        file("ca.pem"),
        file("client.pem"),
        file("client.key"),
    );
    let start = |number: usize| network.start_with(&machines[number], number, &table, VPN);
    let mut nodes: Vec<_> = (0..3).map(start).collect();
    let mut addresses: Vec<_> = (0..3).map(|number| own(&network, number)).collect();
    println!("leased: {addresses:?}");
    let different: BTreeSet<_> = addresses.iter().collect();
    assert_eq!(different.len(), 3, "{addresses:?}");
    for address in &addresses {
        assert!(address.starts_with("10.9.0."), "{address}");
    }
    // All pairs but 0 and 2.
    for (one, other) in [(0, 1), (1, 0), (1, 2), (2, 1)] {
        let what = format!("a ping from {one} to {other}");
        until(&what, || pings(&machines[one], &addresses[other], 5));
    }

    // etcd dies in the middle of something, for longer than a lease.
    let _server = iperf3_server(&machines[1]);
    let long = Long::start(&machines[0], &addresses[1], 12);
    thread::sleep(Duration::from_secs(2));
    server.signal(Signal::SIGKILL);
    let gone = server.wait(LIMIT).expect("it is dead");
    assert!(!gone.success());
    let from = Instant::now();
    while from.elapsed() < Duration::from_secs(2 * LEASE) {
        for (one, other) in [(1, 0), (2, 1)] {
            let answered = pings(&machines[one], &addresses[other], 5);
            assert!(answered, "{one} to {other} without etcd");
        }
        // These two have not spoken before: each has a copy of what etcd had.
        assert!(pings(&machines[0], &addresses[2], 5), "0 to 2");
        thread::sleep(Duration::from_millis(500));
    }
    long.survives();
    let told = network.status(0)["etcd"].clone();
    assert_eq!(told["following"], false, "{told}");
    assert!(
        told["trouble"]
            .as_str()
            .is_some_and(|why| why.contains(ETCD)),
        "{told}"
    );

    // It comes back: who had an address has it, and there is room for a fourth.
    server = etcd(&switch, &data, &papers);
    let from = Instant::now();
    nodes.push(start(3));
    addresses.push(own(&network, 3));
    println!("a fourth after {:?}: {}", from.elapsed(), addresses[3]);
    let different: BTreeSet<_> = addresses.iter().collect();
    assert_eq!(different.len(), 4, "{addresses:?}");
    thread::sleep(Duration::from_secs(LEASE));
    for (number, had) in addresses.iter().enumerate() {
        assert_eq!(*had, own(&network, number), "{number}");
        for (other, address) in addresses.iter().enumerate() {
            if other != number {
                let what = format!("a ping from {number} to {other}");
                until(&what, || pings(&machines[number], address, 5));
            }
        }
    }

    let told = network.status(0)["etcd"].clone();
    assert_eq!(
        (&told["following"], &told["records"]),
        (&true.into(), &4.into()),
        "{told}"
    );

    // One dies: until its lease is over, nobody else gets its address.
    let mut dead = nodes.remove(2);
    dead.process.signal(Signal::SIGKILL);
    drop(dead);
    let from = Instant::now();
    let wanted = format!(
        "virtual_ip = \"{}\"\nsubnet = \"10.9.0.0/29\"",
        addresses[2]
    );
    let refused = network.command(4, &table, &wanted);
    let refused = machines[4].output(refused, LIMIT).expect("it ends");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = &refused.stderr;
    assert!(said.contains("/32 are taken"), "{said}");
    // etcd ends a lease a moment after it is over, and it was renewed up to a third of it before.
    thread::sleep(Duration::from_secs(LEASE + 3).saturating_sub(from.elapsed()));
    nodes.push(network.start_with(&machines[4], 4, &table, &wanted));
    println!("its address is another's after {:?}", from.elapsed());
    assert_eq!(own(&network, 4), addresses[2]);
    for number in [0, 1, 3] {
        let what = format!("a ping from {number} to who has it now");
        until(&what, || pings(&machines[number], &addresses[2], 5));
        let what = "its ping";
        until(what, || pings(&machines[4], &addresses[number], 5));
    }
    // One that is told to end gives its address back: it is another's at once.
    nodes.pop().expect("the last").ends();
    let from = Instant::now();
    nodes.push(network.start_with(&machines[2], 2, &table, &wanted));
    println!("and another's {:?} after it was stopped", from.elapsed());
    assert_eq!(own(&network, 2), addresses[2]);
    for node in nodes {
        node.ends();
    }
    drop(server);
}
