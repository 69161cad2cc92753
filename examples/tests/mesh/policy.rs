//! What one peer may, by the file: which ways, and what it may begin.

use std::net::{TcpListener, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use vpn_lab::{Namespace, NatKind, Side};

use super::{DIRECT, Mesh, lab, pings};

fn of_peer(mesh: &Mesh, file: &str, peer: &str, rest: &str) {
    let key = super::run(&[
        "pubkey",
        "--key",
        &super::text(&mesh.path(&format!("{peer}/{peer}.key"))),
    ]);
    let table = format!(
        "\n[[peers]]\nkey = \"{}\"\nname = \"{peer}\"\n{rest}\n",
        key.1.trim()
    );
    mesh.append(file, &table);
}

/// P6: by the relay though both could be direct; and no way at all where only direct is allowed and the
/// NATs do not.
#[test]
fn a_peer_may_be_relayed_only_or_direct_only() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let (a, b) = (lab.host(Side::A), lab.host(Side::B));
    let mesh = Mesh::new("a,b,c");
    of_peer(&mesh, "a/mesh.toml", "b", "policy = \"relay-only\"");
    let _daemons = [
        mesh.hub(lab.hub()),
        mesh.join(a, "a"),
        mesh.join(b, "b"),
        mesh.join(lab.public(), "c"),
    ];
    assert!(pings(a, "10.77.0.3", 2).contains("2 received"));
    assert!(pings(a, "10.77.0.4", 2).contains("2 received"));
    mesh.until_path("a", "c", "direct", DIRECT);
    for _ in 0..10 {
        let path = mesh.path_of("a", "b");
        assert_eq!(path["path"], "relay", "{path:#}");
        assert!(pings(a, "10.77.0.3", 1).contains("1 received"));
        sleep(Duration::from_millis(200));
    }
}

#[test]
fn who_is_direct_only_is_not_relayed() {
    let Some(lab) = lab(NatKind::Symmetric, NatKind::Symmetric) else {
        return;
    };
    let (a, b) = (lab.host(Side::A), lab.host(Side::B));
    let mesh = Mesh::new("a,b,c");
    of_peer(&mesh, "a/mesh.toml", "b", "policy = \"direct-only\"");
    let _daemons = [
        mesh.hub(lab.hub()),
        mesh.join(a, "a"),
        mesh.join(b, "b"),
        mesh.join(lab.public(), "c"),
    ];
    assert!(
        pings(a, "10.77.0.4", 2).contains("2 received"),
        "the rule of all"
    );
    let got = pings(a, "10.77.0.3", 4);
    assert!(got.contains("0 received"), "{got}");
    assert_eq!(mesh.path_of("a", "b")["path"], "none");
}

/// R20: that peer, to that port, which is another one here; nobody else, and no other port.
#[test]
fn one_peer_may_what_others_may_not() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let (a, b, c) = (lab.host(Side::A), lab.host(Side::B), lab.public());
    let mesh = Mesh::new("a,b,c");
    of_peer(&mesh, "a/mesh.toml", "b", "addresses = [\"10.77.0.3\"]");
    mesh.edit(
        "a/mesh.toml",
        "inbound = []",
        "inbound = [{ peer = \"b\", proto = \"tcp\", port = 80, to_port = 8080 }]",
    );
    let _daemons = [
        mesh.hub(lab.hub()),
        mesh.join(a, "a"),
        mesh.join(b, "b"),
        mesh.join(c, "c"),
    ];
    let listener = a.run(|| TcpListener::bind("10.77.0.2:8080"));
    let _listener = listener.expect("inside").expect("a port");
    let reaches = |from: &Namespace, port: u16| {
        let to = ([10, 77, 0, 2], port).into();
        let limit = Duration::from_secs(2);
        let connected = from.run(move || TcpStream::connect_timeout(&to, limit).is_ok());
        connected.expect("inside")
    };
    assert!(
        pings(c, "10.77.0.2", 1).contains("1 received"),
        "pings are for all"
    );
    assert!(reaches(b, 80), "published for it");
    assert!(!reaches(b, 8080), "that port is not");
    assert!(!reaches(c, 80), "nor for anybody else");
}

/// L-28: what Prometheus gets of a member and of a hub.
#[test]
fn members_and_hubs_tell_metrics() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let (hub, a, b) = (lab.hub(), lab.host(Side::A), lab.host(Side::B));
    for namespace in [hub, a] {
        namespace.ip("link set lo up").expect("loopback");
    }
    let mesh = Mesh::new("a,b");
    let metrics = "metrics = \"127.0.0.1:9100\"\n";
    mesh.edit(
        "a/mesh.toml",
        "inbound = []\n",
        &format!("inbound = []\n{metrics}"),
    );
    mesh.edit(
        "hub/hub.toml",
        "tls = true\n",
        &format!("tls = true\n{metrics}"),
    );
    let _daemons = [mesh.hub(hub), mesh.join(a, "a"), mesh.join(b, "b")];
    assert!(pings(a, "10.77.0.3", 2).contains("2 received"));
    mesh.until_path("a", "b", "direct", DIRECT);
    let read = |of: &Namespace| {
        let mut command = std::process::Command::new("curl");
        command.args(["-s", "-m", "5", "http://127.0.0.1:9100/metrics"]);
        of.output(command, super::LIMIT).expect("curl").stdout
    };
    let member = read(a);
    for line in [
        "vpn_mesh_peers{mesh=\"mesh\",path=\"direct\"} 1",
        "vpn_mesh_hub_up{mesh=\"mesh\",hub=\"0\"} 1",
    ] {
        assert!(member.contains(line), "{line} in {member}");
    }
    let told = read(hub);
    let line = "vpn_hub_members{hub=\"hub\",state=\"here\"} 2";
    assert!(told.contains(line), "{line} in {told}");
}
