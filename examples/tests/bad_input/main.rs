//! Bad input to `multi-region`: every message names the file, line or key; the exit code is 2; and
//! a start that fails leaves nothing behind.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so"
)]

mod keys;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use support::Site;
use support::place::{CONFIG, KEY, Place, profile, site};

/// A user without any right.
const NOBODY: u32 = 65_534;

/// A good site that belongs to that user.
fn site_of_nobody() -> Site {
    let site = site();
    for name in ["", "uk.conf", "multi-region.toml"] {
        chown(site.path(name), Some(NOBODY), Some(NOBODY)).expect("an owner");
    }
    site
}

/// A configuration in place of the good one.
fn config_fails(place: &Place, text: &str, parts: &[&str]) {
    let site = site();
    site.write("multi-region.toml", text);
    place.both_fail(&site, parts);
}

#[test]
fn configurations() {
    let place = Place::new();
    let site = site();
    fs::remove_file(site.path("multi-region.toml")).expect("removed");
    place.both_fail(&site, &["multi-region.toml", "No such file"]);
    let rest = "[tunnel.uk]\nwireguard = \"uk.conf\"\n";
    let bad = |text: &str, parts: &[&str]| config_fails(&place, text, parts);
    bad("rules = \n", &["multi-region.toml:1:"]);
    bad(
        &format!("rules = \"r.db\"\ncolour = 1\n{rest}"),
        &["toml:2:", "colour"],
    );
    bad(
        &format!("rules = \"r.db\"\n\n[dns]\nserver = 1\n{rest}"),
        &["toml:4:", "server"],
    );
    bad(&format!("rules = 3\n{rest}"), &["toml:1:", "string"]);
    bad(
        &format!("rules = \"r.db\"\n{rest}{rest}"),
        &["toml:4:", "uk", "duplicate"],
    );
    bad(
        &format!("rules = \"r.db\"\ndefault = \"mars\"\n{rest}"),
        &["default", "mars"],
    );
    bad(
        &format!("rules = \"r.db\"\ndirect = \"never\"\ndefault = \"direct\"\n{rest}"),
        &["default", "direct"],
    );
    bad(
        &format!("rules = \"r.db\"\non_exit = \"maybe\"\n{rest}"),
        &["toml:2:", "maybe"],
    );
    bad(
        &format!("rules = \"r.db\"\n[dns]\napply = \"dnsmasq\"\n{rest}"),
        &["toml:3:", "dnsmasq"],
    );
    bad(
        &format!("rules = \"r.db\"\n[dns]\napply = \"resolv.conf\"\npath = \"no/file\"\n{rest}"),
        &["dns.path", "no/file"],
    );
    bad(
        "rules = \"r.db\"\n[tunnel.block]\nwireguard = \"uk.conf\"\n",
        &["tunnel.block"],
    );
    bad(rest, &["rules"]);
    bad(
        &format!("[[rules]]\nto = \"uk\"\n{rest}"),
        &["toml:1:", "[[rule]]"],
    );
    bad(
        &format!("rules = \"no/r.db\"\n{rest}"),
        &["rules:", "no/r.db", "folder"],
    );
    bad(
        &format!("rules = \"r.db\"\njournal = \"no/j\"\n{rest}"),
        &["journal", "no/j", "folder"],
    );
    let long = "s".repeat(108);
    for (socket, part) in [("no/s", "folder"), (long.as_str(), "longer")] {
        let text = format!("rules = \"r.db\"\n[control]\nsocket = \"{socket}\"\n{rest}");
        bad(&text, &["control.socket", part]);
    }
    for name in ["", "a/b", "sixteen-letters-", "all", "two words"] {
        let text = format!("rules = \"r.db\"\n[interface]\nname = \"{name}\"\n{rest}");
        bad(&text, &["multi-region.toml", "interface.name", name]);
    }
}

/// A pipe kept whoever read it waiting, and one without an end was read into memory.
#[test]
fn files_that_are_none() {
    let place = Place::new();
    let mode = Mode::from_bits_truncate(0o600);
    for name in ["multi-region.toml", "uk.conf"] {
        let site = site();
        fs::remove_file(site.path(name)).expect("removed");
        mkfifo(&site.path(name), mode).expect("a pipe");
        place.both_fail(&site, &[name, "not a regular file"]);
    }
    let site = site();
    fs::write(site.path("multi-region.toml"), b"rules = \"r.db\"\n\xff\n").expect("written");
    place.both_fail(&site, &["multi-region.toml:2:", "UTF-8"]);
    let file = fs::File::create(site.path("multi-region.toml")).expect("made");
    file.set_len(6 << 30).expect("sparse");
    place.both_fail(&site, &["multi-region.toml", "larger than"]);
}

