//! A provider lab with the daemon's files, and what apps in it get.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use vpn_lab::{LabPlan, ProviderLab};

use super::app::{self, App, NOTHING};
use super::{Daemon, LIMIT, Site, as_user, network_of};

/// Users and the regions their rules name.
pub const USERS: [(u32, &str); 3] = [(1001, "uk"), (1002, "fr"), (1003, "us")];

/// A user without a rule.
pub const NO_RULE: u32 = 1004;

/// A lab with the daemon's files.
#[derive(Debug)]
pub struct Lab {
    pub site: Site,
    pub app: PathBuf,
    pub lab: ProviderLab,
}

impl Lab {
    /// `None` where the machine lacks something for it.
    pub fn start(plan: LabPlan, top: &str, dns: &str) -> Option<Self> {
        Self::start_with(plan, top, dns, |_| String::new())
    }

    /// As [`start`](Self::start), with further keys for each tunnel.
    pub fn start_with(
        plan: LabPlan,
        top: &str,
        dns: &str,
        of_tunnel: impl Fn(&str) -> String,
    ) -> Option<Self> {
        let mut programs = plan.programs();
        programs.push("ping");
        if vpn_lab::skip(&programs) {
            return None;
        }
        let lab = ProviderLab::start(plan).expect("a lab");
        let site = Site::new();
        let mut text = format!("rules = \"rules.db\"\n{top}\n[dns]\n{dns}\n\n");
        for region in lab.regions() {
            let (name, file) = (region.name(), region.profile().display());
            let key = region.plan().kind.key();
            text.push_str(&format!("[tunnel.{name}]\n{key} = \"{file}\"\n"));
            text.push_str(&of_tunnel(name));
        }
        site.write("multi-region.toml", &text);
        // Ping sockets for everybody, as distributions have it.
        lab.client()
            .set("net/ipv4/ping_group_range", "0 2147483647")
            .expect("a setting");
        let app = site.app("app");
        let this = Self { site, app, lab };
        this.settle();
        Some(this)
    }

    /// Waits until no address is tentative any more.
    pub fn settle(&self) {
        let end = Instant::now() + LIMIT;
        while self.network().contains("tentative") && Instant::now() < end {
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn network(&self) -> String {
        network_of(self.lab.client()).expect("ip")
    }

    pub fn add_rules(&self) {
        for (uid, region) in USERS {
            self.rule(&format!("--uid {uid} --to {region}"));
        }
    }

    pub fn rule(&self, rest: &str) {
        self.site.add_rule(self.lab.client(), rest);
    }

    pub fn daemon(&self) -> Daemon {
        Daemon::start(&self.site, self.lab.client())
    }

    pub fn run(&self, uid: u32, script: &str) -> Vec<String> {
        app::run(self.lab.client(), &self.app, uid, script)
    }

    /// Every answer of the script comes from `region`.
    pub fn only(&self, uid: u32, region: &str, script: &str) {
        for answer in self.run(uid, script) {
            let (what, from) = answer.split_once(' ').expect("two words");
            assert_eq!(from, region, "{what} of user {uid}");
        }
    }

    pub fn gets_nothing(&self, uid: u32) {
        self.only(uid, NOTHING, "short4,short6");
    }

    pub fn asking(&self, uid: u32) -> App {
        App::start(self.lab.client(), &self.app, uid, "ask")
    }

    pub fn ping(&self, uid: u32, site: &str) -> bool {
        let mut command = as_user(std::path::Path::new("ping"), uid);
        command.args(["-n", "-q", "-c", "2", "-i", "0.2", "-W", "1", site]);
        self.lab
            .client()
            .output(command, LIMIT)
            .expect("ping")
            .status
            .success()
    }
}

/// Runs `work` and asserts that no packet of an app went direct meanwhile.
pub fn nothing_direct(lab: &Lab, work: impl FnOnce()) {
    let capture = lab.lab.capture().expect("a capture");
    work();
    let (seen, _) = capture.finish();
    let direct = lab.lab.went_direct(&seen);
    assert!(direct.is_empty(), "{direct:?}");
}
