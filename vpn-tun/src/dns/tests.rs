use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::journal::to_hex;

const BEFORE: &str = "# mine\nnameserver 192.0.2.1\nsearch example.org\n";

/// Nothing in these tests waits for anything.
fn done<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(future)
}

fn servers(list: &[&str]) -> BTreeSet<IpAddr> {
    list.iter().map(|s| s.parse().unwrap()).collect()
}

fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resolv.conf");
    fs::write(&path, content).unwrap();
    (dir, path)
}

#[test]
fn written_in_place_and_restored_exactly() {
    let (_dir, path) = file(BEFORE);
    let inode = fs::metadata(&path).unwrap().ino();
    let mut dns = SystemDns::new(DnsApply::ResolvConf, &path);
    done(dns.apply(&servers(&["10.9.9.9"]))).unwrap();
    done(dns.apply(&servers(&["10.8.8.8", "fd00::1"]))).unwrap();
    let now = fs::read(&path).unwrap();
    assert_eq!(
        nameservers(&now),
        vec![
            "10.8.8.8".parse::<IpAddr>().unwrap(),
            "fd00::1".parse().unwrap()
        ]
    );
    assert!(
        String::from_utf8(now)
            .unwrap()
            .contains("search example.org\n")
    );
    assert_eq!(done(dns.restore()).unwrap(), Restored::Restored);
    assert_eq!(fs::read_to_string(&path).unwrap(), BEFORE);
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    assert_eq!(done(dns.restore()).unwrap(), Restored::Nothing);
}

#[test]
fn a_foreign_change_is_kept() {
    let (_dir, path) = file(BEFORE);
    let mut dns = SystemDns::new(DnsApply::ResolvConf, &path);
    done(dns.apply(&servers(&["10.9.9.9"]))).unwrap();
    fs::write(&path, "nameserver 198.51.100.1\n").unwrap();
    let seen = done(dns.look()).unwrap();
    assert_eq!(seen, [ForeignChange::ResolvConf(path.clone())]);
    done(dns.apply(&servers(&["10.8.8.8"]))).unwrap();
    let theirs = || fs::read_to_string(&path).unwrap();
    assert_eq!(theirs(), "nameserver 198.51.100.1\n", "it is not fought");
    // A network that came up wrote it: that is what comes back then.
    done(dns.follow(&servers(&["10.8.8.8"]))).unwrap();
    assert!(theirs().contains("nameserver 10.8.8.8\n"));
    done(dns.follow(&servers(&["10.8.8.8"]))).unwrap();
    assert_eq!(done(dns.restore()).unwrap(), Restored::Restored);
    assert_eq!(theirs(), "nameserver 198.51.100.1\n");

    done(dns.apply(&servers(&["10.9.9.9"]))).unwrap();
    fs::write(&path, "nameserver 198.51.100.2\n").unwrap();
    assert_eq!(done(dns.restore()).unwrap(), Restored::ChangedByOthers);
    assert_eq!(theirs(), "nameserver 198.51.100.2\n");
}

/// A link that leads elsewhere later does not keep what was written where it led before.
#[test]
fn behind_a_link_that_others_moved_the_file_is_restored() {
    let (dir, target) = file(BEFORE);
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("resolv.conf", &link).unwrap();
    let mut dns = SystemDns::new(DnsApply::ResolvConf, &link);
    done(dns.apply(&servers(&["10.9.9.9"]))).unwrap();
    assert_eq!(done(dns.look()).unwrap(), []);
    let theirs = dir.path().join("theirs");
    fs::write(&theirs, "nameserver 198.51.100.1\n").unwrap();
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&theirs, &link).unwrap();
    assert_eq!(done(dns.look()).unwrap().len(), 1);
    done(dns.apply(&servers(&["10.8.8.8"]))).unwrap();
    assert_eq!(done(dns.restore()).unwrap(), Restored::Restored);
    assert_eq!(fs::read_to_string(&target).unwrap(), BEFORE);
    assert_eq!(
        fs::read_to_string(&theirs).unwrap(),
        "nameserver 198.51.100.1\n"
    );
}

