//! Against the kernel, over loopback and without rights.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use super::*;
use vpn_core::flow::FlowKey;

/// Loopback's index.
const LOOPBACK: u32 = 1;

fn me() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

fn owners() -> LinuxOwners {
    LinuxOwners::new(LOOPBACK).unwrap()
}

fn query(protocol: Protocol, local: SocketAddr, remote: SocketAddr) -> OwnerQuery {
    let end = |a: SocketAddr| (normal(a.ip()), a.port());
    OwnerQuery {
        flow: FlowKey::new(protocol, end(local), end(remote)),
        detail: OwnerDetail::Uid,
    }
}

/// The inode of the socket that was found.
fn known(owners: &LinuxOwners, query: &OwnerQuery) -> u64 {
    match owners.resolve(query) {
        OwnerAnswer::Known(owner) => {
            assert_eq!(owner.uid, me());
            owner.socket
        }
        other => panic!("{query:?}: {other:?}"),
    }
}

fn inode(socket: &impl std::os::fd::AsRawFd) -> u64 {
    let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
    std::fs::metadata(path).unwrap().ino()
}

#[test]
fn tcp_of_both_families_and_dual_stack() {
    let owners = owners();
    for (listen, connect) in [
        ("127.0.0.1:0", "127.0.0.1"),
        ("[::1]:0", "::1"),
        ("[::]:0", "127.0.0.1"),
        ("[::]:0", "::ffff:127.0.0.1"),
    ] {
        let listener = match TcpListener::bind(listen) {
            Ok(listener) => listener,
            // A machine without IPv6.
            Err(e) if e.kind() == ErrorKind::AddrNotAvailable => continue,
            Err(e) => panic!("{listen}: {e}"),
        };
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect((connect, port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        // The client's socket, and the accepted one: for `[::]` a dual-stack socket.
        for stream in [&client, &server] {
            let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            let asked = query(Protocol::TCP, local, remote);
            assert_eq!(known(&owners, &asked), inode(stream), "{listen} {connect}");
        }
        // The listener does not own what it has not accepted.
        let local = client.peer_addr().unwrap();
        let stranger = SocketAddr::new(local.ip(), 1);
        let asked = query(Protocol::TCP, local, stranger);
        assert_eq!(owners.resolve(&asked), OwnerAnswer::Unknown);
    }
}

#[test]
fn udp_connected_and_not_and_dual_stack() {
    let owners = owners();
    let remote: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let open = UdpSocket::bind("127.0.0.1:0").unwrap();
    let asked = query(Protocol::UDP, open.local_addr().unwrap(), remote);
    assert_eq!(known(&owners, &asked), inode(&open));
    let anywhere = UdpSocket::bind("0.0.0.0:0").unwrap();
    let local = SocketAddr::new(remote.ip(), anywhere.local_addr().unwrap().port());
    assert_eq!(
        known(&owners, &query(Protocol::UDP, local, remote)),
        inode(&anywhere)
    );
    let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
    connected.connect(remote).unwrap();
    let local = connected.local_addr().unwrap();
    assert_eq!(
        known(&owners, &query(Protocol::UDP, local, remote)),
        inode(&connected)
    );
    let elsewhere = query(Protocol::UDP, local, "127.0.0.1:10".parse().unwrap());
    assert_eq!(owners.resolve(&elsewhere), OwnerAnswer::Unknown);
    let Ok(dual) = UdpSocket::bind("[::]:0") else {
        return;
    };
    let port = dual.local_addr().unwrap().port();
    for (local, remote) in [("127.0.0.1", "127.0.0.1:9"), ("::1", "[::1]:9")] {
        let local = SocketAddr::new(local.parse().unwrap(), port);
        let asked = query(Protocol::UDP, local, remote.parse().unwrap());
        assert_eq!(known(&owners, &asked), inode(&dual));
    }
}

/// N-2, N-1: one source port, two sockets, two destinations.
#[test]
fn two_sockets_of_one_port_are_told_apart_by_destination() {
    use socket2::{Domain, Socket, Type};
    let owners = owners();
    let bind = |port: u16, remote: &SocketAddr| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        let local: SocketAddr = ([127, 0, 0, 1], port).into();
        socket.bind(&local.into()).unwrap();
        socket.connect(&(*remote).into()).unwrap();
        UdpSocket::from(socket)
    };
    let remotes: [SocketAddr; 2] = [([127, 0, 0, 1], 9).into(), ([127, 0, 0, 2], 9).into()];
    let a = bind(0, &remotes[0]);
    let local = a.local_addr().unwrap();
    let b = bind(local.port(), &remotes[1]);
    for (socket, remote) in [(&a, remotes[0]), (&b, remotes[1])] {
        let asked = query(Protocol::UDP, local, remote);
        assert_eq!(known(&owners, &asked), inode(socket));
    }
}

#[test]
fn nobody_owns_a_port_without_socket() {
    let owners = owners();
    let free = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let remote = "127.0.0.1:9".parse().unwrap();
    for protocol in [Protocol::UDP, Protocol::TCP, Protocol(47)] {
        let asked = query(protocol, free, remote);
        assert_eq!(owners.resolve(&asked), OwnerAnswer::Unknown);
    }
}

#[test]
fn a_ping_socket_is_found_by_its_identifier() {
    use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
    let kind = Some(SocketProtocol::ICMPV4);
    let Ok(ping) = Socket::new(Domain::IPV4, Type::DGRAM, kind) else {
        // `net.ipv4.ping_group_range` does not include us.
        return;
    };
    let local: SocketAddr = ([127, 0, 0, 1], 4711).into();
    if ping.bind(&local.into()).is_err() {
        return;
    }
    let asked = query(Protocol::ICMP, local, ([127, 0, 0, 1], 0).into());
    assert_eq!(known(&owners(), &asked), inode(&ping));
}

#[tokio::test]
async fn our_own_executable_is_found_and_remembered() {
    let owners = owners();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let remote = "127.0.0.1:9".parse().unwrap();
    let asked = OwnerQuery {
        detail: OwnerDetail::Process,
        ..query(Protocol::UDP, socket.local_addr().unwrap(), remote)
    };
    assert_eq!(owners.resolve(&asked), OwnerAnswer::Pending);
    let (about, answer) = tokio::time::timeout(Duration::from_secs(30), owners.resolved())
        .await
        .unwrap();
    assert_eq!(about, asked);
    let OwnerAnswer::Known(owner) = &answer else {
        panic!("{answer:?}");
    };
    let own = std::env::current_exe().unwrap().canonicalize().unwrap();
    assert_eq!(owner.executable.as_deref(), Some(own.as_path()));
    assert_eq!(owner.socket, inode(&socket));
    assert_eq!(owners.resolve(&asked), answer);
    // Another socket on the same port is another question.
    let local = socket.local_addr().unwrap();
    drop(socket);
    let _again = UdpSocket::bind(local).unwrap();
    assert_eq!(owners.resolve(&asked), OwnerAnswer::Pending);
}

#[test]
fn what_is_asked_and_dropped_leaves_no_thread() {
    let owners = owners();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let remote = "127.0.0.1:9".parse().unwrap();
    let asked = OwnerQuery {
        detail: OwnerDetail::Process,
        ..query(Protocol::UDP, socket.local_addr().unwrap(), remote)
    };
    for _ in 0..MAX_PENDING * 2 {
        owners.resolve(&asked);
    }
    // Joins the thread, which may wait for room in the queue of answers that nobody reads.
    drop(owners);
}

/// A process that sleeps, and is ended with the test.
struct Sleeper(std::process::Child);

impl Sleeper {
    fn start(program: &std::path::Path, stdin: std::process::Stdio) -> Self {
        let mut command = std::process::Command::new(program);
        command.arg("60").stdin(stdin);
        loop {
            match command.spawn() {
                Ok(child) => return Self(child),
                // Another test forked while the copied file was open for writing.
                Err(e) if e.kind() == ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
                Err(e) => panic!("{}: {e}", program.display()),
            }
        }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sleep_program() -> std::path::PathBuf {
    std::path::Path::new("/bin/sleep").canonicalize().unwrap()
}

#[tokio::test]
async fn a_socket_shared_by_two_executables_is_nobodys() {
    let owners = owners();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let shared = std::os::fd::OwnedFd::from(socket.try_clone().unwrap());
    let asked = OwnerQuery {
        detail: OwnerDetail::Process,
        ..query(
            Protocol::UDP,
            socket.local_addr().unwrap(),
            "127.0.0.1:9".parse().unwrap(),
        )
    };
    let child = Sleeper::start(&sleep_program(), shared.into());
    assert_eq!(owners.resolve(&asked), OwnerAnswer::Pending);
    assert_eq!(owners.resolved().await, (asked, OwnerAnswer::Unknown));
    // The user is the same all the same.
    let by_user = OwnerQuery {
        detail: OwnerDetail::Uid,
        ..asked
    };
    known(&owners, &by_user);
    drop(child);
}

#[tokio::test]
async fn a_socket_held_by_another_process_only_is_that_process() {
    let owners = owners();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let local = socket.local_addr().unwrap();
    let child = Sleeper::start(&sleep_program(), std::os::fd::OwnedFd::from(socket).into());
    let asked = OwnerQuery {
        detail: OwnerDetail::Process,
        ..query(Protocol::UDP, local, "127.0.0.1:9".parse().unwrap())
    };
    assert_eq!(owners.resolve(&asked), OwnerAnswer::Pending);
    match owners.resolved().await.1 {
        OwnerAnswer::Known(owner) => {
            assert_eq!(owner.executable.as_deref(), Some(sleep_program().as_path()));
        }
        other => panic!("{other:?}"),
    }
    drop(child);
}

/// An update replaces the file while the program runs: it keeps its rules.
#[test]
fn an_executable_that_was_deleted_counts_by_its_old_path() {
    let name = format!("vpn-owner-{}", std::process::id());
    let path = std::env::temp_dir().canonicalize().unwrap().join(name);
    std::fs::copy(sleep_program(), &path).unwrap();
    let child = Sleeper::start(&path, std::process::Stdio::null());
    let running = || search::program_of(child.0.id());
    let here = Some(search::Program::Here(path.as_path().into()));
    assert_eq!(running(), here);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(running(), here);
    // What took its place is another program, and does not change what this one was.
    std::fs::write(&path, "another").unwrap();
    assert_eq!(running(), here);
    std::fs::remove_file(&path).unwrap();
}
