//! The daemon in a lab of its own: providers that hand out the identical address, apps as
//! processes of different users, and proof that nothing goes the direct way.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so, and an app speaks on standard output"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use support::app::{self, App, NOTHING};
use support::{Daemon, LIMIT, Site, as_user, network_of};
use vpn_lab::{LabPlan, ProviderLab, RegionPlan};

/// Users and the regions their rules name.
const USERS: [(u32, &str); 3] = [(1001, "uk"), (1002, "fr"), (1003, "us")];

/// A user without a rule.
const NO_RULE: u32 = 1004;

/// A rule counts within this time after `rule add` has ended.
const RULE_LIMIT: Duration = Duration::from_millis(50);

/// The app: the other tests start copies of this program that run this test only.
#[test]
fn plays_an_app() {
    app::play();
}

/// A lab with the daemon's files.
struct Lab {
    site: Site,
    app: PathBuf,
    lab: ProviderLab,
}

impl Lab {
    /// `None` where the machine lacks something for it.
    fn start(plan: LabPlan, top: &str, dns: &str) -> Option<Self> {
        let mut programs = plan.programs();
        programs.push("ping");
        if vpn_lab::skip(&programs) {
            return None;
        }
        let lab = ProviderLab::start(plan).expect("a lab");
        let site = Site::new();
        let mut text = format!("rules = \"rules.db\"\n{top}\n[dns]\n{dns}\n");
        for region in lab.regions() {
            let (name, file) = (region.name(), region.profile().display());
            text.push_str(&format!("[tunnel.{name}]\nwireguard = \"{file}\"\n"));
        }
        site.write("multi-region.toml", &text);
        // Ping sockets for everybody, as distributions have it.
        lab.client().set("net/ipv4/ping_group_range", "0 2147483647").expect("a setting");
        let app = site.app("app");
        let this = Self { site, app, lab };
        this.settle();
        Some(this)
    }

