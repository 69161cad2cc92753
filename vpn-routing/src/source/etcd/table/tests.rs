use super::*;
use crate::source::etcd::text::{NOBODY, Users};

fn rule(uid: u32) -> String {
    format!("[[rule]]\nuid = {uid}\nto = \"uk\"\n")
}

fn write(table: &mut Table, key: &str, text: &str) -> bool {
    written(table, key, 1, text.as_bytes())
}

fn written(table: &mut Table, key: &str, revision: i64, value: &[u8]) -> bool {
    let said = Users::default().reader().read(key, value);
    table.written(key.as_bytes(), revision, said)
}

/// As after loading: of what was there before, and of newcomers.
fn loaded(before: Table, there: &[(&str, &str)], newcomers: &[(&str, &str)]) -> Table {
    let of = |entries: &[(&str, &str)]| {
        let mut table = Table::default();
        for (key, text) in entries {
            write(&mut table, key, text);
        }
        table
    };
    Table::after(before, of(there), of(newcomers))
}

fn matches(table: &Table) -> Vec<String> {
    let rules = table.snapshot().rules;
    rules.iter().map(|rule| rule.matches.to_string()).collect()
}

#[test]
fn rules_of_all_entries_are_in_force_in_the_order_of_keys() {
    let mut table = Table::default();
    write(&mut table, "r/b", &rule(2));
    write(&mut table, "r/a", &format!("{}{}", rule(0), rule(1)));
    let there = table.snapshot();
    assert_eq!(matches(&table).len(), 3);
    assert!(there.rules.is_sorted_by(|a, b| a.id < b.id));
    let origins: Vec<_> = there.rules.iter().map(|r| table.origin(r.id)).collect();
    assert_eq!(
        origins,
        [Some(("r/a", 1)), Some(("r/a", 2)), Some(("r/b", 1))]
    );
    assert!(RuleId::of_file(9999) < there.rules[0].id && there.rules[2].id < RuleId(1));
    assert_eq!(table.origin(RuleId(1)), None);
    table.deleted(b"r/a");
    assert_eq!(matches(&table).len(), 1);
    table.deleted(b"r/b");
    table.deleted(b"r/b");
    assert_eq!((matches(&table).len(), table.bytes), (0, 0));
}

#[test]
fn an_entry_that_makes_no_sense_keeps_its_last_good_rules_and_is_told() {
    let mut table = Table::default();
    write(&mut table, "r/a", &rule(1));
    write(&mut table, "r/b", &rule(2));
    let before = matches(&table);
    for broken in ["[[rule]]\nuid = 1\n", "what", &rule(3).repeat(40_000)] {
        write(&mut table, "r/a", broken);
        assert_eq!(matches(&table), before);
        let said = table.problem().unwrap().to_string();
        assert!(said.contains("r/a"), "{said}");
    }
    written(&mut table, "r/a", 1, b"\xff");
    assert!(table.problem().is_some());
    // Others go on meanwhile; the same whole.
    write(&mut table, "r/b", &rule(5));
    assert_ne!(matches(&table), before);
    let mut table = loaded(table, &[("r/a", "what"), ("r/b", &rule(2))], &[]);
    assert_eq!(matches(&table), before);
    assert_eq!(table.bytes, rule(1).len() + rule(2).len());
    assert!(table.problem().is_some());
    write(&mut table, "r/a", &rule(1));
    assert!(table.problem().is_none());
}

#[test]
fn there_is_a_bound_and_it_is_told() {
    let mut table = Table::default();
    for key in 0..MAX_ENTRIES + 10 {
        write(&mut table, &format!("r/{key:05}"), "");
    }
    assert_eq!(table.entries.len(), MAX_ENTRIES);
    assert!(table.problem().is_some());
    let mut table = Table::default();
    let long = format!("#{}", "x".repeat(MAX_ENTRY - 1));
    for key in 0..17 {
        write(&mut table, &format!("r/{key}"), &long);
    }
    assert_eq!(table.bytes, MAX_BYTES);
    assert!(table.problem().is_some());
    // Whoever follows loads everything anew when there is room again, and not before.
    assert!(!table.deleted(b"r/none") && table.deleted(b"r/3"));
    let mut table = Table::default();
    write(&mut table, "r/a", &rule(1));
    assert!(!table.deleted(b"r/a"));
}

