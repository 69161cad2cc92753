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
use support::LIMIT;
use support::place::site;

/// What begins the second screen, and what ends it (xterm's control sequences).
const TAKEN: &str = "\u{1b}[?1049h";
const GIVEN_BACK: &str = "\u{1b}[?1049l";

/// The live view in a terminal of 80 by 24, of a daemon that is not there.
struct Shown {
    child: Child,
    keys: File,
    slave: OwnedFd,
    said: Receiver<Vec<u8>>,
    text: String,
    _site: support::Site,
}

impl Shown {
    fn start() -> Self {
        let site = site();
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
            _site: site,
        }
    }

    /// Waits until this was written.
    fn until(&mut self, part: &str) {
        let end = Instant::now() + LIMIT;
        while !self.text.contains(part) {
            let left = end.saturating_duration_since(Instant::now());
            match self.said.recv_timeout(left) {
                Ok(bytes) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("{part:?} is not in {:?}", self.text),
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
        let mut shown = Shown::start();
        // A daemon that is not there is shown, and no reason to end.
        shown.until("asking again");
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