#[test]
fn a_killed_run_is_recovered_and_not_taken_for_the_former_content() {
    let (dir, path) = file(BEFORE);
    let journal = Journal::open(dir.path().join("journal")).unwrap();
    let killed = |list: &[&str]| {
        let mut dns = SystemDns::new(DnsApply::ResolvConf, &path).with_journal(journal.clone());
        done(dns.apply(&servers(list))).unwrap();
    };
    killed(&["10.9.9.9"]);
    killed(&["10.8.8.8"]);
    let read_back = Journal::open(dir.path().join("journal")).unwrap();
    assert_eq!(SystemDns::recover(&read_back).unwrap(), Restored::Restored);
    assert_eq!(fs::read_to_string(&path).unwrap(), BEFORE);
    assert_eq!(SystemDns::recover(&read_back).unwrap(), Restored::Nothing);
}

#[test]
fn a_file_that_was_missing_goes_again() {
    let (_dir, path) = file("");
    fs::remove_file(&path).unwrap();
    let mut dns = SystemDns::new(DnsApply::ResolvConf, &path);
    done(dns.apply(&servers(&["10.9.9.9"]))).unwrap();
    assert!(path.exists());
    done(dns.apply(&servers(&[]))).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_link_stays_a_link_also_one_that_led_nowhere() {
    let (dir, target) = file(BEFORE);
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("resolv.conf", &link).unwrap();
    for missing in [false, true] {
        if missing {
            fs::remove_file(&target).unwrap();
        }
        let mut dns = SystemDns::new(DnsApply::ResolvConf, &link);
        done(dns.apply(&servers(&["10.9.9.9"]))).unwrap();
        assert!(target.exists());
        assert_eq!(done(dns.restore()).unwrap(), Restored::Restored);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(target.exists(), !missing);
    }
}

/// Killed between two system calls of the write, or with the disk full.
#[test]
fn half_a_write_is_ours_and_is_undone() {
    let (dir, path) = file(BEFORE);
    let journal = Journal::open(dir.path().join("journal")).unwrap();
    let mut dns = SystemDns::new(DnsApply::ResolvConf, &path).with_journal(journal.clone());
    done(dns.apply(&servers(&["10.9.9.9"]))).unwrap();
    let entry = journal.get(ENTRY).unwrap();
    let written = fs::read(&path).unwrap();
    for former in [BEFORE.to_owned(), BEFORE.repeat(9), String::new()] {
        let entry = entry.replace(&to_hex(BEFORE.as_bytes()), &to_hex(former.as_bytes()));
        for cut in 0..=written.len() {
            let mut half = former.clone().into_bytes();
            half.resize(half.len().max(cut), 0);
            half[..cut].copy_from_slice(&written[..cut]);
            fs::write(&path, &half).unwrap();
            journal.set(ENTRY, entry.clone()).unwrap();
            let restored = SystemDns::recover(&journal).unwrap();
            assert_eq!(restored, Restored::Restored, "{cut}");
            assert_eq!(fs::read(&path).unwrap(), former.as_bytes());
        }
    }
}

#[test]
fn an_entry_that_cannot_be_read_is_an_error_and_kept() {
    let (dir, path) = file(BEFORE);
    let journal = Journal::open(dir.path().join("journal")).unwrap();
    journal.set(ENTRY, "2f .zz .00").unwrap();
    let error = SystemDns::recover(&journal).unwrap_err();
    assert!(error.to_string().contains("line 3"), "{error}");
    assert!(!journal.is_empty());
    assert_eq!(fs::read_to_string(&path).unwrap(), BEFORE);
}

#[test]
fn none_touches_nothing_and_words_are_checked() {
    let (_dir, path) = file(BEFORE);
    let mut dns = SystemDns::new("none".parse().unwrap(), &path);
    done(dns.apply(&servers(&["10.9.9.9"]))).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), BEFORE);
    let mut dns = SystemDns::new("resolved".parse().unwrap(), &path);
    let error = done(dns.apply(&servers(&["10.9.9.9"]))).unwrap_err();
    assert!(matches!(error, DnsError::NoInterface), "{error}");
    assert!("dnsmasq".parse::<DnsApply>().is_err());
}