#[test]
fn what_is_too_long_is_told_and_not_kept() {
    let mut table = Table::default();
    write(&mut table, "r/a", &rule(1));
    table.skipped(b"r/a", 1);
    assert_eq!(matches(&table).len(), 1);
    let said = table.problem().unwrap().to_string();
    assert!(said.contains("r/a") && said.contains("1 MiB"), "{said}");
    let mut table = Table::default();
    write(&mut table, &"k".repeat(MAX_KEY + 1), &rule(1));
    assert_eq!(table.entries.len(), 0);
    let said = table.problem().unwrap().to_string();
    assert!(said.contains("key") && said.len() < 2 * MAX_KEY, "{said}");
}

#[test]
fn what_could_never_be_read_is_unknown_and_what_was_good_once_is_not() {
    let mut table = Table::default();
    assert!(table.unknown().is_none());
    write(&mut table, "r/a", &rule(1));
    write(&mut table, "r/a", "what");
    assert!(table.unknown().is_none() && table.problem().is_some());
    write(&mut table, "r/b", "what");
    let said = table.unknown().unwrap().to_string();
    assert!(said.contains("r/b"), "{said}");
    // So it is after loading, where only what was in force counts as before.
    let again = [("r/a", "what"), ("r/b", "what")];
    let table = loaded(table, &again, &[]);
    assert!(table.unknown().unwrap().to_string().contains("r/b"));
    assert_eq!(matches(&table).len(), 1);
    let table = loaded(Table::default(), &[], &again);
    assert!(table.unknown().unwrap().to_string().contains("r/a"));
    let mut table = Table::default();
    table.skipped(b"r/a", 1);
    assert!(table.unknown().is_some());
    for key in [&b"r/\xff"[..], &[b'k'; MAX_KEY + 1]] {
        let mut table = Table::default();
        table.skipped(key, 1);
        assert!(table.unknown().is_some());
        assert!(table.deleted(key), "it is loaded anew without it");
    }
}

#[test]
fn newcomers_take_no_rules_out_of_force_and_what_is_shorter_makes_room() {
    let mut before = Table::default();
    write(&mut before, "r/z", &rule(1));
    let keys: Vec<String> = (0..MAX_ENTRIES + 5).map(|n| format!("a/{n:05}")).collect();
    let many: Vec<_> = keys.iter().map(|key| (key.as_str(), "")).collect();
    let mut table = loaded(before, &[("r/z", &rule(1))], &many);
    assert_eq!(
        (matches(&table).len(), table.entries.len()),
        (1, MAX_ENTRIES)
    );
    assert!(table.is_full() && table.problem().is_some());
    assert!(table.deleted(b"a/00000"));

    // The same with texts that are too long together.
    let long = format!("#{}", "x".repeat(MAX_ENTRY - 1));
    let keys: Vec<String> = (0..16).map(|n| format!("a/{n:05}")).collect();
    let many: Vec<_> = keys.iter().map(|key| (key.as_str(), &*long)).collect();
    let mut before = Table::default();
    write(&mut before, "r/z", &rule(1));
    let mut table = loaded(before, &[("r/z", &rule(1))], &many);
    assert_eq!(matches(&table).len(), 1);
    assert!(table.is_full() && table.bytes <= MAX_BYTES);
    assert!(!write(&mut table, "r/z", &rule(22)), "it is longer");
    assert!(write(&mut table, "a/00000", "#"));
    // By itself, it makes no room for anybody.
    let mut table = Table::default();
    write(&mut table, "r/a", &rule(22));
    assert!(!write(&mut table, "r/a", &rule(1)));
}

