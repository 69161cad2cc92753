//! Commands, keys and configurations: what is refused, and how.

use super::*;

#[test]
fn keys_are_made_once_and_shown_by_their_public_part() {
    let folder = TempDir::new().expect("a folder");
    let file = text(&folder.path().join("a.key"));
    let (code, public, _) = run(&["keygen", "--out", &file]);
    assert_eq!(code, Some(0));
    let mode = fs::metadata(&file).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let secret = fs::read_to_string(&file).expect("a key");
    assert_ne!(secret.trim(), public.trim());
    assert_eq!(run(&["pubkey", "--key", &file]).1, public);
    let piped = command_of(&["pubkey"])
        .stdin(fs::File::open(&file).expect("a key"))
        .output()
        .expect("the program");
    assert_eq!(String::from_utf8_lossy(&piped.stdout), public);
    refuses(&["keygen", "--out", &file], &["a.key"]);
    assert_eq!(fs::read_to_string(&file).expect("a key"), secret);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("a mode");
    refuses(&["pubkey", "--key", &file], &["a.key", "chmod 600"]);
    refuses(&["pubkey"], &["not a key"]);
}

#[test]
fn files_that_make_no_sense_are_named_with_line_and_key() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("bad.toml");
    let key = folder.path().join("a.key");
    run(&["keygen", "--out", &text(&key)]);
    let hubs = format!("[[hubs]]\nkey = \"{KEY}\"\nendpoint = \"{HUB}\"\n");
    let good = "key = \"a.key\"\naddresses = [\"10.77.0.2/24\"]\n";
    let bad = |command: &str, body: &str, parts: &[&str]| {
        fs::write(&file, body).expect("a file");
        refuses(&[command, "--config", &text(&file)], parts);
    };
    refuses(
        &["join", "--config", "none.toml"],
        &["none.toml", "No such file"],
    );
    bad("join", "name = \n", &["bad.toml:1:"]);
    bad(
        "join",
        &format!("{good}colour = 1\n{hubs}"),
        &["toml:3:", "colour"],
    );
    bad(
        "join",
        &format!("key = \"a.key\"\naddresses = [\"10.77.0.300/24\"]\n{hubs}"),
        &["toml:2:", "addresses"],
    );
    bad("join", &format!("addresses = []\n{hubs}"), &["key"]);
    bad("join", good, &["bad.toml: hubs", "none"]);
    for (line, parts) in [
        ("mtu = 9000", ["mtu", "1400"]),
        ("policy = \"maybe\"", ["toml:3:", "policy"]),
        ("inbound = [\"tcp:x\"]", ["toml:3:", "inbound"]),
        ("name = \"a b\"", ["name", "letters"]),
        ("interface = \"a/b\"", ["interface", "a/b"]),
        ("listen = 70000", ["toml:3:", "listen"]),
        ("routes = [\"x\"]", ["toml:3:", "routes"]),
        ("token_file = \"none\"", ["token_file", "none"]),
        ("routes = [\"10.77.0.0/25\"]", ["routes", "10.77.0.0/25"]),
        ("candidates = [\"203.0.113.5:1\"]", ["candidates", "listen"]),
        (
            "listen = 7\ncandidates = [\"10.77.0.9:7\"]",
            ["candidates", "inside"],
        ),
        (
            "inbound = [{ proto = \"tcp\", peer = \"x\" }]",
            ["inbound", "\"x\""],
        ),
        ("forward = [\"tcp:x\"]", ["toml:3:", "forward"]),
        ("key2 = 1", ["toml:3:", "key2"]),
    ] {
        bad("join", &format!("{good}{line}\n{hubs}"), &parts);
    }
    bad(
        "join",
        &format!("{good}{hubs}{hubs}"),
        &["hubs", "two have the key"],
    );
    bad(
        "join",
        &format!("{good}[[hubs]]\nkey = \"x\"\nendpoint = \"{HUB}\"\n"),
        &["toml:4:", "key"],
    );
    bad(
        "join",
        &format!("{good}[[hubs]]\nkey = \"{KEY}\"\nendpoint = \"nowhere\"\n"),
        &["toml:5:", "endpoint", "HOST:PORT"],
    );
    bad(
        "join",
        &format!("{good}{hubs}[[peers]]\nkey = \"{KEY}\"\npolicy = 1\n"),
        &["toml:8:", "policy"],
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("a mode");
    bad(
        "join",
        &format!("{good}{hubs}"),
        &["bad.toml: key", "a.key", "chmod 600"],
    );
    bad("hub", "key = \"a.key\"\n", &["bad.toml: key", "chmod 600"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("a mode");
    for (line, parts) in [
        ("listen = [\"here\"]", ["toml:2:", "listen"]),
        ("metrics = \"0.0.0.0:9100\"", ["metrics", "loopback"]),
        ("listen = []", ["listen", "no address"]),
        (
            "listen = [\"0.0.0.0:1\", \"127.0.0.1:2\"]",
            ["listen", "one of each family"],
        ),
        (
            "[member]\naddresses = [\"10.77.0.1/24\"]\ninbound = [{ proto = \"udp\", peer = \"x\" }]",
            ["member.inbound", "\"x\""],
        ),
        ("tls = 1", ["toml:2:", "tls"]),
        ("max_members = -1", ["toml:2:", "max_members"]),
        ("isolation = \"x\"", ["toml:2:", "isolation"]),
        ("[member]\naddresses = []", ["member.addresses", "none"]),
        ("[[members]]\nkey = \"x\"", ["toml:3:", "key"]),
    ] {
        bad("hub", &format!("key = \"a.key\"\n{line}\n"), &parts);
    }
    let listed = format!("[[members]]\nkey = \"{KEY}\"\n");
    bad(
        "hub",
        &format!("key = \"a.key\"\n{listed}"),
        &["members.addresses", "networks"],
    );
    let socket = text(&folder.path().join("none.sock"));
    refuses(&["status", "--control", &socket], &["none.sock"]);
    refuses(&["ping", "b", "--control", &socket], &["none.sock"]);
    refuses(&["top", "--control", &socket], &["no terminal"]);
}

#[test]
fn init_makes_what_hub_and_members_need_and_overwrites_nothing() {
    let folder = TempDir::new().expect("a folder");
    let made = folder.path().join("lan");
    let (code, said, errors) = run(&["init", &text(&made), "--hub", HUB, "--members", "2"]);
    assert_eq!(code, Some(0), "{errors}");
    for part in ["mesh hub --config", "mesh join --config", "10.77.0.3"] {
        assert!(said.contains(part), "{said}");
    }
    for file in ["hub/hub.key", "m1/m1.key", "m2/m2.key"] {
        let mode = fs::metadata(made.join(file)).expect(file).permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "{file}");
    }
    let hub = fs::read_to_string(made.join("hub/hub.toml")).expect("a file");
    let member = fs::read_to_string(made.join("m1/mesh.toml")).expect("a file");
    assert!(hub.contains("networks = [\"10.77.0.0/24\"]"), "{hub}");
    for name in ["m1", "m2"] {
        let key = text(&made.join(name).join(format!("{name}.key")));
        assert!(
            hub.contains(run(&["pubkey", "--key", &key]).1.trim()),
            "{hub}"
        );
    }
    let hub_key = run(&["pubkey", "--key", &text(&made.join("hub/hub.key"))]).1;
    assert!(
        member.contains(hub_key.trim()) && member.contains(HUB),
        "{member}"
    );
    refuses(
        &["init", &text(&made), "--hub", HUB, "--members", "a"],
        &["not empty"],
    );
    let other = text(&folder.path().join("other"));
    for (members, network, part) in [
        ("a,a", "10.0.0.0/24", "twice"),
        ("hub", "10.0.0.0/24", "hub"),
        ("../x", "10.0.0.0/24", "no name"),
        ("", "10.0.0.0/24", "no name"),
        ("0", "10.0.0.0/24", "1 to"),
        ("99999", "10.0.0.0/8", "more than"),
        ("a,b,c", "10.0.0.0/30", "not enough"),
    ] {
        let arguments = [
            "init",
            &other,
            "--hub",
            HUB,
            "--members",
            members,
            "--network",
            network,
        ];
        refuses(&arguments, &[part]);
        assert!(!Path::new(&other).exists(), "{members}");
    }
}
