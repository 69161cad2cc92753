//! Over real files: changes by other connections, refusals, and rows that make no sense.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::AtomicU32;

use super::*;
use rusqlite::Connection;
use vpn_core::rule::RuleProtocol;
use vpn_core::{Action, Family, OnChange, OnDown, OwnerMatch, PortRange, RuleMatch};

/// A directory that is removed with the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, SeqCst);
        let path = std::env::temp_dir().join(format!("vpn-rules-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("rules.db")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn uid(uid: u32) -> RuleMatch {
    RuleMatch {
        owner: Some(OwnerMatch::Uid(uid)),
        ..RuleMatch::default()
    }
}

fn to(name: &str) -> Action {
    Action::Tunnel(name.into())
}

/// Waits for a change; far longer than it takes, so that only a change that is lost fails.
async fn noticed(rules: &SqliteRules) {
    let change = tokio::time::timeout(Duration::from_secs(10), rules.changed());
    change.await.unwrap();
}

#[test]
fn a_missing_file_is_made_for_its_owner_only() {
    let dir = Dir::new();
    let rules = SqliteRules::open(dir.file()).unwrap();
    assert_eq!(std::fs::metadata(dir.file()).unwrap().mode() & 0o777, 0o600);
    assert!(rules.list().unwrap().is_empty());
}

#[test]
fn every_rule_comes_back_as_it_was_added() {
    let dir = Dir::new();
    let rules = SqliteRules::open(dir.file()).unwrap();
    let full = RuleMatch {
        owner: Some(OwnerMatch::Executable("/usr/bin/curl".into())),
        source: Some("2001:db8:1::/48".parse().unwrap()),
        interface: Some("br0".into()),
        destination: Some("2001:db8::/32".parse().unwrap()),
        domain: Some("*.example.com".parse().unwrap()),
        family: Some(Family::V6),
        ports: PortRange::new(80, 443),
        protocol: Some(RuleProtocol::Udp),
    };
    let of = |owner| RuleMatch {
        owner: Some(owner),
        ..RuleMatch::default()
    };
    let fallback = OnDown::Fallback("fr".into());
    let (keep, block) = (OnChange::Keep, OnDown::Block);
    let wanted = [
        (RuleMatch::default(), Action::Block, keep, block.clone()),
        (uid(u32::MAX), Action::Direct, keep, block.clone()),
        (
            of(OwnerMatch::Cgroup("/a".into())),
            to("uk"),
            OnChange::Reset,
            OnDown::Direct,
        ),
        (
            of(OwnerMatch::Package("org.a".into())),
            Action::Group("eu".into()),
            keep,
            block,
        ),
        (full, to("uk"), OnChange::Drop, fallback),
    ];
    for (matches, action, on_change, on_down) in &wanted {
        rules
            .add_rule(matches, action, *on_change, on_down)
            .unwrap();
    }
    let listed = rules.list().unwrap().into_iter();
    let listed: Vec<_> = listed
        .map(|r| (r.matches, r.action, r.on_change, r.on_down))
        .collect();
    assert_eq!(listed, wanted);
    // Each is found by its match again.
    for (matches, ..) in &wanted {
        assert_eq!(rules.remove(matches).unwrap(), 1, "{matches}");
    }
}

#[test]
fn adding_replaces_the_same_match_under_a_larger_id() {
    let dir = Dir::new();
    let rules = SqliteRules::open(dir.file()).unwrap();
    let wide = RuleMatch {
        destination: Some("10.1.2.3/8".parse().unwrap()),
        ..uid(1000)
    };
    let first = rules.add(&uid(1000), &to("uk")).unwrap();
    let other = rules.add(&wide, &to("uk")).unwrap();
    let second = rules.add(&uid(1000), &to("fr")).unwrap();
    assert!(first < other && other < second);
    let listed = rules.list().unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[1].action, to("fr"));
    // Host bits of the prefix make no other match.
    assert_eq!(rules.remove(&wide).unwrap(), 1);
    assert_eq!(rules.remove(&wide).unwrap(), 0);
    // The id of a removed rule is not used again.
    rules.remove(&uid(1000)).unwrap();
    assert!(rules.add(&uid(1000), &to("us")).unwrap() > second);
}