#[test]
fn providers_files() {
    let (place, site) = (Place::new(), site());
    fs::remove_file(site.path("uk.conf")).expect("removed");
    place.both_fail(&site, &["tunnel.uk", "uk.conf", "No such file"]);
    let secret = "c2VjcmV0IHRoYXQgaXMgdG9vIHNob3J0";
    site.write("uk.conf", &profile(secret));
    let output = place.check_fails(&site, &["tunnel.uk", "uk.conf:2:", "PrivateKey"]);
    assert!(!output.stderr.contains(secret), "the secret is shown");
    place.both_fail(&site, &["uk.conf:2:"]);
    site.write("uk.conf", "[Interface]\n");
    place.both_fail(&site, &["uk.conf:1:", "PrivateKey"]);
}

#[test]
fn rules() {
    let place = Place::new();
    let (to, part) = ("mars", "no tunnel or group \"mars\"");
    let site = site();
    let mut add = site.command(&["rule", "add", "--rules", "rules.db", "--uid", "1001"]);
    add.args(["--to", to]);
    let output = place.output(add);
    assert!(output.status.success(), "{}", output.stderr);
    let mode = fs::metadata(site.path("rules.db"))
        .expect("made")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    place.both_fail(&site, &["rules.db", "uid 1001", part]);
}

#[test]
fn databases() {
    let (place, site) = (Place::new(), site());
    let database = site.write(
        "rules.db",
        "certainly not a database, and long enough to be read",
    );
    place.both_fail(&site, &["rules.db", "not an SQLite database"]);
    fs::remove_file(&database).expect("removed");
    fs::create_dir(&database).expect("a folder");
    place.both_fail(&site, &["rules.db", "not a regular file"]);
    fs::remove_dir(&database).expect("removed");
    let add = [
        "rule", "add", "--rules", "rules.db", "--uid", "1001", "--to", "uk",
    ];
    assert!(place.output(site.command(&add)).status.success());
    fs::set_permissions(&database, fs::Permissions::from_mode(0o666)).expect("a mode");
    place.both_fail(&site, &["rules.db", "everybody may write it", "chmod o-w"]);
    let output = place.output(site.command(&add));
    assert_eq!(output.status.code(), Some(2));
    Place::says(&output, &["rules.db", "chmod o-w"]);
}

#[test]
fn an_unreadable_database() {
    if vpn_lab::skip(&[]) {
        return;
    }
    let (place, site) = (Place::new(), site_of_nobody());
    site.write("rules.db", "");
    let mut check = site.command(&["check", "--config", "multi-region.toml"]);
    check.uid(NOBODY).gid(NOBODY);
    let output = place.output(check);
    assert_eq!(output.status.code(), Some(2), "{}", output.stdout);
    Place::says(&output, &["rules.db", "cannot be opened", "permissions"]);
    let mut run = site.command(&["run", "--config", "multi-region.toml"]);
    run.uid(NOBODY).gid(NOBODY);
    place.run_fails(&site, run, &["rules.db", "cannot be opened"]);
}

#[test]
fn no_permission_for_a_device() {
    if vpn_lab::skip(&[]) {
        return;
    }
    let (place, site) = (Place::new(), site_of_nobody());
    let mut run = site.command(&["run", "--config", "multi-region.toml"]);
    run.uid(NOBODY).gid(NOBODY);
    place.run_fails(&site, run, &["interface", "vpn0", "CAP_NET_ADMIN"]);
}

#[test]
fn an_interface_of_somebody_else() {
    if vpn_lab::skip(&[]) {
        return;
    }
    let (place, site) = (Place::new(), site());
    let own = place.0.as_ref().expect("a namespace");
    own.ip("link add vpn0 type veth peer name vpn1")
        .expect("a link");
    place.both_fail(
        &site,
        &["interface", "vpn0", "exists", "choose another name"],
    );
    own.ip("link del vpn0").expect("removed");
    own.ip("tuntap add dev vpn0 mode tun")
        .expect("a persistent TUN");
    place.both_fail(&site, &["interface", "vpn0"]);
}

#[test]
fn a_listen_port_of_somebody_else() {
    if vpn_lab::skip(&[]) {
        return;
    }
    let (place, site) = (Place::new(), site());
    let own = place.0.as_ref().expect("a namespace");
    let bound = own.run(|| std::net::UdpSocket::bind("0.0.0.0:51999"));
    let _occupied = bound.expect("inside").expect("a socket");
    let text = profile(KEY).replace("[Peer]", "ListenPort = 51999\n[Peer]");
    site.write("uk.conf", &text);
    let run = site.command(&["run", "--config", "multi-region.toml"]);
    place.run_fails(&site, run, &["tunnel.uk", "listen", "51999", "in use"]);
}

