//! `multi-region` with rules in etcd, which is beyond the capture, over TLS: changes are in force at once,
//! what makes no sense changes nothing, and etcd may go away.
#![cfg(feature = "etcd")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so, and an app speaks on standard output"
)]

mod support;

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::app;
use support::lab::Lab;
use tempfile::TempDir;
use vpn_lab::{GATEWAY4, LabPlan, Process, RegionPlan};
use vpn_lab_etcd::{Papers, SERVER_NAME};

/// For what comes in seconds.
const LIMIT: Duration = Duration::from_secs(30);

/// The app: the other tests start copies of this program that run this test only.
#[test]
fn plays_an_app() {
    app::play();
}

/// A lab of two regions, with etcd at the gateway.
struct Fleet {
    lab: Lab,
    papers: Papers,
    data: TempDir,
}

impl Fleet {
    fn new() -> Option<Self> {
        if !vpn_lab_etcd::is_there() {
            return None;
        }
        let papers = Papers::new();
        let plan = LabPlan {
            regions: vec![RegionPlan::new("uk", 1), RegionPlan::new("fr", 2)],
            client_rp_filter: 1,
        };
        let file = |name: &str| papers.path(name).display().to_string();
        let top = format!(
            "[etcd]\nendpoints = [\"{GATEWAY4}:2379\"]\nserver_name = \"{SERVER_NAME}\"\n\
             ca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"",
            file("ca.pem"),
            file("client.pem"),
            file("client.key"),
        );
        let lab = Lab::start(plan, &top, "apply = \"none\"")?;
        lab.rule("--uid 1001 --to fr");
        let data = TempDir::new().expect("a folder");
        Some(Self { lab, papers, data })
    }

    /// For others it asks for certificates; at its own loopback it does not, for this test.
    fn etcd(&self) -> Process {
        let ports = [2379, 2380];
        let mut command = vpn_lab_etcd::command(self.data.path(), GATEWAY4.into(), ports, "https");
        command.args(self.papers.options()).arg(format!(
            "--listen-client-urls=https://{GATEWAY4}:2379,http://127.0.0.1:2378"
        ));
        let process = self.lab.lab.gateway().spawn(command).expect("etcd");
        until("etcd's answer", || self.put("started", "").is_ok());
        process
    }

    fn put(&self, key: &str, value: &str) -> Result<(), String> {
        let etcd = SocketAddr::from(([127, 0, 0, 1], 2378));
        let put = || vpn_lab_etcd::put(etcd, key, value);
        let done = self.lab.lab.gateway().run(put).expect("the gateway");
        done.map_err(|error| error.to_string())
    }

    fn rule(&self, text: &str) {
        self.put("vpn-rules/fleet", text).expect("it is written");
    }