#[tokio::test]
async fn a_change_by_another_process_wakes_and_is_loaded() {
    let dir = Dir::new();
    let rules = SqliteRules::open(dir.file()).unwrap();
    assert!(rules.load().await.unwrap().rules.is_empty());
    for i in 0..20 {
        // A second instance has connections of its own, like another process.
        let other = SqliteRules::open(dir.file()).unwrap();
        other.add(&uid(i), &to("uk")).unwrap();
        noticed(&rules).await;
        let rows = rules.load().await.unwrap().rules.len();
        assert_eq!(rows, i as usize + 1);
    }
}

#[tokio::test]
async fn a_change_before_the_first_load_and_a_replaced_file_are_noticed() {
    let dir = Dir::new();
    let rules = SqliteRules::open(dir.file()).unwrap();
    let elsewhere = dir.0.join("other.db");
    SqliteRules::open(&elsewhere)
        .unwrap()
        .add(&uid(7), &to("fr"))
        .unwrap();
    rules.load().await.unwrap();
    std::fs::rename(&elsewhere, dir.file()).unwrap();
    noticed(&rules).await;
    assert_eq!(rules.load().await.unwrap().rules[0].matches, uid(7));
    std::fs::remove_file(dir.file()).unwrap();
    let error = rules.load().await.unwrap_err();
    assert!(matches!(error, RuleSourceError::Unavailable { .. }));
}

/// A load that failed is no change: who waits for one would ask without pause.
#[tokio::test]
async fn a_failed_load_is_told_once_and_what_mends_it_is_a_change() {
    let dir = Dir::new();
    let rules = SqliteRules::open(dir.file()).unwrap();
    rules.load().await.unwrap();
    let other = Connection::open(dir.file()).unwrap();
    other
        .execute_batch("ALTER TABLE rules RENAME TO away")
        .unwrap();
    noticed(&rules).await;
    assert!(rules.load().await.is_err());
    let again = tokio::time::timeout(10 * POLL_EVERY, rules.changed());
    assert!(again.await.is_err());
    other
        .execute_batch("ALTER TABLE away RENAME TO rules")
        .unwrap();
    noticed(&rules).await;
    rules.load().await.unwrap();
}

