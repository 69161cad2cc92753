//! A hub that reads its configuration again.

use super::*;

/// Longer than the pause of a member that was refused.
const SOON: Duration = Duration::from_secs(45);

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < SOON, "{what} did not happen");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_hub_takes_over_another_list_and_refuses_what_needs_a_restart() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let mesh = Mesh::new("a,b");
    let file = mesh.path("hub/hub.toml");
    let both = fs::read_to_string(&file).expect("a file");
    let (alone, _) = both.rsplit_once("[[members]]").expect("two members");
    fs::write(&file, alone).expect("a file");
    let mut hub = mesh.hub(lab.hub());
    let daemons = [
        mesh.join(lab.host(Side::A), "a"),
        mesh.join(lab.host(Side::B), "b"),
    ];
    let link = |name: &str| mesh.status(name)["hubs"][0].clone();
    assert_ne!(link("b")["state"], "up");
    let (state, since) = (link("a")["state"].clone(), link("a")["since"].clone());
    assert_eq!(state, "up");

    fs::write(&file, &both).expect("a file");
    hub.process.signal(Signal::SIGHUP);
    until("b is let in", || link("b")["state"] == "up");
    assert_eq!(link("a")["since"], since, "a noticed nothing");
    assert!(pings(lab.host(Side::A), "10.77.0.3", 2).contains("2 received"));

    for (wrong, key) in [
        (both.replace(":51820", ":51821"), "listen"),
        (both.replace("[[members]]", "[[member]]"), "member"),
        (both.replace("10.77.0.3", "10.77.0.2"), "members"),
    ] {
        fs::write(&file, &wrong).expect("a file");
        hub.process.signal(Signal::SIGHUP);
        let why = || mesh.status("hub")["reload_refused"].to_string();
        until(key, || why().contains("hub.toml") && why().contains(key));
        assert_eq!(link("b")["state"], "up", "{key}");
    }

    fs::write(&file, alone).expect("a file");
    hub.process.signal(Signal::SIGHUP);
    let why = || link("b")["why"].to_string();
    until("b is refused", || why().contains("does not know this key"));
    assert_eq!(mesh.status("hub")["reload_refused"], Value::Null);
    assert_eq!(link("a")["since"], since, "a noticed nothing");
    for daemon in daemons.into_iter().chain([hub]) {
        daemon.ends();
    }
}