    fn error(&self) -> String {
        let status = self.lab.site.status(self.lab.lab.client());
        status["rules"]["error"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    fn goes(&self, uid: u32, region: &str) -> bool {
        self.lab.run(uid, "http4") == [format!("http4 {region}")]
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let from = Instant::now();
    while !is_so() {
        assert!(from.elapsed() < LIMIT, "{what} did not happen");
        thread::sleep(Duration::from_millis(50));
    }
    println!("{what}: after {:?}", from.elapsed());
}

fn to(region: &str) -> String {
    format!("[[rule]]\nuid = 1002\nto = \"{region}\"\n")
}

#[test]
fn a_change_is_in_force_and_what_makes_no_sense_changes_nothing() {
    let Some(fleet) = Fleet::new() else { return };
    let mut etcd = fleet.etcd();
    fleet.rule(&to("uk"));
    let mut daemon = fleet.lab.daemon();
    fleet.lab.only(1002, "uk", "http4");
    fleet.lab.only(1001, "fr", "http4");
    assert_eq!(fleet.error(), "", "{}", daemon.log());
    let generation = || {
        let status = fleet.lab.site.status(fleet.lab.lab.client());
        status["rules"]["generation"].as_u64()
    };
    let before = generation();
    fleet.rule(&to("fr"));
    until("the way of the new rule", || fleet.goes(1002, "fr"));
    assert!(generation() > before, "{before:?}");

    // No tunnel is named: the old rule goes on.
    fleet.rule("[[rule]]\nuid = 1002\n");
    until("its problem in status", || {
        fleet.error().contains("vpn-rules/fleet")
    });
    fleet.lab.only(1002, "fr", "http4");
    fleet.rule(&to("uk"));
    until("the way of the good one", || fleet.goes(1002, "uk"));
    until("the end of the problem", || fleet.error().is_empty());

    // etcd dies: everything stays as it is, and it is told.
    etcd.signal(Signal::SIGKILL);
    etcd.wait(LIMIT).expect("it is dead");
    until("that it is away", || {
        fleet.error().contains("192.0.2.1:2379")
    });
    fleet.lab.only(1002, "uk", "http4");
    fleet.lab.only(1001, "fr", "http4");
    let _etcd = fleet.etcd();
    fleet.rule(&to("fr"));
    until("the way of a rule after that", || fleet.goes(1002, "fr"));
    until("the end of the outage", || fleet.error().is_empty());
    assert!(daemon.terminate(), "{}", daemon.log());
}

#[test]
fn until_etcd_was_there_once_nothing_is_let_out() {
    let Some(fleet) = Fleet::new() else { return };
    let mut daemon = fleet.lab.daemon();
    fleet.lab.gets_nothing(1001);
    until("that etcd is not there", || {
        fleet.error().contains("192.0.2.1:2379")
    });
    let _etcd = fleet.etcd();
    fleet.rule(&to("uk"));
    until("the way of its rule", || fleet.goes(1002, "uk"));
    fleet.lab.only(1001, "fr", "http4");
    assert!(daemon.terminate(), "{}", daemon.log());
}

/// What it would forbid is known to nobody who did not know it before.
#[test]
fn who_starts_with_a_text_that_makes_no_sense_lets_nothing_out_and_an_unknown_user_holds_up_nobody()
{
    let Some(fleet) = Fleet::new() else { return };
    let _etcd = fleet.etcd();
    fleet.rule("[[rule]]\nuid = 1002\n");
    let mut daemon = fleet.lab.daemon();
    until("its problem in status", || {
        fleet.error().contains("vpn-rules/fleet")
    });
    fleet.lab.gets_nothing(1001);
    fleet.lab.gets_nothing(1002);
    let ghost = "[[rule]]\nuser = \"ghost-of-etcd\"\nto = \"block\"\n";
    fleet.rule(&format!("{ghost}{}", to("uk")));
    until("the way of the rule", || fleet.goes(1002, "uk"));
    fleet.lab.only(1001, "fr", "http4");
    until("that there is no such user", || {
        fleet.error().contains("ghost-of-etcd")
    });
    assert!(daemon.terminate(), "{}", daemon.log());
}

/// `direct` is an interface of its own, and rules in etcd come when they come. That a user is not there is no
/// reason not to let others go direct, nor to let them go on when they may not.
#[test]
fn a_rule_that_says_direct_counts_also_after_the_start_and_beside_one_for_an_unknown_user() {
    let Some(fleet) = Fleet::new() else { return };
    let _etcd = fleet.etcd();
    fleet.rule("[[rule]]\nuid = 1002\n");
    let mut daemon = fleet.lab.daemon();
    until("its problem in status", || {
        fleet.error().contains("vpn-rules/fleet")
    });
    let ghost = "[[rule]]\nuser = \"ghost-of-etcd\"\nto = \"direct\"\n";
    let of_1003 = |region: &str| to(region).replace("1002", "1003");
    fleet.rule(&format!("{}{}{ghost}", of_1003("direct"), to("uk")));
    until("the direct way", || fleet.goes(1003, "direct"));
    until("the way of the rule", || fleet.goes(1002, "uk"));
    fleet.rule(&format!("{}{}{ghost}", of_1003("uk"), to("direct")));
    until("the way that is direct no more", || fleet.goes(1003, "uk"));
    until("the other direct way", || fleet.goes(1002, "direct"));
    fleet.lab.only(1001, "fr", "http4");
    assert!(daemon.terminate(), "{}", daemon.log());
}
