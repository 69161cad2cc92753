//! Over real files: what is read, what is refused and where, and how soon a change is seen.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Instant;

use super::*;
use vpn_core::rule::{FilterAction, FilterDirection, IcmpMatch, RuleProtocol};
use vpn_core::{Action, Family, OnChange, OnDown, OwnerMatch, PortRange, RuleId, RuleMatch};

/// A folder that is removed with the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, SeqCst);
        let path = std::env::temp_dir().join(format!("vpn-toml-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, text: &str) -> PathBuf {
        let path = self.0.join("rules.toml");
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn parsed(text: &str) -> Result<RuleSnapshot, TomlError> {
    parse::parse(Path::new("rules.toml"), text, Others::Unknown)
}

#[test]
fn every_key_of_a_rule_is_read() {
    let text = r#"
        [[rule]]
        exe = "/no/such/program"
        src = "10.1.2.3/8"
        iif = "br0"
        dst = "198.51.100.7"
        domain = "*.Example.com"
        family = "ipv4"
        port = "8000-8999"
        proto = "tcp"
        to = "uk"
        on_change = "reset"
        on_down = "fr"

        [[rule]]
        uid = 1_000
        port = 443
        to = "block"
    "#;
    let rules = parsed(text).unwrap().rules;
    let full = RuleMatch {
        owner: Some(OwnerMatch::Executable("/no/such/program".into())),
        source: Some("10.0.0.0/8".parse().unwrap()),
        interface: Some("br0".into()),
        destination: Some("198.51.100.7/32".parse().unwrap()),
        domain: Some("*.example.com".parse().unwrap()),
        family: Some(Family::V4),
        ports: PortRange::new(8000, 8999),
        protocol: Some(RuleProtocol::Tcp),
    };
    let expected = [
        vpn_core::Rule::new(RuleId::of_file(1), full, Action::Tunnel("uk".into()))
            .on_change(OnChange::Reset)
            .on_down(OnDown::Fallback("fr".into())),
        vpn_core::Rule::new(
            RuleId::of_file(2),
            RuleMatch {
                owner: Some(OwnerMatch::Uid(1000)),
                ports: Some(PortRange::single(443)),
                ..RuleMatch::default()
            },
            Action::Block,
        ),
    ];
    assert_eq!(rules, expected);
    assert!(rules[1].id > rules[0].id, "further down is newer");
}

#[test]
fn every_way_of_naming_an_owner_is_read() {
    let owner = |key: &str| {
        let rules = parsed(&format!("[[rule]]\n{key}\nto = \"uk\""))
            .unwrap()
            .rules;
        rules[0].matches.owner.clone().unwrap()
    };
    assert_eq!(owner("user = \"root\""), OwnerMatch::Uid(0));
    assert_eq!(
        owner("cgroup = \"/a.slice/\""),
        OwnerMatch::Cgroup("/a.slice".into())
    );
    assert_eq!(
        owner("package = \"org.example\""),
        OwnerMatch::Package("org.example".into())
    );
    // The kernel reports the real path.
    let real = std::fs::canonicalize("/proc/self/exe").unwrap();
    assert_eq!(
        owner("exe = \"/proc/self/exe\""),
        OwnerMatch::Executable(real)
    );
}

#[test]
fn inbound_and_filter_rules_are_read() {
    let text = r#"
        filter = [{ icmp = 8, action = "drop" }, { fragments = true, action = "accept" }]
        [[inbound]]
        tunnel = "uk"
        proto = "tcp"
        port = "6881-6889"
        to_port = 1000
        remote = "192.0.2.1"
        [[inbound]]
        tunnel = "uk"
        proto = "icmp"
        behind = "192.168.7.0/24"
    "#;
    let all = parsed(text).unwrap();
    assert_eq!(all.inbound[1].behind, "192.168.7.0/24".parse().ok());
    let inbound = &all.inbound[0];
    assert_eq!(
        (inbound.tunnel.as_str(), inbound.to_port),
        ("uk", Some(1000))
    );
    assert_eq!(inbound.ports, PortRange::new(6881, 6889));
    assert_eq!(inbound.remote, Some("192.0.2.1/32".parse().unwrap()));
    let (ping, fragments) = (&all.filters[0], &all.filters[1]);
    let (kind, code) = (8, None);
    assert_eq!(ping.icmp, Some(IcmpMatch { kind, code }));
    assert_eq!(
        (ping.action, ping.direction),
        (FilterAction::Drop, FilterDirection::Both)
    );
    assert!(fragments.fragments && !ping.fragments);
}

#[test]
fn what_makes_no_sense_is_named_with_line_table_and_key() {
    let good = "[[rule]]\nto = \"uk\"\n";
    let cases = [
        ("[[rule]]\nuid = 1", "rule", 3, "to"),
        ("[[rule]]\nto = \"\"", "rule", 4, "to"),
        ("[[rule]]\nto = 1", "rule", 4, "to"),
        ("[[rule]]\nto = \"uk\"\ncolour = 1", "rule", 5, "colour"),
        ("[[rule]]\nto = \"uk\"\nuid = -1", "rule", 5, "uid"),
        ("[[rule]]\nto = \"uk\"\nuid = \"me\"", "rule", 5, "uid"),
        (
            "[[rule]]\nto = \"uk\"\nuid = 1\nexe = \"/a\"",
            "rule",
            6,
            "exe",
        ),
        ("[[rule]]\nto = \"uk\"\nexe = \"curl\"", "rule", 5, "exe"),
        (
            "[[rule]]\nto = \"uk\"\nuser = \"nobodyhere\"",
            "rule",
            5,
            "user",
        ),
        ("[[rule]]\nto = \"uk\"\ncgroup = \"a\"", "rule", 5, "cgroup"),
        (
            "[[rule]]\nto = \"uk\"\npackage = \"\"",
            "rule",
            5,
            "package",
        ),
        (
            "[[rule]]\nto = \"uk\"\ndst = \"10.0.0.0/33\"",
            "rule",
            5,
            "dst",
        ),
        ("[[rule]]\nto = \"uk\"\nsrc = \"here\"", "rule", 5, "src"),
        ("[[rule]]\nto = \"uk\"\niif = \"\"", "rule", 5, "iif"),
        (
            "[[rule]]\nto = \"uk\"\ndomain = \"a..b\"",
            "rule",
            5,
            "domain",
        ),
        ("[[rule]]\nto = \"uk\"\nfamily = 4", "rule", 5, "family"),
        ("[[rule]]\nto = \"uk\"\nport = 65536", "rule", 5, "port"),
        ("[[rule]]\nto = \"uk\"\nport = \"9-1\"", "rule", 5, "port"),
        (
            "[[rule]]\nto = \"uk\"\nproto = \"sctp\"",
            "rule",
            5,
            "proto",
        ),
        (
            "[[rule]]\nto = \"uk\"\nport = 1\nproto = \"icmp\"",
            "rule",
            5,
            "port",
        ),
        (
            "[[rule]]\nto = \"uk\"\nsrc = \"::1\"\ndst = \"10.0.0.1\"",
            "rule",
            6,
            "dst",
        ),
        (
            "[[rule]]\nto = \"uk\"\nsrc = \"::1\"\nfamily = \"ipv4\"",
            "rule",
            5,
            "src",
        ),
        (
            "[[rule]]\nto = \"uk\"\non_change = \"move\"",
            "rule",
            5,
            "on_change",
        ),
        (
            "[[rule]]\nto = \"block\"\non_down = \"fr\"",
            "rule",
            5,
            "on_down",
        ),
        ("[[inbound]]\ntunnel = \"uk\"", "inbound", 3, "proto"),
        ("[[inbound]]\nproto = \"tcp\"", "inbound", 3, "tunnel"),
        (
            "[[inbound]]\ntunnel = \"uk\"\nproto = \"tcp\"\nto_port = 1",
            "inbound",
            6,
            "to_port",
        ),
        (
            "[[inbound]]\ntunnel = \"uk\"\nproto = \"tcp\"\nport = 1\nto_port = 2\nbehind = \"fd00::/8\"",
            "inbound",
            7,
            "to_port",
        ),
        (
            "[[inbound]]\ntunnel = \"uk\"\nproto = \"tcp\"\nport = \"1-3\"\nto_port = 65534",
            "inbound",
            7,
            "to_port",
        ),
        (
            "[[inbound]]\ntunnel = \"uk\"\nproto = \"icmp\"\nport = 1",
            "inbound",
            6,
            "port",
        ),
        ("[[filter]]\nproto = \"tcp\"", "filter", 3, "action"),
        ("[[filter]]\naction = \"maybe\"", "filter", 4, "action"),
        (
            "[[filter]]\naction = \"drop\"\ndirection = \"up\"",
            "filter",
            5,
            "direction",
        ),
        (
            "[[filter]]\naction = \"drop\"\nfragments = 1",
            "filter",
            5,
            "fragments",
        ),
        (
            "[[filter]]\naction = \"drop\"\nicmp = 256",
            "filter",
            5,
            "icmp",
        ),
        (
            "[[filter]]\naction = \"drop\"\nicmp = 8\nproto = \"tcp\"",
            "filter",
            5,
            "icmp",
        ),
        (
            "[[filter]]\naction = \"drop\"\nremote = \"x\"",
            "filter",
            5,
            "remote",
        ),
    ];
    for (text, table, line, key) in cases {
        let place = if table == "rule" { 2 } else { 1 };
        match parsed(&format!("{good}{text}")).unwrap_err() {
            TomlError::Entry {
                line: l,
                table: t,
                place: p,
                key: k,
                ..
            } => assert_eq!((l, t, p, k.as_str()), (line, table, place, key), "{text}"),
            other => panic!("{text}: {other}"),
        }
    }
}

#[test]
fn what_is_no_table_of_rules_is_named_with_its_line() {
    for (text, line, part) in [
        ("\n[[rules]]\nto = \"uk\"", 2, "`rule`"),
        ("[rule]\nto = \"uk\"", 1, "[[rule]]"),
        ("rule = 1", 1, "[[rule]]"),
        ("rule = [1]", 1, "[[rule]]"),
        ("[[rule]]\nto = ", 2, ""),
        ("[[rule]]\nto = \"a\"\nto = \"b\"", 3, "duplicate"),
    ] {
        match parsed(text).unwrap_err() {
            TomlError::Syntax {
                line: at, message, ..
            } => {
                assert_eq!(at, line, "{text}: {message}");
                assert!(message.contains(part), "{text}: {message}");
            }
            other => panic!("{text}: {other}"),
        }
    }
    // Within a configuration only the tables of rules count.
    let text = "colour = 1\n[tunnel.uk]\nx = 1\n[[rule]]\nto = \"uk\"\n";
    let within = parse::parse(Path::new("c.toml"), text, Others::Ignored).unwrap();
    assert_eq!(within.rules.len(), 1);
}

#[test]
fn files_that_must_not_be_used_are_refused_by_name() {
    let dir = Dir::new();
    let path = dir.write("[[rule]]\nto = \"uk\"\n");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    let error = TomlRules::open(&path).unwrap_err();
    assert!(matches!(
        error,
        TomlError::WorldWritable { mode: 0o666, .. }
    ));
    assert!(error.to_string().contains("rules.toml"));
    let error = TomlRules::open(&dir.0).unwrap_err();
    assert!(matches!(error, TomlError::NotAFile { .. }), "{error}");
    let error = TomlRules::open(dir.0.join("none.toml")).unwrap_err();
    assert!(matches!(error, TomlError::Open { .. }), "{error}");
}

/// Waits for a change; far longer than it takes, so that only a change that is lost fails.
async fn noticed(rules: &TomlRules) {
    let change = tokio::time::timeout(Duration::from_secs(10), rules.changed());
    change.await.unwrap();
}

fn to(name: &str) -> String {
    format!("[[rule]]\nto = \"{name}\"\n")
}

fn leads_to(snapshot: &RuleSnapshot) -> String {
    snapshot.rules[0].action.to_string()
}

#[tokio::test]
async fn a_file_that_is_written_replaced_or_linked_anew_is_noticed() {
    let dir = Dir::new();
    let path = dir.write(&to("a0"));
    let rules = TomlRules::open(&path).unwrap();
    assert_eq!(leads_to(&rules.load().await.unwrap()), "a0");
    for i in 1..10 {
        let name = format!("a{i}");
        if i % 2 == 0 {
            dir.write(&to(&name));
        } else {
            let beside = dir.0.join("rules.toml~");
            std::fs::write(&beside, to(&name)).unwrap();
            std::fs::rename(&beside, &path).unwrap();
        }
        noticed(&rules).await;
        assert_eq!(leads_to(&rules.load().await.unwrap()), name);
    }
    // The file is a link to another place, whose folder nobody watches.
    let elsewhere = Dir::new();
    let target = elsewhere.write(&to("b"));
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();
    noticed(&rules).await;
    while leads_to(&rules.load().await.unwrap()) != "b" {
        noticed(&rules).await;
    }
    elsewhere.write(&to("longer"));
    while leads_to(&rules.load().await.unwrap()) != "longer" {
        noticed(&rules).await;
    }
}

#[tokio::test]
async fn an_empty_or_missing_file_is_an_error_and_not_no_rules() {
    let dir = Dir::new();
    let path = dir.write(&to("uk"));
    let rules = TomlRules::open(&path).unwrap();
    rules.load().await.unwrap();
    dir.write("\n");
    noticed(&rules).await;
    assert!(matches!(rules.list(), Err(TomlError::Empty { .. })));
    std::fs::remove_file(&path).unwrap();
    noticed(&rules).await;
    assert!(rules.load().await.is_err());
    dir.write("# none\n");
    noticed(&rules).await;
    assert!(rules.load().await.unwrap().rules.is_empty());
}

#[test]
fn other_files_of_the_folder_are_no_change() {
    let dir = Dir::new();
    let path = dir.write(&to("uk"));
    let (sender, notices) = std::sync::mpsc::sync_channel(1000);
    let mut look = watch::Look::new(&path, sender);
    for i in 0..20 {
        std::fs::write(dir.0.join(format!("other{i}")), "x").unwrap();
        // Each makes one notice at least, so this waits for nothing else.
        assert_eq!(look.wait(&notices), Some(false));
    }
    dir.write(&to("uk"));
    while look.wait(&notices) == Some(false) {}
}

/// From the write to the rules in force. The best of many counts: the others may have waited for
/// this machine's processors, which says nothing about us.
#[tokio::test]
async fn a_change_counts_within_50_ms_and_a_broken_file_keeps_the_last_good_rules() {
    use crate::rules::{CompiledRules, RuleCache, RuleFeed, Target};
    use vpn_core::{DropReason, FlowKey, Protocol, TunnelId};

    let dir = Dir::new();
    let rules = TomlRules::open(dir.write(&to("t0"))).unwrap();
    let cache = RuleCache::new();
    let names = |name: &str| name.strip_prefix('t')?.parse().ok().map(TunnelId::new);
    let default = Target::Block(DropReason::BlockedByDefault);
    let compile = Arc::new(move |rules: &_| CompiledRules::compile(rules, &names, default));
    let feed = RuleFeed::new(Arc::new(rules), cache.clone(), compile);
    let (status, shutdown) = (feed.status(), tokio_util::sync::CancellationToken::new());
    let running = tokio::spawn(feed.run(shutdown.clone()));
    let mut changes = cache.changes();
    changes
        .wait_for(|generation| !generation.is_cold())
        .await
        .unwrap();

    let flow = FlowKey::new(
        Protocol::TCP,
        ([10, 0, 0, 1].into(), 1),
        ([192, 0, 2, 1].into(), 2),
    );
    let decided = || cache.current().decide(None, &flow).action;
    let mut best = Duration::MAX;
    for i in 1..=20 {
        let begun = Instant::now();
        dir.write(&to(&format!("t{i}")));
        while decided() != Target::Tunnel(TunnelId::new(i)) {
            let change = tokio::time::timeout(Duration::from_secs(10), changes.changed());
            change.await.unwrap().unwrap();
        }
        best = best.min(begun.elapsed());
    }
    assert!(best <= Duration::from_millis(50), "{best:?}");

    dir.write("[[rule]]\nto = \"t21\"\ncolour = 1\n");
    let mut status = status;
    let broken = status.wait_for(|status| status.error.is_some());
    let broken = tokio::time::timeout(Duration::from_secs(10), broken);
    let error = broken.await.unwrap().unwrap().error.clone().unwrap();
    assert!(
        error.contains("line 3") && error.contains("colour"),
        "{error}"
    );
    assert_eq!(decided(), Target::Tunnel(TunnelId::new(20)));

    dir.write(&to("t21"));
    let mended = status.wait_for(|status| status.error.is_none());
    let mended = tokio::time::timeout(Duration::from_secs(10), mended);
    mended.await.unwrap().unwrap();
    assert_eq!(decided(), Target::Tunnel(TunnelId::new(21)));
    shutdown.cancel();
    running.await.unwrap();
}
