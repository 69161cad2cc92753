//! The process behind a socket: executable, cgroup, after a fork.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use socket2::Socket;
use vpn_core::owner::{Conclusion, Doubt, Lookup};
use vpn_core::{OwnerAnswer, OwnerDetail, OwnerQuery, OwnerResolver, Protocol};
use vpn_routing::owner::LinuxOwners;

use crate::common::*;

const LOCAL: &str = "127.0.0.1:5000";

/// A process that holds a socket and sleeps, ended with the test.
struct Sleeper(Child);

impl Sleeper {
    fn holding(socket: &Socket) -> Self {
        let socket = OwnedFd::from(socket.try_clone().unwrap());
        let mut command = Command::new("/bin/sleep");
        Self(command.arg("60").stdin(socket).spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn asked(site: u8) -> OwnerQuery {
    OwnerQuery {
        detail: OwnerDetail::Process,
        ..query(Protocol::UDP, LOCAL, &format!("127.0.0.{site}:53"))
    }
}

fn answer(owners: &LinuxOwners, asked: &OwnerQuery) -> OwnerAnswer {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    match owners.resolve(asked) {
        OwnerAnswer::Pending => runtime.block_on(async {
            let answered = tokio::time::timeout(Duration::from_secs(30), owners.resolved());
            let (about, answer) = answered.await.unwrap();
            assert_eq!(about, *asked);
            answer
        }),
        answer => answer,
    }
}

/// Two groups, or `None` where none can be made.
fn groups(name: &str) -> Option<[Group; 2]> {
    let made = ["a", "b"].map(|end| Group::make(&format!("{name}-{end}")));
    match made {
        [Ok(a), Ok(b)] => Some([a, b]),
        [Err(error), _] | [_, Err(error)] => {
            skipped(&format!("no cgroup of our own: {error}"));
            None
        }
    }
}

#[test]
fn a_process_has_an_executable_and_a_cgroup_and_may_move() {
    in_namespace(|| {
        let Some([first, second]) = groups("move") else {
            return;
        };
        let owners = owners();
        let socket = udp(ALICE, LOCAL);
        let sleeper = Sleeper::holding(&socket);
        drop(socket);
        for group in [&first, &second] {
            group.add(sleeper.0.id());
            let OwnerAnswer::Known(owner) = answer(&owners, &asked(9)) else {
                panic!("{}", owners.evidence(&asked(9)));
            };
            assert_eq!(owner.uid, ALICE);
            assert_eq!(owner.cgroup.as_deref(), Some(group.path.as_path()));
            let program = Path::new("/bin/sleep").canonicalize().unwrap();
            assert_eq!(owner.executable.as_deref(), Some(program.as_path()));
            // Remembered now, and the same.
            assert_eq!(owners.resolve(&asked(9)), OwnerAnswer::Known(owner.clone()));
            let evidence = owners.evidence(&asked(9));
            assert_eq!(evidence.conclusion, Conclusion::Known(owner), "{evidence}");
            assert_eq!(evidence.holders.len(), 1);
            assert_eq!(evidence.holders[0].pid, sleeper.0.id());
            assert_eq!(evidence.lookups.last(), Some(&Lookup::Processes));
        }
        drop(sleeper);
    });
}

#[test]
fn a_socket_held_in_two_cgroups_is_nobodys() {
    in_namespace(|| {
        let Some([first, second]) = groups("two") else {
            return;
        };
        let owners = owners();
        let socket = udp(ALICE, LOCAL);
        let sleepers = [Sleeper::holding(&socket), Sleeper::holding(&socket)];
        drop(socket);
        for sleeper in &sleepers {
            first.add(sleeper.0.id());
        }
        assert!(matches!(answer(&owners, &asked(9)), OwnerAnswer::Known(_)));
        second.add(sleepers[1].0.id());
        let evidence = owners.evidence(&asked(9));
        let several = Conclusion::Unknown(Doubt::SeveralProcesses);
        assert_eq!(evidence.conclusion, several, "{evidence}");
        assert_eq!(evidence.holders.len(), 2);
        let fresh = self::owners();
        assert_eq!(answer(&fresh, &asked(9)), OwnerAnswer::Unknown);
        drop(sleepers);
    });
}

/// A program in a mount namespace of its own cannot pass for one of ours, and has a cgroup.
#[test]
fn a_program_in_a_container_has_a_cgroup_and_no_executable() {
    in_namespace(|| {
        let owners = owners();
        let socket = udp(ALICE, LOCAL);
        // Something else lies over the path of the program that runs.
        let name = format!("vpn-owners-program-{}", std::process::id());
        let program = std::env::temp_dir().join(name);
        std::fs::copy("/bin/sleep", &program).unwrap();
        let script = r#"mount --bind /bin/sleep "$1" && exec "$1" 60"#;
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(&program)
            .stdin(OwnedFd::from(socket.try_clone().unwrap()))
            .spawn()
            .unwrap();
        let sleeper = Sleeper(child);
        drop(socket);
        let exe = format!("/proc/{}/exe", sleeper.0.id());
        // Until the shell has become the program.
        while std::fs::read_link(&exe).is_ok_and(|path| path != program) {
            assert!(std::fs::read_link(&exe).is_ok());
            std::thread::yield_now();
        }
        let answered = answer(&owners, &asked(9));
        let evidence = owners.evidence(&asked(9));
        drop(sleeper);
        std::fs::remove_file(&program).unwrap();
        let OwnerAnswer::Known(owner) = answered else {
            panic!("{evidence}");
        };
        assert_eq!(owner.executable, None, "{evidence}");
        assert!(owner.cgroup.is_some(), "{evidence}");
    });
}
