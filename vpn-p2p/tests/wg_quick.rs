//! The parser against what providers write, and against anything else.
#![cfg(feature = "wireguard")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

use proptest::prelude::*;
use vpn_p2p::WgQuick;
use vpn_p2p::wg_quick::{Endpoint, WarningKind, WgQuickError};

const PRIVATE: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
const PUBLIC: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
const OTHER: &str = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=";
const PSK: &str = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE=";

fn file(interface: &str, peer: &str) -> String {
    format!(
        "[Interface]\nPrivateKey = {PRIVATE}\n{interface}\n[Peer]\nPublicKey = {PUBLIC}\n{peer}\n"
    )
}

fn parse(interface: &str, peer: &str) -> WgQuick {
    WgQuick::parse("p.conf", &file(interface, peer)).unwrap()
}

fn refused(interface: &str, peer: &str) -> String {
    WgQuick::parse("p.conf", &file(interface, peer))
        .unwrap_err()
        .to_string()
}

#[test]
fn everything_a_provider_may_write() {
    let text = format!(
        "\u{feff}# Provider\r
[interface]  # ours\r
privatekey={PRIVATE} # trailing\r
Address = 10.5.0.2/16, fd00::2/64\r
ADDRESS = 10.6.0.2\r
DNS = 10.5.0.1, fd00::1, corp.example\r
MTU = 1380\r
ListenPort = 51821\r
FwMark = 0xca6c\r
Table = off\r
PostUp = iptables -I OUTPUT ! -o %i -j REJECT\r
Jc = 4\r
\r
[PEER]\r
PublicKey = {PUBLIC}\r
PresharedKey = {PSK}\r
AllowedIPs = 10.0.0.7/8\r
allowedips = ::/0,\r
Endpoint = [2001:db8::1]:51820\r
PersistentKeepalive = off\r
[Peer]\r
PublicKey = {OTHER}\r
AllowedIPs =\r
Endpoint = uk-1.example.net:1\r
PersistentKeepalive = 25\r
"
    );
    let config = WgQuick::parse("p.conf", &text).unwrap();
    let addresses: Vec<_> = config
        .interface
        .addresses
        .iter()
        .map(|a| a.to_string())
        .collect();
    assert_eq!(addresses, ["10.5.0.2/16", "fd00::2/64", "10.6.0.2/32"]);
    assert_eq!(config.interface.dns.len(), 2);
    assert_eq!(config.interface.search, ["corp.example"]);
    assert_eq!(
        (config.mtu(), config.interface.listen_port),
        (1380, Some(51821))
    );
    let warnings: Vec<_> = config
        .warnings
        .iter()
        .map(|w| (w.line, w.key.as_str(), w.kind))
        .collect();
    assert_eq!(
        warnings,
        [
            (9, "FwMark", WarningKind::Ignored),
            (10, "Table", WarningKind::Ignored),
            (11, "PostUp", WarningKind::NotRun),
            (12, "Jc", WarningKind::Unknown),
        ]
    );
    let [first, second] = &config.peers[..] else {
        panic!("two peers");
    };
    let allowed: Vec<_> = first.allowed_ips.iter().map(|a| a.to_string()).collect();
    assert_eq!(allowed, ["10.0.0.0/8", "::/0"]);
    assert_eq!(
        first.endpoint,
        Some(Endpoint::Address("[2001:db8::1]:51820".parse().unwrap()))
    );
    assert!(first.preshared_key.is_some());
    assert_eq!(first.persistent_keepalive, None);
    assert!(second.allowed_ips.is_empty());
    assert_eq!(second.persistent_keepalive, Some(25));
    assert_eq!(
        second.endpoint.as_ref().unwrap().to_string(),
        "uk-1.example.net:1"
    );
}

#[test]
fn defaults() {
    let config = parse("", "");
    assert_eq!(config.mtu(), 1420);
    assert!(config.interface.addresses.is_empty() && config.interface.dns.is_empty());
    assert!(config.peers[0].endpoint.is_none() && config.peers[0].allowed_ips.is_empty());
    assert!(config.warnings.is_empty());
}

