//! Six machines that find each other through the DHT.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::traffic::{Long, iperf3, iperf3_server, pings, udp_echo};
use super::world::{Network, Node, inner, machines, outer, until};

#[test]
fn six_machines_find_each_other_and_go_on_without_the_first() {
    if vpn_lab::skip(&["ip", "ping", "iperf3"]) {
        return;
    }
    let (_switch, machines) = machines();
    let network = Network::new(6, &outer(0));
    let mut nodes: Vec<Option<Node>> = (0..6)
        .map(|number| Some(network.start(&machines[number], number, "")))
        .collect();
    // The first packet to each may meet a record that is still on its way.
    let from = Instant::now();
    for (one, machine) in machines.iter().enumerate() {
        for other in (0..6).filter(|other| *other != one) {
            until(&format!("a ping from {one} to {other}"), || {
                pings(machine, &inner(other), 5)
            });
        }
    }
    println!("all pairs answered after {:?}", from.elapsed());
    let _servers: Vec<_> = machines.iter().map(iperf3_server).collect();
    let from = Instant::now();
    let mut rates = Vec::new();
    for (one, machine) in machines.iter().enumerate() {
        for other in (0..6).filter(|other| *other != one) {
            let echoed = udp_echo(machine, &machines[other], &inner(other));
            assert!(echoed, "UDP from {one} to {other}");
            let rate = iperf3(machine, &inner(other), 2);
            assert!(rate > 1.0, "{one} to {other}: {rate}");
            rates.push(rate);
        }
    }
    rates.sort_by(f64::total_cmp);
    println!(
        "UDP echo and iperf3 between all {} pairs in {:?}: {:.0} to {:.0} Mbit/s",
        rates.len(),
        from.elapsed(),
        rates[0],
        rates[rates.len() - 1]
    );
    // Nothing gets to a port that is not allowed.
    let refused = machines[1].run(|| {
        let to = format!("{}:22", inner(2)).parse().expect("an address");
        std::net::TcpStream::connect_timeout(&to, Duration::from_secs(1))
    });
    let kind = refused.expect("inside").expect_err("refused").kind();
    assert_eq!(kind, std::io::ErrorKind::TimedOut);

    // The bootstrap node dies, without a word, in the middle of something.
    let long = Long::start(&machines[1], &inner(2), 6);
    thread::sleep(Duration::from_secs(2));
    let mut first = nodes[0].take().expect("it runs");
    first.process.signal(Signal::SIGKILL);
    drop(first);
    for (one, machine) in machines.iter().enumerate().skip(1) {
        for other in (1..6).filter(|other| *other != one) {
            assert!(
                pings(machine, &inner(other), 5),
                "{one} {other} without the first"
            );
        }
    }
    long.survives();
    // One ends, and comes back by those it knew.
    nodes[3].take().expect("it runs").ends();
    let known = fs::read_to_string(network.path("3.known")).expect("a file");
    assert!(known.lines().count() >= 2, "{known}");
    let from = Instant::now();
    nodes[3] = Some(network.start(&machines[3], 3, ""));
    for other in [1, 2, 4, 5] {
        until("a ping", || pings(&machines[3], &inner(other), 5));
        until("an answer", || pings(&machines[other], &inner(3), 5));
    }
    println!("one came back without the first after {:?}", from.elapsed());

    // One is killed and started again at once: the others believe in connections that are dead. Those
    // were not made in the very moment before.
    thread::sleep(Duration::from_secs(1));
    let mut killed = nodes[4].take().expect("it runs");
    killed.process.signal(Signal::SIGKILL);
    drop(killed);
    let from = Instant::now();
    nodes[4] = Some(network.start(&machines[4], 4, ""));
    for other in [1, 2, 3, 5] {
        until("an answer", || pings(&machines[other], &inner(4), 1));
        until("a ping", || pings(&machines[4], &inner(other), 1));
    }
    let took = from.elapsed();
    println!("one that was killed is back after {took:?}");
    // A silent connection is believed in for 20 s.
    assert!(took < Duration::from_secs(12), "{took:?}");
    for node in nodes.into_iter().flatten() {
        node.ends();
    }
}