#[test]
fn a_text_is_read_again_until_its_user_is_there_unless_it_was_written_meanwhile() {
    let text = "[[rule]]\nuser = \"ghost\"\nto = \"block\"\n";
    let nobody = Users::new(Box::new(|_| Ok(None)));
    let here = Users::new(Box::new(|_| Ok(Some(7))));
    let mut table = Table::default();
    let said = nobody.reader().read("r/a", text.as_bytes());
    table.written(b"r/a", 3, said);
    write(&mut table, "r/b", &rule(1));
    assert!(table.unknown().is_none());
    assert!(matches(&table)[0].contains(&NOBODY.to_string()));
    assert_eq!(table.held, text.len());
    let [(key, held)] = &table.texts_to_read_again()[..] else {
        panic!("one is to be read again");
    };
    let again = |users: &Users| users.reader().read(key, held.as_bytes());
    let news = |(is_other, has_room)| is_other || has_room;
    let said = table.read_again(key, held, again(&nobody));
    assert!(!news(said), "no news");
    let [(_, now)] = &table.texts_to_read_again()[..] else {
        panic!("it still is");
    };
    let said = table.read_again(key, held, again(&here));
    assert!(!news(said), "another text");
    assert!(news(table.read_again(key, now, again(&here))));
    assert!(
        matches(&table)[0].contains("uid 7"),
        "{:?}",
        matches(&table)
    );
    assert!(table.problem().is_none() && table.texts_to_read_again().is_empty());
    assert_eq!(table.held, 0);
    assert!(table.is_as(&past(2, "r/a", 3)), "it was not written anew");
}

/// Otherwise a host that starts would wait for rules for ever, and not be told why.
#[test]
fn what_did_not_fit_is_loaded_anew_when_it_does_and_what_cannot_be_read_takes_no_room() {
    let long = |bytes: usize| format!("#{}", "x".repeat(bytes - 1));
    let full = || {
        let mut table = Table::default();
        for key in 0..15 {
            write(&mut table, &format!("r/{key:02}"), &long(MAX_ENTRY));
        }
        write(&mut table, "r/15", &long(MAX_ENTRY - 100));
        table
    };
    for rewritten in ["#", "what"] {
        let mut table = full();
        assert!(!write(&mut table, "r/a", &long(200)) && table.is_full());
        assert!(table.unknown().is_some());
        assert!(!write(&mut table, "r/a", &long(101)), "it still does not");
        assert!(write(&mut table, "r/a", rewritten), "{rewritten}");
    }
    // The same of a newcomer that was loaded.
    let mut newcomers = Table::default();
    write(&mut newcomers, "r/a", &long(200));
    let mut table = Table::after(Table::default(), full(), newcomers);
    assert!(table.is_full() && write(&mut table, "r/a", "#"));
    let mut table = full();
    written(&mut table, "r/a", 1, &[0xff; 200]);
    assert!(!table.is_full() && table.problem().is_some());
}

#[test]
fn what_is_shorter_when_it_can_be_read_at_last_makes_room() {
    let text = "[[rule]]\nuser = \"ghost\"\nto = \"block\"\n";
    let away = Users::new(Box::new(|_| Err("no answer".to_owned())));
    let here = Users::new(Box::new(|_| Ok(Some(7))));
    let mut table = Table::default();
    write(&mut table, "r/a", &rule(22).repeat(2));
    let long = format!("#{}", "x".repeat(MAX_ENTRY - 1));
    for key in 0..16 {
        write(&mut table, &format!("r/{key:02}"), &long);
    }
    assert!(table.is_full());
    let said = away.reader().read("r/a", text.as_bytes());
    assert!(!table.written(b"r/a", 2, said));
    let [(key, held)] = &table.texts_to_read_again()[..] else {
        panic!("one is to be read again");
    };
    let said = here.reader().read(key, held.as_bytes());
    assert_eq!(table.read_again(key, held, said), (true, true));
}

fn past(entries: usize, key: &str, written: i64) -> Past {
    Past {
        entries,
        newest: (key.as_bytes().to_vec(), written),
    }
}

#[test]
fn an_etcd_is_known_by_how_many_entries_it_had_and_the_newest_of_them() {
    let mut table = Table::default();
    for (key, revision) in [("r/a", 3), ("r/b", 7), ("r/c", 7), ("r/d", 5)] {
        written(&mut table, key, revision, b"");
    }
    // Of two that were written at once etcd tells of either.
    assert!(table.is_as(&past(4, "r/b", 7)) && table.is_as(&past(4, "r/c", 7)));
    for other in [
        past(5, "r/b", 7),
        past(3, "r/b", 7),
        past(4, "r/d", 7),
        past(4, "r/d", 5),
        past(4, "r/b", 8),
        past(4, "r/x", 7),
    ] {
        assert!(!table.is_as(&other), "{other:?}");
    }
}