#[test]
fn errors_name_file_line_and_key() {
    for (interface, peer, expected) in [
        ("MTU = 12", "", "p.conf:3: MTU"),
        ("Address = 10.5.0.2/33", "", "p.conf:3: Address"),
        ("DNS = a..b", "", "p.conf:3: DNS"),
        ("ListenPort = 70000", "", "p.conf:3: ListenPort"),
        ("", "PresharedKey = abc", "p.conf:6: PresharedKey"),
        ("", "Endpoint = 2001:db8::1:51820", "p.conf:6: Endpoint"),
        ("", "Endpoint = host", "p.conf:6: Endpoint"),
        ("", "Endpoint = host:0", "p.conf:6: Endpoint"),
        ("", "Endpoint = [::1:5", "p.conf:6: Endpoint"),
        (
            "",
            "PersistentKeepalive = 65536",
            "p.conf:6: PersistentKeepalive",
        ),
        ("", "AllowedIPs = 10.0.0.0/8, x", "p.conf:6: AllowedIPs"),
        ("nonsense", "", "p.conf:3: neither"),
        ("[Interface]", "", "p.conf:3: a second"),
        ("[Other]", "", "p.conf:3: a section"),
    ] {
        let error = refused(interface, peer);
        assert!(error.starts_with(expected), "{error} / {expected}");
    }
    let bad = WgQuick::parse("p.conf", "[Interface]\nPrivateKey = x\n").unwrap_err();
    assert!(bad.to_string().starts_with("p.conf:2: PrivateKey"));
    for (text, expected) in [
        ("", "p.conf:1: [Interface] has no PrivateKey".to_owned()),
        (
            "[Interface]",
            "p.conf:1: [Interface] has no PrivateKey".to_owned(),
        ),
        ("MTU = 1", "p.conf:1: a key before".to_owned()),
    ] {
        let error = WgQuick::parse("p.conf", text).unwrap_err().to_string();
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn duplicates_are_refused() {
    let second =
        format!("AllowedIPs = 10.0.0.0/8\n[Peer]\nPublicKey = {OTHER}\nAllowedIPs = 10.1.1.1/8");
    assert!(refused("", &second).contains("10.0.0.0/8 belongs to an earlier [Peer]"));
    let same = format!("[Peer]\nPublicKey = {PUBLIC}");
    assert!(refused("", &same).contains("the same key"));
}

#[test]
fn no_secret_is_shown() {
    let peer = format!("PresharedKey = {PSK}");
    let config = parse("", &peer);
    let shown = format!("{config:?}");
    assert!(!shown.contains(PRIVATE) && !shown.contains(PSK), "{shown}");
    // A secret in the wrong place: alone on its line, under another key, cut in two.
    for wrong in [
        PSK.to_owned(),
        format!("Address = {PSK}"),
        format!("MTU = {PSK}"),
        format!("DNS = {PSK}"),
        format!("PrivateKey = {PSK}A"),
        "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2PiXy71lOWWXX0=".to_owned(),
    ] {
        let error = refused(&wrong, "");
        assert!(
            !error.contains(&PSK[..20]) && !error.contains("TrMvSoP4"),
            "{error}"
        );
    }
}

#[test]
fn size_is_bounded() {
    let text = "#".repeat(WgQuick::MAX_BYTES + 1);
    assert!(matches!(
        WgQuick::parse("p.conf", &text),
        Err(WgQuickError::TooLarge { .. })
    ));
}

#[cfg(unix)]
#[test]
fn a_file_everybody_can_read_is_reported() {
    use std::os::unix::fs::PermissionsExt as _;
    let path = std::env::temp_dir().join(format!("vpn-p2p-{}.conf", std::process::id()));
    std::fs::write(&path, file("", "")).unwrap();
    for (mode, warnings) in [(0o644, 1), (0o600, 0)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(WgQuick::read(&path).unwrap().warnings.len(), warnings);
    }
    std::fs::remove_file(&path).unwrap();
    let error = WgQuick::read(&path).unwrap_err().to_string();
    assert!(error.contains("vpn-p2p-"), "{error}");
}

proptest! {
    #[test]
    fn any_text_gives_a_result(text in "\\PC{0,300}") {
        let _ = WgQuick::parse("p.conf", &text);
    }

    #[test]
    fn any_lines_of_known_keys_give_a_result(
        lines in proptest::collection::vec(
            ("(PrivateKey|Address|DNS|MTU|PublicKey|AllowedIPs|Endpoint|PersistentKeepalive|\\[Interface\\]|\\[Peer\\])",
             "[ =#,:\\[\\]0-9a-fA-F./]{0,30}"), 0..20)
    ) {
        let text: String = lines.iter().map(|(k, v)| format!("{k} = {v}\n")).collect();
        let _ = WgQuick::parse("p.conf", &text);
    }
}