#[test]
fn an_occupied_control_socket() {
    let (place, site) = (Place::new(), site());
    let path = site.write("multi-region.sock", "precious");
    place.both_fail(&site, &["multi-region.sock", "not a socket"]);
    assert_eq!(fs::read_to_string(&path).expect("still there"), "precious");
    fs::remove_file(&path).expect("removed");
    let _alive = UnixListener::bind(&path).expect("a socket");
    let run = site.command(&["run", "--config", "multi-region.toml"]);
    place.run_fails(&site, run, &["multi-region.sock", "another daemon"]);
    assert!(path.exists(), "the other daemon's socket is left to it");
    // Beside a running daemon its configuration can be checked.
    let output = place.output(site.command(&["check", "--config", "multi-region.toml"]));
    assert!(output.status.success(), "{}", output.stderr);
}

#[test]
fn nobody_answers() {
    let (place, site) = (Place::new(), site());
    let output = place.output(site.command(&["status", "--control", "absent.sock"]));
    assert_eq!(output.status.code(), Some(2));
    Place::says(&output, &["absent.sock", "No such file"]);
}

#[test]
fn nonsense_in_rule_add() {
    let (place, site) = (Place::new(), site());
    for (arguments, part) in [
        ("--dst nowhere --to uk", "nowhere"),
        ("--dst 10.0.0.0/33 --to uk", "10.0.0.0/33"),
        ("--port 9-1 --to uk", "9 is larger than 1"),
        ("--port 70000 --to uk", "70000"),
        ("--proto sctp --to uk", "sctp"),
        ("--user nobodyhere --to uk", "nobodyhere"),
        ("--uid -1 --to uk", "-1"),
        ("--uid 1 --exe /bin/true --to uk", "--exe"),
        ("--exe /no/such/program --to uk", "/no/such/program"),
        ("--uid 1", "--to"),
        ("--uid 1 --to=", "--to"),
        ("--cgroup a.slice --to uk", "a.slice"),
        ("--cgroup /a --package b --to uk", "--package"),
        ("--src here --to uk", "here"),
        ("--domain a..b --to uk", "a..b"),
        ("--family ipv5 --to uk", "ipv5"),
        ("--port 1 --proto icmp --to uk", "--port"),
        ("--src ::1 --dst 10.0.0.1 --to uk", "--dst"),
        ("--on-change move --to uk", "move"),
        ("--on-down fr --to block", "--on-down"),
        ("--on-down uk --to uk", "falls back to itself"),
        ("--on-down direct --to direct", "falls back to itself"),
        ("--dst ::ffff:192.0.2.1 --to block", "write it as IPv4"),
    ] {
        let mut command = site.command(&["rule", "add", "--rules", "rules.db"]);
        command.args(arguments.split(' '));
        let output = place.output(command);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments}: {}",
            output.stderr
        );
        assert!(
            output.stderr.contains(part),
            "{arguments}: {}",
            output.stderr
        );
        assert!(
            !site.path("rules.db").exists(),
            "{arguments}: a file was made"
        );
    }
    // `block` is both where it goes and what it does while down: no loop.
    let block = ["rule", "add", "--rules", "rules.db", "--to", "block"];
    let output = place.output(site.command(&block));
    assert!(output.status.success(), "{}", output.stderr);
    for command in ["list", "remove"] {
        let output = place.output(site.command(&["rule", command, "--rules", "absent.db"]));
        assert_eq!(output.status.code(), Some(2), "{command}");
        Place::says(&output, &["absent.db", "No such file"]);
    }
}

/// What an OpenVPN profile may not say, with the line.
#[test]
fn openvpn_profiles() {
    let place = Place::new();
    let missing = site();
    let text = format!("{CONFIG}[tunnel.fr]\nopenvpn = \"not there.ovpn\"\n");
    missing.write("multi-region.toml", &text);
    place.both_fail(&missing, &["[tunnel.fr] openvpn", "not there.ovpn"]);
    for (line, problem) in [
        ("up /bin/true", "line 2: up is refused: it runs a program"),
        ("plugin x.so", "line 2: plugin is refused"),
        ("management 127.0.0.1 7505", "line 2: management is refused"),
        ("log /etc/passwd", "line 2: log is refused"),
        ("cd /", "line 2: cd is refused"),
        ("ca /etc/ssl/ca.pem", "line 2: ca names /etc/ssl/ca.pem"),
        ("dev tap", "line 2: a tap device"),
        ("<ca>", "line 2: <ca> has no </ca>"),
        ("auth-user-pass", "name one with auth"),
    ] {
        let site = site();
        site.write("fr.ovpn", &format!("remote 192.0.2.1 1194\n{line}\n"));
        let text = format!("{CONFIG}[tunnel.fr]\nopenvpn = \"fr.ovpn\"\n");
        site.write("multi-region.toml", &text);
        place.both_fail(&site, &["[tunnel.fr] openvpn", problem]);
    }
}
