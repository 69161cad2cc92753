//! The mesh in the daemon of provider tunnels, as one tunnel of its router.

use super::*;

/// A daemon of provider tunnels with the mesh among them, and its rules.
#[test]
fn the_multi_region_daemon_has_the_mesh_as_a_tunnel() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let (hub, a, b) = (lab.hub(), lab.host(Side::A), lab.host(Side::B));
    let mesh = Mesh::new("a,b");
    let text = "metrics = \"127.0.0.1:9100\"\n\n[mesh]\nconfig = \"mesh.toml\"\n\n[dns]\napply = \"none\"\n\n\
                [[inbound]]\ntunnel = \"mesh\"\nproto = \"icmp\"\n\n\
                [[rule]]\ndst = \"10.77.0.9/32\"\nto = \"block\"\n";
    let config = mesh.path("a/multi-region.toml");
    fs::write(&config, text).expect("a file");
    of_b_called(&mesh, "bee");
    a.ip("link set lo up").expect("loopback");
    let mut command = Command::new(multi_region());
    command.args(["run", "--config"]).arg(&config);
    let daemons = [mesh.hub(hub), mesh.join(b, "b")];
    let daemon = Daemon::run(a, command, mesh.path("multi-region.log"));
    assert!(
        pings(a, "10.77.0.3", 3).contains("3 received"),
        "{}",
        daemon.said()
    );
    assert!(
        pings(b, "10.77.0.2", 3).contains("3 received"),
        "{}",
        daemon.said()
    );
    mesh.until_path("b", "a", "direct", DIRECT);
    assert!(
        pings(a, "198.51.100.30", 1).contains("0 received"),
        "nothing past it"
    );
    multi_region_shows_the_mesh(&mesh, a);
    // Its file changed: the mesh that is made anew is the one that is told of.
    mesh.edit("a/mesh.toml", "\"bee\"", "\"wasp\"");
    asked(&mesh, &["reload"]);
    let end = Instant::now() + READY;
    while !asked(&mesh, &["status"]).contains("\nmesh: up") {
        assert!(Instant::now() < end, "{}", daemon.said());
        thread::sleep(Duration::from_millis(50));
    }
    assert!(pings(a, "10.77.0.3", 3).contains("3 received"));
    let told = asked(&mesh, &["status", "--json"]);
    assert!(
        told.contains("\"wasp\"") && !told.contains("\"bee\""),
        "{told}"
    );
    daemon.ends();
    drop(daemons);
}

fn multi_region() -> PathBuf {
    program().with_file_name("multi-region")
}

/// What that daemon of a answers.
fn asked(mesh: &Mesh, arguments: &[&str]) -> String {
    let mut command = Command::new(multi_region());
    command.args(arguments).arg("--control");
    command.arg(mesh.path("a/multi-region.sock"));
    let output = command.output().expect("the program");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Gives b a name in a's file.
fn of_b_called(mesh: &Mesh, name: &str) {
    let key = run(&["pubkey", "--key", &text(&mesh.path("b/b.key"))]).1;
    let peer = format!("\n[[peers]]\nkey = \"{}\"\nname = \"{name}\"\n", key.trim());
    mesh.append("a/mesh.toml", &peer);
}

/// What `mesh status` and a member's metrics tell is told by the other daemon as well.
fn multi_region_shows_the_mesh(mesh: &Mesh, a: &Namespace) {
    let told: Value = serde_json::from_str(&asked(mesh, &["status", "--json"])).expect("JSON");
    let mesh_of = &told["tunnels"]["mesh"]["mesh"];
    let (hub, peer) = (&mesh_of["hubs"][0], &mesh_of["peers"][0]);
    assert_eq!(
        (&hub["endpoint"], &hub["state"]),
        (&HUB.into(), &"up".into())
    );
    let of_b = mesh.status("b");
    assert_eq!(mesh_of["addresses"][0], "10.77.0.2");
    assert_eq!(mesh_of["key"], of_b["peers"][0]["key"]);
    assert_eq!(peer["key"], of_b["key"]);
    assert_eq!(
        (&peer["name"], &peer["path"]),
        (&"bee".into(), &"direct".into())
    );
    assert_eq!(peer["addresses"][0], "10.77.0.3");
    assert!(peer["rx_packets"].as_u64() > Some(2), "{peer:#}");

    let text = asked(mesh, &["status"]);
    let line = |start: &str| {
        let found = text
            .lines()
            .find(|line| line.trim_start().starts_with(start));
        found.unwrap_or_else(|| panic!("{start} in {text}"))
    };
    assert!(
        line("hub ").contains(HUB) && line("hub ").contains(" up "),
        "{text}"
    );
    let endpoint = peer["endpoint"].as_str().expect("an endpoint");
    for part in ["bee", "direct", endpoint, " ms "] {
        assert!(line("peer ").contains(part), "{part} in {text}");
    }

    let mut command = Command::new("curl");
    command.args(["-s", "-m", "5", "http://127.0.0.1:9100/metrics"]);
    let output = a.output(command, LIMIT).expect("curl").stdout;
    for line in [
        "vpn_mesh_peers{mesh=\"mesh\",path=\"direct\"} 1",
        "vpn_mesh_hub_up{mesh=\"mesh\",hub=\"0\"} 1",
        "vpn_tunnel_up{tunnel=\"mesh\"} 1",
    ] {
        assert!(output.contains(line), "{line} in {output}");
    }
}
