//! All that a daemon may leave in a network namespace and in files, to be compared byte for byte.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use vpn_lab::Namespace;

use super::Site;

/// Where settings are that the daemon may touch.
const SETTINGS: [&str; 2] = ["/proc/sys/net/ipv4", "/proc/sys/net/ipv6"];

/// What is there, by what it is.
#[derive(Debug)]
pub struct Trace(BTreeMap<&'static str, String>);

impl Trace {
    pub fn of(namespace: &Namespace, site: &Site) -> Self {
        let tool = |program: &str, what: &str| {
            let text = namespace.tool(program, what).expect("a tool");
            // Lifetimes count down.
            let lines = text.lines();
            let lines = lines.map(|line| line.split(" expires ").next().unwrap_or(line).trim_end());
            lines.collect::<Vec<_>>().join("\n")
        };
        let (settings, rp_filter) = namespace.run(settings).expect("a namespace");
        let all = [
            ("ip rules", tool("ip", "rule show")),
            ("ip -6 rules", tool("ip", "-6 rule show")),
            ("routes of all tables", tool("ip", "route show table all")),
            (
                "IPv6 routes of all tables",
                tool("ip", "-6 route show table all"),
            ),
            ("addresses", tool("ip", "-o addr show")),
            ("links", tool("ip", "-o link show")),
            ("nft list ruleset", tool("nft", "list ruleset")),
            ("settings but rp_filter", settings),
            ("rp_filter", rp_filter),
            ("resolv.conf", file(&site.path("resolv.conf"))),
            ("files of the daemon", site.listing().join("\n")),
            ("processes", processes(namespace)),
        ];
        Self(all.into())
    }

    /// What is compared.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.0.keys().copied().collect();
        names.join(", ")
    }

    pub fn part(&self, name: &str) -> &str {
        &self.0[name]
    }

    /// What is left out of it are lines with this word.
    #[must_use]
    pub fn without(mut self, word: &str) -> Self {
        for text in self.0.values_mut() {
            let rest = text.lines().filter(|line| !line.contains(word));
            *text = rest.collect::<Vec<_>>().join("\n");
        }
        self
    }

    /// In how many things they differ.
    pub fn differs(&self, other: &Self) -> usize {
        let same = |(name, text): &(&&str, &String)| other.0.get(**name) == Some(*text);
        self.0.iter().filter(|pair| !same(pair)).count()
    }

    pub fn assert_is(&self, before: &Self, moment: &str) {
        for name in self.0.keys() {
            self.assert_part_is(before, name, moment);
        }
    }

    pub fn assert_part_is(&self, before: &Self, name: &str, moment: &str) {
        let (now, before) = (&self.0[name], &before.0[name]);
        let only = |one: &String, other: &String| {
            let others: Vec<&str> = other.lines().collect();
            let own = one.lines().filter(|line| !others.contains(line));
            own.collect::<Vec<_>>().join("\n")
        };
        assert!(
            now == before,
            "{moment}: {name} differ\nleft over:\n{}\nmissing:\n{}",
            only(now, before),
            only(before, now)
        );
    }
}

/// Every setting that can be read, and apart from them those of the reverse-path filter.
fn settings() -> (String, String) {
    let mut all = BTreeMap::new();
    for folder in SETTINGS {
        collect(Path::new(folder), &mut all);
    }
    let (filter, rest): (Vec<_>, Vec<_>) = all
        .into_iter()
        .map(|(path, value)| format!("{path} = {value}"))
        .partition(|line| line.contains("rp_filter"));
    (rest.join("\n"), filter.join("\n"))
}

fn collect(folder: &Path, into: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, into);
        } else if let Ok(value) = fs::read_to_string(&path) {
            into.insert(path.display().to_string(), value.trim().to_owned());
        }
    }
}

/// A file's content, and which file it is.
fn file(path: &Path) -> String {
    let leads_to = fs::read_link(path);
    let Ok(content) = fs::read(path) else {
        return format!("none, {leads_to:?}");
    };
    let about = fs::metadata(path).expect("a file");
    let (inode, mode) = (about.ino(), about.mode());
    format!(
        "{leads_to:?} inode {inode} mode {mode:o}\n{}",
        content.escape_ascii()
    )
}

/// What runs in the namespace.
fn processes(namespace: &Namespace) -> String {
    let here = || fs::read_link("/proc/thread-self/ns/net").expect("a namespace");
    let own = namespace.run(here).expect("a namespace");
    let all = fs::read_dir("/proc").expect("processes").flatten();
    let inside =
        all.filter(|entry| fs::read_link(entry.path().join("ns/net")).is_ok_and(|ns| ns == own));
    let lines = inside.filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    // One that has ended and waits for its parent has none.
    let mut lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    lines.sort();
    lines.join("\n")
}
