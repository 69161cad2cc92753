//! A LAN behind a member: reached when both sides say so, and only then.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use vpn_lab::{Namespace, NatKind, Side, veth};

use super::{Mesh, lab, pings};

const LAN: &str = "192.168.7.0/24";
const LAN_HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 9);
const LAN_GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);

/// A host in a LAN behind host a, which is its way to everywhere.
fn lan_behind(a: &Namespace) -> Namespace {
    let host = Namespace::new("lan").expect("a namespace");
    veth(&host, "eth0", a, "lan0").expect("a cable");
    a.add_address("lan0", LAN_GATEWAY.into(), 24)
        .expect("an address");
    host.add_address("eth0", LAN_HOST.into(), 24)
        .expect("an address");
    host.add_route("default", LAN_GATEWAY.into())
        .expect("a route");
    host
}

/// A mesh in which `who` of a (routes), b (admits it of a) and the hub (may have it) know the LAN.
fn mesh(a_tells: bool, b_admits: bool) -> Mesh {
    let mesh = Mesh::new("a,b");
    mesh.edit(
        "hub/hub.toml",
        "name = \"a\"\n",
        &format!("name = \"a\"\nroutes = [\"{LAN}\"]\n"),
    );
    if a_tells {
        mesh.edit(
            "a/mesh.toml",
            "inbound = []",
            &format!("inbound = []\nroutes = [\"{LAN}\"]"),
        );
    }
    let key = super::run(&["pubkey", "--key", &super::text(&mesh.path("a/a.key"))]).1;
    let mut of_a = format!("\n[[peers]]\nkey = \"{}\"\nname = \"a\"\n", key.trim());
    if b_admits {
        of_a.push_str(&format!("routes = [\"{LAN}\"]\n"));
    }
    mesh.append("b/mesh.toml", &of_a);
    mesh
}

/// Whether somebody gets bytes to a listener on the LAN host and back.
fn talks(from: &Namespace, to: &Namespace) -> bool {
    let at: SocketAddr = (LAN_HOST, 7).into();
    let listener = to.run(|| TcpListener::bind(at)).expect("inside");
    let listener = listener.expect("a port");
    let server = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().ok()?;
        let mut word = [0; 5];
        stream.read_exact(&mut word).ok()?;
        stream.write_all(&word).ok()?;
        Some(peer)
    });
    let said = from.run(|| {
        let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(3)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
        stream.write_all(b"hello").ok()?;
        let mut word = [0; 5];
        stream.read_exact(&mut word).ok()?;
        Some(word)
    });
    if said.expect("inside") != Some(*b"hello") {
        return false;
    }
    let peer = server.join().expect("the server").expect("a peer");
    assert_eq!(peer.ip().to_string(), "10.77.0.3", "with b's own address");
    true
}

fn forwards(namespace: &Namespace, interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/forwarding");
    let now = namespace.run(move || std::fs::read_to_string(path));
    now.expect("inside").is_ok_and(|now| now.trim() == "1")
}

fn ends_with_nothing_left(mesh: &Mesh, a: &Namespace) {
    assert!(!forwards(a, "lan0"), "forwarding is as before");
    let tables = a.tool("nft", "list tables").expect("nft");
    assert!(!tables.contains("vpn_tun"), "{tables}");
    assert!(!mesh.path("a/mesh.journal").exists());
}

/// P7, L-18: both directions, with addresses kept; the host is no router for anybody else.
#[test]
fn a_lan_behind_a_member_is_reached_and_reaches() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let (a, b) = (lab.host(Side::A), lab.host(Side::B));
    let lan = lan_behind(a);
    let mesh = mesh(true, true);
    let (_hub, of_a) = (mesh.hub(lab.hub()), mesh.join(a, "a"));
    let _of_b = mesh.join(b, "b");
    let got = pings(b, &LAN_HOST.to_string(), 3);
    assert!(got.contains("3 received"), "{got}: {:#}", mesh.status("b"));
    assert!(talks(b, &lan));
    assert!(
        pings(&lan, "10.77.0.3", 2).contains("2 received"),
        "from the LAN"
    );
    assert!(
        pings(a, "198.51.100.30", 1).contains("1 received"),
        "a itself"
    );
    // The NAT of a would masquerade it, and know the way back.
    let nat = lab.router(Side::A).namespace();
    nat.add_route(LAN, lab.lan4(Side::A).into())
        .expect("a route");
    let got = pings(&lan, "198.51.100.30", 1);
    assert!(got.contains("0 received"), "a router for its neighbours");
    let mut of_a = of_a;
    of_a.process.signal(Signal::SIGHUP);
    let ended = of_a.process.wait(super::ENDS).expect("an end");
    assert!(ended.success(), "{}", of_a.said());
    ends_with_nothing_left(&mesh, a);
}

/// A crash: what it set stays, and the next run takes it back, also if it has no routes any more.
#[test]
fn forwarding_of_a_killed_member_is_undone_by_the_next() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let a = lab.host(Side::A);
    let _lan = lan_behind(a);
    let mesh = mesh(true, true);
    let _hub = mesh.hub(lab.hub());
    let mut killed = mesh.join(a, "a");
    killed.process.signal(Signal::SIGKILL);
    killed.process.wait(super::ENDS).expect("an end");
    assert!(forwards(a, "lan0") && mesh.path("a/mesh.journal").exists());
    mesh.edit(
        "a/mesh.toml",
        &format!("routes = [\"{LAN}\"]"),
        "routes = []",
    );
    let next = mesh.join(a, "a");
    ends_with_nothing_left(&mesh, a);
    next.ends();
}

