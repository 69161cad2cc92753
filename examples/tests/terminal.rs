//! The live view in a terminal: taken over while it runs, and given back however it ends.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so; apps of other tests speak on standard output"
)]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use support::lab::Lab;
use support::place::site;
use support::{LIMIT, Site, app};
use vpn_lab::{LabPlan, RegionPlan};

/// What begins the second screen, and what ends it (xterm's control sequences).
const TAKEN: &str = "\u{1b}[?1049h";
const GIVEN_BACK: &str = "\u{1b}[?1049l";

/// The live view in a terminal of 80 by 24.
struct Shown {
    child: Child,
    keys: File,
    slave: OwnedFd,
    said: Receiver<Vec<u8>>,
    text: String,
    /// What a person sees.
    screen: vt100::Parser,
}

impl Shown {
    fn start(site: &Site) -> Self {
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).expect("a terminal");
        let end = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        let mut command = site.command(&["top", "--control", "multi-region.sock"]);
        command.env("TERM", "xterm-256color");
        let child = command
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("the program");
        let (sender, said) = channel();
        let mut read = File::from(pty.master.try_clone().expect("a descriptor"));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = read.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            keys: File::from(pty.master),
            slave: pty.slave,
            said,
            text: String::new(),
            // As large.
            screen: vt100::Parser::default(),
        }
    }

    /// Waits until this was written.
    fn until(&mut self, part: &str) {
        self.wait(part, |shown| shown.text.contains(part));
    }

    /// Waits until this is seen.
    fn sees(&mut self, part: &str) {
        self.wait(part, |shown| {
            shown.screen.screen().contents().contains(part)
        });
    }

    fn wait(&mut self, part: &str, come: impl Fn(&Self) -> bool) {
        let end = Instant::now() + LIMIT;
        while !come(self) {
            let left = end.saturating_duration_since(Instant::now());
            match self.said.recv_timeout(left) {
                Ok(bytes) => {
                    self.text.push_str(&String::from_utf8_lossy(&bytes));
                    self.screen.process(&bytes);
                }
                Err(_) => panic!(
                    "{part:?} is not in {:?}, which shows:\n{}",
                    self.text,
                    self.screen.screen().contents()
                ),
            }
        }
    }

    fn is_raw(&self) -> bool {
        let flags = tcgetattr(self.slave.as_fd()).expect("its settings");
        !flags.local_flags.contains(LocalFlags::ICANON)
    }

    /// Waits for its end: whether with success.
    fn ends(&mut self) -> bool {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().expect("its status") {
                return status.success();
            }
            assert!(Instant::now() < end, "it does not end: {:?}", self.text);
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a number");
        kill(Pid::from_raw(pid), signal).expect("it is there");
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The app: the other tests start copies of this program that run this test only.
#[test]
fn plays_an_app() {
    app::play();
}

#[test]
fn it_takes_the_terminal_and_gives_it_back() {
    type End = fn(&mut Shown);
    let ends: [(&str, End); 4] = [
        ("q", |shown| shown.keys.write_all(b"q").expect("a key")),
        ("^C", |shown| shown.keys.write_all(&[3]).expect("a key")),
        ("SIGTERM", |shown| shown.signal(Signal::SIGTERM)),
        ("SIGHUP", |shown| shown.signal(Signal::SIGHUP)),
    ];
    for (what, end) in ends {
        let site = site();
        let mut shown = Shown::start(&site);
        // A daemon that is not there is shown, and no reason to end.
        shown.sees("No such file or directory (os error 2); asking again");
        assert!(shown.text.contains(TAKEN), "{:?}", shown.text);
        assert!(shown.is_raw());
        end(&mut shown);
        shown.until(GIVEN_BACK);
        assert!(shown.ends(), "{what}: {:?}", shown.text);
        assert!(!shown.is_raw(), "{what}");
        // The cursor, too.
        assert!(
            shown.text.contains("\u{1b}[?25h"),
            "{what}: {:?}",
            shown.text
        );
    }
}

#[test]
fn a_daemon_is_seen_its_app_switched_and_its_end_survived() {
    let plan = LabPlan {
        regions: vec![RegionPlan::new("fr", 1), RegionPlan::new("uk", 2)],
        client_rp_filter: 0,
    };
    let Some(lab) = Lab::start(plan, "on_exit = \"open\"", "apply = \"none\"") else {
        return;
    };
    lab.rule("--uid 1001 --to fr");
    let mut daemon = lab.daemon();
    lab.only(1001, "fr", "http4 2");
    let mut shown = Shown::start(&lab.site);
    shown.sees("● live");
    shown.sees("2 of 2 up");
    shown.sees("uid 1001");
    let status = lab.site.status(lab.lab.client());
    let generation = status["rules"]["generation"].as_u64().expect("a number");
    shown.sees(&format!("generation {generation} in order"));
    // The first app, one further than the way it has.
    shown.keys.write_all(b"\r").expect("a key");
    shown.sees("uid 1001 through");
    shown.keys.write_all(b"j\r").expect("keys");
    shown.sees("uid 1001 -> uk");
    shown.sees(&format!("generation {} in order", generation + 1));
    lab.only(1001, "uk", "http4 2");
    shown.keys.write_all(b"\x1b").expect("a key");
    assert!(daemon.terminate(), "{}", daemon.log());
    shown.sees("● no daemon");
    shown.sees("asking again");
    let _again = lab.daemon();
    shown.sees("● live");
    shown.sees("2 of 2 up");
    shown.keys.write_all(b"q").expect("a key");
    assert!(shown.ends());
}