#[test]
fn files_that_must_not_be_used_are_refused_by_name() {
    let dir = Dir::new();
    let path = dir.file();
    SqliteRules::open(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    let error = SqliteRules::open(&path).unwrap_err();
    assert!(matches!(
        error,
        SqliteError::WorldWritable { mode: 0o666, .. }
    ));
    assert!(error.to_string().contains("rules.db"));

    let error = SqliteRules::open(&dir.0).unwrap_err();
    assert!(matches!(error, SqliteError::NotAFile { .. }), "{error}");
    let error = SqliteRules::open(dir.0.join("no/such/rules.db")).unwrap_err();
    assert!(matches!(error, SqliteError::Open { .. }), "{error}");

    let text = dir.0.join("text.db");
    std::fs::write(&text, "uid 1000 -> uk\n".repeat(100)).unwrap();
    std::fs::set_permissions(&text, PermissionsExt::from_mode(0o600)).unwrap();
    let error = SqliteRules::open(&text).unwrap_err();
    assert!(matches!(error, SqliteError::NotADatabase { .. }), "{error}");

    let foreign = dir.0.join("foreign.db");
    let connection = Connection::open(&foreign).unwrap();
    connection.execute_batch("CREATE TABLE songs (id)").unwrap();
    let error = SqliteRules::open(&foreign).unwrap_err();
    assert!(matches!(error, SqliteError::NotRules { .. }), "{error}");

    let newer = dir.0.join("newer.db");
    SqliteRules::open(&newer).unwrap();
    let connection = Connection::open(&newer).unwrap();
    connection.pragma_update(None, "user_version", 9).unwrap();
    let error = SqliteRules::open(&newer).unwrap_err();
    assert!(
        matches!(error, SqliteError::Newer { found: 9, .. }),
        "{error}"
    );
}

/// A file as version 1 of the tables made it.
fn of_version_1(path: &Path) {
    let connection = Connection::open(path).unwrap();
    let sql = "CREATE TABLE rules (
            id INTEGER PRIMARY KEY AUTOINCREMENT, uid INTEGER, exe, dst TEXT, port_first INTEGER,
            port_last INTEGER, proto TEXT, action TEXT NOT NULL, tunnel TEXT);
        INSERT INTO rules (uid, action, tunnel) VALUES (7, 'tunnel', 'uk');
        PRAGMA user_version = 1;";
    connection.execute_batch(sql).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

#[test]
fn tables_of_version_1_are_read_as_they_are_and_converted_by_the_first_change() {
    let dir = Dir::new();
    of_version_1(&dir.file());
    let (reader, writer) = (
        SqliteRules::open(dir.file()).unwrap(),
        SqliteRules::open(dir.file()).unwrap(),
    );
    let version = || {
        let connection = Connection::open(dir.file()).unwrap();
        file::version(&connection).unwrap()
    };
    assert_eq!(reader.list().unwrap()[0].matches, uid(7));
    assert_eq!(version(), 1, "reading changes nothing");
    let named = RuleMatch {
        domain: Some("example.com".parse().unwrap()),
        ..uid(8)
    };
    writer.add(&named, &to("fr")).unwrap();
    assert_eq!(version(), SCHEMA_VERSION);
    // Also by one that opened it before.
    let listed = reader.list().unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!((&listed[0].matches, &listed[1].matches), (&uid(7), &named));
    assert_eq!(reader.remove(&uid(7)).unwrap(), 1);
}

#[test]
fn tables_that_a_newer_program_converted_meanwhile_are_refused() {
    let dir = Dir::new();
    let rules = SqliteRules::open(dir.file()).unwrap();
    let connection = Connection::open(dir.file()).unwrap();
    connection.pragma_update(None, "user_version", 9).unwrap();
    let error = rules.list().unwrap_err();
    assert!(
        matches!(error, SqliteError::Newer { found: 9, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_row_that_makes_no_sense_is_named_with_its_column() {
    let dir = Dir::new();
    let rules = SqliteRules::open(dir.file()).unwrap();
    rules.add(&uid(1), &to("uk")).unwrap();
    let connection = Connection::open(dir.file()).unwrap();
    for (column, values) in [
        ("uid", "(-1, NULL, NULL, NULL, NULL, NULL, 'block', NULL)"),
        ("uid", "('me', NULL, NULL, NULL, NULL, NULL, 'block', NULL)"),
        (
            "exe",
            "(NULL, 'curl', NULL, NULL, NULL, NULL, 'block', NULL)",
        ),
        (
            "exe",
            "(1, '/bin/a', NULL, NULL, NULL, NULL, 'block', NULL)",
        ),
        (
            "dst",
            "(NULL, NULL, '10.0.0.0/33', NULL, NULL, NULL, 'block', NULL)",
        ),
        ("port_last", "(NULL, NULL, NULL, 5, 4, NULL, 'block', NULL)"),
        (
            "port_last",
            "(NULL, NULL, NULL, 5, NULL, NULL, 'block', NULL)",
        ),
        (
            "port_first",
            "(NULL, NULL, NULL, 65536, 65536, NULL, 'block', NULL)",
        ),
        (
            "proto",
            "(NULL, NULL, NULL, NULL, NULL, 'sctp', 'block', NULL)",
        ),
        (
            "action",
            "(NULL, NULL, NULL, NULL, NULL, NULL, 'allow', NULL)",
        ),
        (
            "tunnel",
            "(NULL, NULL, NULL, NULL, NULL, NULL, 'tunnel', NULL)",
        ),
        (
            "tunnel",
            "(NULL, NULL, NULL, NULL, NULL, NULL, 'block', 'uk')",
        ),
    ] {
        let sql = format!(
            "INSERT INTO rules (uid, exe, dst, port_first, port_last, proto, action, tunnel)
             VALUES {values}"
        );
        connection.execute_batch(&sql).unwrap();
        let row = connection.last_insert_rowid();
        match rules.load().await.unwrap_err() {
            RuleSourceError::Invalid { entry, problem, .. } => {
                assert_eq!(entry, format!("row {row}"));
                assert!(
                    problem.starts_with(&format!("column {column}: ")),
                    "{problem}"
                );
            }
            other => panic!("{values}: {other}"),
        }
        connection
            .execute("DELETE FROM rules WHERE id = ?1", [row])
            .unwrap();
    }
    for (column, value) in [
        ("cgroup", "a.slice"),
        ("src", "here"),
        ("domain", "a..b"),
        ("family", "ipv5"),
        ("on_change", "move"),
        ("on_down", ""),
    ] {
        let sql = format!("INSERT INTO rules (action, {column}) VALUES ('block', ?1)");
        connection.execute(&sql, [value]).unwrap();
        let row = connection.last_insert_rowid();
        let error = rules.list().unwrap_err();
        let named = matches!(&error, SqliteError::BadRow { column: c, .. } if *c == column);
        assert!(named, "{error}");
        let sql = "DELETE FROM rules WHERE id = ?1";
        connection.execute(sql, [row]).unwrap();
    }
    assert_eq!(rules.load().await.unwrap().rules.len(), 1);
}

#[tokio::test]
async fn nothing_survives_the_source() {
    let dir = Dir::new();
    let rules = SqliteRules::open(dir.file()).unwrap();
    let stop = rules.watch.stop_flag();
    drop(rules);
    // The thread held the other half.
    assert_eq!(Arc::strong_count(&stop), 1);
}

/// Rules that another program writes into the file.
struct Edited {
    rules: SqliteRules,
    dir: Dir,
}

#[async_trait::async_trait]
impl vpn_core::testing::conformance::RuleFixture for Edited {
    fn source(&self) -> &dyn RuleSource {
        &self.rules
    }

    async fn set(&self, rules: &[vpn_core::Rule]) -> bool {
        let mut connection = Connection::open(self.dir.file()).unwrap();
        let all = connection.transaction().unwrap();
        all.execute("DELETE FROM rules", []).unwrap();
        for rule in rules {
            let Some(OwnerMatch::Uid(uid)) = rule.matches.owner else {
                panic!("{rule}");
            };
            let insert =
                "INSERT INTO rules (id, uid, action, tunnel) VALUES (?1, ?2, 'tunnel', ?3)";
            let tunnel = rule.action.to_string();
            all.execute(insert, (rule.id.0.cast_signed(), uid, tunnel))
                .unwrap();
        }
        all.commit().unwrap();
        true
    }

    async fn damage(&self) -> bool {
        let connection = Connection::open(self.dir.file()).unwrap();
        let nonsense = "UPDATE rules SET action = 'allow' WHERE id = 2";
        assert_eq!(connection.execute(nonsense, []).unwrap(), 1);
        true
    }

    async fn patience(&self) {
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

#[tokio::test]
async fn rules_in_a_file_conform() {
    let make = async || {
        let dir = Dir::new();
        let rules = SqliteRules::open(dir.file()).unwrap();
        Edited { rules, dir }
    };
    let checked = vpn_core::testing::conformance::rule_source(make).await;
    checked.unwrap();
}
