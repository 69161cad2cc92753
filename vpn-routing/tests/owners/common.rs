//! A network namespace of its own for each test, sockets of any user in it, and questions.

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
use vpn_core::{Evidence, FlowKey, OwnerAnswer, OwnerDetail, OwnerQuery, OwnerResolver, Protocol};
use vpn_routing::owner::LinuxOwners;

/// The users of these tests; nobody has to exist.
pub(crate) const ALICE: u32 = 54_001;
pub(crate) const BOB: u32 = 54_002;

/// Index of loopback, which the flows of these tests come from.
pub(crate) const LOOPBACK: u32 = 1;

/// Runs a test on a thread of its own in a fresh network namespace with loopback up, which goes
/// with the thread. Says so when the system doesn't allow that.
pub(crate) fn in_namespace(test: fn()) {
    let run = move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            return skipped(&format!(
                "no network namespace of our own ({error}); run as root"
            ));
        }
        let mut up = Command::new("ip");
        assert!(
            up.args(["link", "set", "lo", "up"])
                .status()
                .unwrap()
                .success()
        );
        test();
    };
    // One at a time: what another test forks holds our sockets until it becomes its program.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Says why a test does not run. With `VPN_LAB_REQUIRED=1`, as in CI, that is a failure.
pub(crate) fn skipped(reason: &str) {
    let required = std::env::var_os("VPN_LAB_REQUIRED").is_some_and(|value| value == "1");
    assert!(!required, "this test must not be skipped here: {reason}");
    println!("SKIPPED: {reason}");
}

pub(crate) fn owners() -> LinuxOwners {
    LinuxOwners::new(LOOPBACK).unwrap()
}

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Gives a socket to a user.
pub(crate) fn give<T: AsFd>(socket: T, uid: u32) -> T {
    std::os::unix::fs::fchown(&socket, Some(uid), None).unwrap();
    socket
}

/// A socket that shares its port with whoever wants to.
pub(crate) fn shared(
    kind: Type,
    uid: u32,
    local: &str,
    protocol: Option<SocketProtocol>,
) -> Socket {
    let local = addr(local);
    let domain = Domain::for_address(local);
    let socket = give(Socket::new(domain, kind, protocol).unwrap(), uid);
    socket.set_reuse_address(true).unwrap();
    socket.bind(&local.into()).unwrap();
    socket
}

pub(crate) fn udp(uid: u32, local: &str) -> Socket {
    shared(Type::DGRAM, uid, local, None)
}

pub(crate) fn udp_to(uid: u32, local: &str, remote: &str) -> Socket {
    let socket = udp(uid, local);
    socket.connect(&addr(remote).into()).unwrap();
    socket
}

pub(crate) fn inode(socket: &impl AsFd) -> u64 {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;
    let path = format!("/proc/self/fd/{}", socket.as_fd().as_raw_fd());
    std::fs::metadata(path).unwrap().ino()
}

/// A question by the two ends; for echo requests the port of the first is the identifier.
pub(crate) fn query(protocol: Protocol, local: &str, remote: &str) -> OwnerQuery {
    let end = |text: &str| {
        let end = addr(text);
        let ip: IpAddr = end.ip().to_canonical();
        (ip, end.port())
    };
    OwnerQuery {
        flow: FlowKey::new(protocol, end(local), end(remote)),
        detail: OwnerDetail::Uid,
    }
}

/// What is answered and what it rests on are the same: user and socket, or `None`.
pub(crate) fn ask(owners: &LinuxOwners, query: &OwnerQuery) -> (Option<(u32, u64)>, Evidence) {
    let (answer, evidence) = (owners.resolve(query), owners.evidence(query));
    assert_eq!(answer, evidence.conclusion.clone().into(), "{evidence}");
    let known = match answer {
        OwnerAnswer::Known(owner) => Some((owner.uid, owner.socket)),
        _ => None,
    };
    (known, evidence)
}

#[track_caller]
pub(crate) fn known(owners: &LinuxOwners, query: &OwnerQuery, uid: u32, socket: &impl AsFd) {
    let (known, evidence) = ask(owners, query);
    assert_eq!(known, Some((uid, inode(socket))), "{evidence}");
}

#[track_caller]
pub(crate) fn unknown(owners: &LinuxOwners, query: &OwnerQuery, because: impl Debug) -> Evidence {
    let (known, evidence) = ask(owners, query);
    assert_eq!(known, None, "{evidence}");
    let conclusion = format!("{:?}", evidence.conclusion);
    assert_eq!(conclusion, format!("Unknown({because:?})"), "{evidence}");
    evidence
}

/// Where cgroups of version 2 are mounted and may be made.
pub(crate) fn cgroups() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    Some(PathBuf::from(line.split(' ').nth(4)?))
}

/// A cgroup, removed with this value; what is in it has to have ended.
pub(crate) struct Group {
    dir: PathBuf,
    pub(crate) path: PathBuf,
}

impl Group {
    pub(crate) fn make(name: &str) -> std::io::Result<Self> {
        let root = cgroups().ok_or(std::io::ErrorKind::NotFound)?;
        let name = format!("vpn-owners-{}-{name}", std::process::id());
        let dir = root.join(&name);
        std::fs::create_dir(&dir)?;
        let path = PathBuf::from("/").join(name);
        Ok(Self { dir, path })
    }

    pub(crate) fn add(&self, pid: u32) {
        std::fs::write(self.dir.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.dir);
    }
}