    /// Waits until no address is tentative any more.
    fn settle(&self) {
        let end = Instant::now() + LIMIT;
        while self.network().contains("tentative") && Instant::now() < end {
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn network(&self) -> String {
        network_of(self.lab.client()).expect("ip")
    }

    fn add_rules(&self) {
        for (uid, region) in USERS {
            self.rule(&format!("--uid {uid} --to {region}"));
        }
    }

    fn rule(&self, rest: &str) {
        self.site.add_rule(self.lab.client(), rest);
    }

    fn daemon(&self) -> Daemon {
        Daemon::start(&self.site, self.lab.client())
    }

    fn run(&self, uid: u32, script: &str) -> Vec<String> {
        app::run(self.lab.client(), &self.app, uid, script)
    }

    /// Every answer of the script comes from `region`.
    fn only(&self, uid: u32, region: &str, script: &str) {
        for answer in self.run(uid, script) {
            let (what, from) = answer.split_once(' ').expect("two words");
            assert_eq!(from, region, "{what} of user {uid}");
        }
    }

    fn gets_nothing(&self, uid: u32) {
        self.only(uid, NOTHING, "short4,short6");
    }

    fn asking(&self, uid: u32) -> App {
        App::start(self.lab.client(), &self.app, uid, "ask")
    }

    fn ping(&self, uid: u32, site: &str) -> bool {
        let mut command = as_user(std::path::Path::new("ping"), uid);
        command.args(["-n", "-q", "-c", "2", "-i", "0.2", "-W", "1", site]);
        self.lab.client().output(command, LIMIT).expect("ping").status.success()
    }
}

/// Runs `work` and asserts that no packet of an app went direct meanwhile.
fn nothing_direct(lab: &Lab, work: impl FnOnce()) {
    let capture = lab.lab.capture().expect("a capture");
    work();
    let (seen, _) = capture.finish();
    let direct = lab.lab.went_direct(&seen);
    assert!(direct.is_empty(), "{direct:?}");
}

/// All apps at the same time, in every way the lab can ask.
fn every_app_has_its_region(lab: &Lab) {
    thread::scope(|scope| {
        for (number, (uid, region)) in (1..).zip(USERS) {
            scope.spawn(move || {
                lab.only(uid, region, "http4 60,http6 10,echo4 5,echo6 5,dns 5");
                for site in [format!("203.0.113.2{number}"), format!("2001:db8:113::2{number}")] {
                    assert!(lab.ping(uid, &site), "{uid} pings {site}");
                }
                let other = format!("203.0.113.2{}", number % 3 + 1);
                assert!(!lab.ping(uid, &other), "{uid} reaches another region's {other}");
            });
        }
        scope.spawn(|| lab.gets_nothing(NO_RULE));
    });
    assert_eq!(lab.lab.drops().expect("counters"), 0, "packets with a wrong source");
}

#[test]
fn three_providers_with_the_identical_address() {
    let Some(lab) = Lab::start(LabPlan::default(), "", "apply = \"none\"") else { return };
    let client = lab.lab.client();
    lab.add_rules();
    let _daemon = lab.daemon();
    nothing_direct(&lab, || every_app_has_its_region(&lab));

    // `explain` tells what happens.
    for (uid, region) in USERS {
        let told = lab.site.ask(client, &format!("explain --uid {uid} --dst 203.0.113.10:80"));
        assert_eq!((&told["tunnel"], &told["verdict"]), (&region.into(), &"tunnel".into()));
        assert_eq!(told["source"], "10.5.0.2");
    }
    let told = lab.site.ask(client, &format!("explain --uid {NO_RULE} --dst 203.0.113.10:80"));
    assert_eq!(told["rule"], "default");
    assert!(told["verdict"].as_str().is_some_and(|v| v.starts_with("drop")), "{told}");

    let status = lab.site.status(client);
    assert_eq!(status["interface"]["name"], "vpn0");
    let shown = &status["interface"]["addresses"];
    assert_eq!(*shown, serde_json::json!(["10.5.0.2/32", "fd00:5::2/128"]), "{status}");
    let mut roles = BTreeMap::new();
    for (_, region) in USERS {
        let tunnel = &status["tunnels"][region];
        assert_eq!(tunnel["state"], "up");
        assert_eq!(tunnel["assigned"][0], "10.5.0.2/32");
        assert_eq!(tunnel["address_on_device"], "10.5.0.2/32");
        for counter in ["packets", "bytes"] {
            for direction in ["tx", "rx"] {
                assert!(tunnel[counter][direction].as_u64() > Some(0), "{tunnel}");
            }
        }
        assert!(tunnel["drops"].is_object(), "{tunnel}");
        *roles.entry(tunnel["role"].as_str().unwrap_or("none").to_owned()).or_insert(0) += 1;
    }
    // The first to come up is the primary; which one that is nobody promises.
    let primaries: i32 = roles.iter().filter(|(r, _)| r.starts_with("primary")).map(|(_, n)| n).sum();
    assert_eq!(primaries, 1, "{roles:?}");
    assert!(roles.keys().all(|role| role.contains("of 10.5.0.2/32")), "{roles:?}");
    assert!(status["flows"].as_u64() > Some(0));
    assert!(status["rules"]["generation"].as_u64() > Some(0));
    let listed = status["flow_list"].as_array().expect("a list");
    assert!(listed.iter().any(|flow| flow["uid"] == 1002 && flow["tunnel"] == "fr"), "{status}");

    // A rule that cannot be carried out blocks its app, is reported, and stops no other.
    lab.rule("--uid 1005 --to mars");
    lab.rule("--uid 1006 --to fr");
    thread::sleep(RULE_LIMIT);
    nothing_direct(&lab, || lab.gets_nothing(1005));
    lab.only(1006, "fr", "http4");
    let problems = lab.site.status(client)["rules"]["problems"].to_string();
    assert!(problems.contains("mars"), "{problems}");

    // Two programs of one user, told apart by what they execute.
    for region in ["uk", "us"] {
        let program = lab.site.app(&format!("app-{region}"));
        lab.rule(&format!("--exe {} --to {region}", program.display()));
    }
    thread::sleep(RULE_LIMIT);
    for region in ["uk", "us"] {
        let program = lab.site.path(&format!("app-{region}"));
        for answer in app::run(client, &program, 1007, "http4 5,http6 2,echo4 2") {
            assert!(answer.ends_with(region), "{region}: {answer}");
        }
    }
    lab.gets_nothing(1007);
}

#[test]
fn three_providers_with_different_addresses() {
    let mut plan = LabPlan::default();
    for (region, last) in plan.regions.iter_mut().zip([[5, 0, 2], [5, 0, 3], [6, 0, 2]]) {
        let [b, c, d] = last;
        region.assigned4 = [10, b, c, d].into();
        region.own_resolver = true;
    }
    let Some(lab) = Lab::start(plan, "", "apply = \"none\"") else { return };
    lab.add_rules();
    let _daemon = lab.daemon();
    nothing_direct(&lab, || every_app_has_its_region(&lab));
}

#[test]
fn rules_change_while_connections_run() {
    let Some(lab) = Lab::start(LabPlan::default(), "", "apply = \"none\"") else { return };
    let client = lab.lab.client();
    lab.add_rules();
    let mut daemon = lab.daemon();
    nothing_direct(&lab, || {
        let mut fresh = lab.asking(1001);
        assert_eq!(fresh.ask(), "uk");
        let mut held = App::start(client, &lab.app, 1001, "hold 50");
        assert_eq!(held.ask(), "uk*50");
        let mut neighbour = lab.asking(1002);
        for region in ["fr", "uk"].repeat(5) {
            lab.rule(&format!("--uid 1001 --to {region}"));
            thread::sleep(RULE_LIMIT);
            assert_eq!(fresh.ask(), region);
            // A connection cannot change its address: it stays or ends, and goes nowhere else.
            assert_eq!(held.ask(), "uk*50");
            assert_eq!(neighbour.ask(), "fr");
        }
    });
    assert_eq!(lab.lab.drops().expect("counters"), 0);

    // A cut tunnel blocks its app and nobody else's.
    nothing_direct(&lab, || {
        lab.lab.cut("fr").expect("cut");
        lab.only(1002, NOTHING, "short4 2");
        lab.only(1001, "uk", "http4 3");
        lab.lab.heal("fr").expect("heal");
        let mut asking = lab.asking(1002);
        let healed = Instant::now();
        while asking.ask() != "fr" {
            assert!(healed.elapsed() < Duration::from_secs(10), "fr does not come back");
        }
    });

    // Killed: nothing goes direct, and the next start takes over.
    nothing_direct(&lab, || {
        daemon.kill();
        for uid in [1001, 1002, NO_RULE] {
            lab.gets_nothing(uid);
        }
        let _again = lab.daemon();
        lab.only(1002, "fr", "http4 3");
    });
}

#[test]
fn stopping_with_open_leaves_everything_as_before() {
    let plan = LabPlan { regions: vec![RegionPlan::new("uk", 1)], client_rp_filter: 1 };
    let dns = "apply = \"resolv.conf\"\npath = \"resolv.conf\"";
    let Some(lab) = Lab::start(plan, "on_exit = \"open\"", dns) else { return };
    let client = lab.lab.client();
    lab.rule("--uid 1001 --to uk");
    let resolvers = "# the host's\nnameserver 192.0.2.1\nsearch example.org\n";
    lab.site.write("resolv.conf", resolvers);
    let filter = || client.tool("cat", "/proc/sys/net/ipv4/conf/all/rp_filter").expect("cat");
    let (before, strict) = (lab.network(), filter());
    lab.only(1001, "direct", "http4");
    // The log of the daemon is opened by its starter.
    lab.site.write("daemon.log", "");
    let listing = lab.site.listing();

    let mut daemon = lab.daemon();
    lab.only(1001, "uk", "http4 3,http6");
    let written = fs::read_to_string(lab.site.path("resolv.conf")).expect("resolv.conf");
    assert!(written.contains("nameserver 100.127.255.53"), "{written}");
    for name in ["multi-region.sock", "multi-region.journal", "rules.db"] {
        let mode = fs::metadata(lab.site.path(name)).expect(name).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert!(daemon.terminate(), "{}", daemon.log());
    assert_eq!(lab.network(), before);
    assert_eq!(filter(), strict);
    assert_eq!(fs::read_to_string(lab.site.path("resolv.conf")).expect("read"), resolvers);
    assert_eq!(lab.site.listing(), listing);
    lab.only(1001, "direct", "http4");

    // At any moment of a start, too.
    for after in [0, 1, 2, 4, 6, 8, 10, 15, 20, 30, 50, 80] {
        let mut daemon = Daemon::spawn(&lab.site, client);
        thread::sleep(Duration::from_millis(after));
        daemon.terminate();
        assert_eq!(lab.network(), before, "stopped after {after} ms");
        assert_eq!(filter(), strict, "stopped after {after} ms");
        assert_eq!(lab.site.listing(), listing, "stopped after {after} ms");
    }
}

#[test]
fn stopping_with_block_keeps_blocking_until_the_next_start() {
    let plan = LabPlan { regions: vec![RegionPlan::new("uk", 1)], client_rp_filter: 2 };
    let Some(lab) = Lab::start(plan, "on_exit = \"block\"", "apply = \"none\"") else { return };
    lab.rule("--uid 1001 --to uk");
    let mut daemon = lab.daemon();
    nothing_direct(&lab, || {
        lab.only(1001, "uk", "http4");
        assert!(daemon.terminate(), "{}", daemon.log());
        lab.gets_nothing(1001);
        lab.gets_nothing(NO_RULE);
        // One that asks all the time while the next daemon takes over.
        thread::scope(|scope| {
            let impatient = scope.spawn(|| lab.run(NO_RULE, "short4 6"));
            let _again = lab.daemon();
            lab.only(1001, "uk", "http4 3");
            let answers = impatient.join().expect("the app");
            assert!(answers.iter().all(|answer| answer.ends_with(NOTHING)), "{answers:?}");
        });
    });
}

#[test]
fn every_reverse_path_filter() {
    for mode in [0, 1, 2] {
        let plan = LabPlan { regions: vec![RegionPlan::new("uk", 1)], client_rp_filter: mode };
        let Some(lab) = Lab::start(plan, "", "apply = \"none\"") else { return };
        lab.rule("--uid 1001 --to uk");
        let _daemon = lab.daemon();
        lab.only(1001, "uk", "http4 3,http6 2,echo4 2");
    }
}

#[test]
fn ready_although_a_tunnel_is_dead_and_a_caller_silent() {
    let plan = LabPlan {
        regions: vec![RegionPlan::new("uk", 1), RegionPlan::new("fr", 2)],
        client_rp_filter: 2,
    };
    let Some(lab) = Lab::start(plan, "", "apply = \"none\"") else { return };
    let client = lab.lab.client();
    // An address nobody has.
    let profile = lab.lab.region("fr").expect("fr").profile().to_owned();
    let text = fs::read_to_string(&profile).expect("a profile");
    fs::write(&profile, text.replace("192.0.2.22:", "192.0.2.99:")).expect("a profile");
    lab.rule("--uid 1001 --to uk");
    lab.rule("--uid 1002 --to fr");
    let mut daemon = Daemon::spawn(&lab.site, client);
    let took = daemon.ready();
    assert!(took < support::READY_LIMIT, "{took:?}");
    nothing_direct(&lab, || {
        lab.only(1001, "uk", "http4 3");
        lab.gets_nothing(1002);
    });

    // Callers that say nothing, and half a question, delay nobody.
    let socket = lab.site.path("multi-region.sock");
    let silent: Vec<UnixStream> =
        (0..7).map(|_| UnixStream::connect(&socket).expect("a connection")).collect();
    std::io::Write::write_all(&mut &silent[0], b"\"sta").expect("half a question");
    let asked = Instant::now();
    assert_ne!(lab.site.status(client)["tunnels"]["fr"]["state"], "up");
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert!(daemon.terminate(), "{}", daemon.log());
    drop(silent);
}