/// Forwarding outlives the process: a start that fails late must not have begun it.
#[test]
fn a_member_that_does_not_start_forwards_nothing() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let a = lab.host(Side::A);
    let _lan = lan_behind(a);
    let mesh = mesh(true, true);
    let taken = a.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 9177)));
    let _taken = taken.expect("inside").expect("a port");
    mesh.edit(
        "a/mesh.toml",
        "inbound = []",
        "inbound = []\nmetrics = \"127.0.0.1:9177\"",
    );
    let config = super::text(&mesh.path("a/mesh.toml"));
    let mut command = super::command_of(&["join", "--config", &config]);
    command.stderr(Stdio::piped());
    let mut member = a.spawn(command).expect("the program");
    let ended = member.wait(super::READY).expect("an end");
    let mut said = String::new();
    let errors = member.child().stderr.take();
    errors.map(|mut pipe| pipe.read_to_string(&mut said));
    assert!(!ended.success() && said.contains("metrics"), "{said}");
    ends_with_nothing_left(&mesh, a);
}

/// This host is a machine of the LAN too; what it is reached by is `inbound`'s to say.
#[test]
fn the_member_itself_is_not_reached_by_its_address_in_the_lan() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let (a, b) = (lab.host(Side::A), lab.host(Side::B));
    let lan = lan_behind(a);
    let mesh = mesh(true, true);
    let _hub = mesh.hub(lab.hub());
    let _daemons = [mesh.join(a, "a"), mesh.join(b, "b")];
    assert!(pings(b, "10.77.0.2", 1).contains("1 received"));
    assert!(talks(b, &lan));
    let listener = a.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 7)));
    let _listener = listener.expect("inside").expect("a port");
    let connects = |at: Ipv4Addr| {
        let limit = Duration::from_secs(2);
        let connected = b.run(move || TcpStream::connect_timeout(&(at, 7).into(), limit));
        connected.expect("inside").is_ok()
    };
    assert!(!connects(Ipv4Addr::new(10, 77, 0, 2)), "`inbound` is empty");
    assert!(!connects(LAN_GATEWAY), "past `inbound`");
    assert!(pings(b, &LAN_GATEWAY.to_string(), 1).contains("0 received"));
}

#[test]
fn what_is_not_told_or_not_admitted_is_not_reached() {
    for (a_tells, b_admits) in [(false, true), (true, false)] {
        let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
            return;
        };
        let (a, b) = (lab.host(Side::A), lab.host(Side::B));
        let lan = lan_behind(a);
        let mesh = mesh(a_tells, b_admits);
        let _hub = mesh.hub(lab.hub());
        let _daemons = [mesh.join(a, "a"), mesh.join(b, "b")];
        if !b_admits {
            // As if its user led it there: the mesh does not go along.
            b.ip(&format!("route add {LAN} dev mesh0"))
                .expect("a route");
        }
        assert!(pings(b, "10.77.0.2", 1).contains("1 received"));
        let got = pings(b, &LAN_HOST.to_string(), 2);
        assert!(got.contains("0 received"), "{a_tells} {b_admits}: {got}");
        assert!(!talks(b, &lan), "{a_tells} {b_admits}");
        if !b_admits {
            // The LAN's own packets have a source that is not a's for b: P15.
            let before = spoofed(&mesh);
            assert!(pings(&lan, "10.77.0.3", 2).contains("0 received"));
            assert!(spoofed(&mesh) >= before + 2, "{:#}", mesh.status("b"));
        }
    }
}

/// How many packets b dropped for an inner source that is not their sender's.
fn spoofed(mesh: &Mesh) -> u64 {
    mesh.status("b")["drops"]["address_not_allowed"]
        .as_u64()
        .unwrap_or(0)
}

/// Without a hub too: the system would send it out below, in the clear.
#[test]
fn what_is_for_the_mesh_goes_nowhere_else_while_nobody_is_reached() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let b = lab.host(Side::B);
    let mesh = mesh(true, true);
    let _of_b = mesh.join(b, "b");
    for to in [LAN_HOST.to_string(), "10.77.0.2".to_owned()] {
        let way = b.tool("ip", &format!("route get {to}")).expect("a route");
        assert!(way.contains("dev mesh0"), "{way}");
        assert!(pings(b, &to, 1).contains("0 received"));
    }
}

/// `forward` says what of the LAN is reached.
#[test]
fn forward_says_what_of_the_lan_is_reached() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let (a, b) = (lab.host(Side::A), lab.host(Side::B));
    let lan = lan_behind(a);
    let mesh = mesh(true, true);
    mesh.edit("a/mesh.toml", "inbound = []", "inbound = []\nforward = []");
    let _hub = mesh.hub(lab.hub());
    let _daemons = [mesh.join(a, "a"), mesh.join(b, "b")];
    let got = pings(b, &LAN_HOST.to_string(), 2);
    assert!(got.contains("2 received"), "{got}: {:#}", mesh.status("b"));
    assert!(!talks(b, &lan), "pings alone");
}
