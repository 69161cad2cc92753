//! Two daemons as the two ends of one WireGuard tunnel: what goes in at one end comes out at the
//! other byte by byte, in both directions at once, whatever is cut, joined and put off on the way.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so"
)]

mod support;

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use support::{Daemon, Site};
use vpn_lab::{KeyPair, Namespace, veth};

/// What a transfer may take before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of one stream, in one direction.
const LENGTH: usize = 24 * 1024 * 1024;

/// The ends' addresses inside the tunnel.
const INSIDE: [[&str; 2]; 2] = [["10.77.0.1", "fd77::1"], ["10.77.0.2", "fd77::2"]];

struct End {
    place: Namespace,
    site: Site,
    _daemon: Daemon,
}

/// `None` where the machine lacks something. `cable` prepares the ends of the cable.
fn pair(offload: &str, cable: impl Fn(&Namespace)) -> Option<[End; 2]> {
    if vpn_lab::skip(&["ethtool"]) {
        return None;
    }
    let places = ["a", "b"].map(|name| Namespace::new(name).expect("a namespace"));
    veth(&places[0], "eth0", &places[1], "eth0").expect("a cable");
    let keys = [(); 2].map(|()| KeyPair::generate().expect("a key"));
    let mut number = 0..2;
    let ends = places.map(|place| {
        let me = number.next().expect("two");
        let other = 1 - me;
        let outside = |end: usize| IpAddr::from([192, 0, 2, end as u8 + 1]);
        place
            .add_address("eth0", outside(me), 24)
            .expect("an address");
        cable(&place);
        let site = Site::new();
        site.write(
            "peer.conf",
            &format!(
                "[Interface]\nPrivateKey = {}\nAddress = {}/24, {}/64\nListenPort = 51820\n\
                 [Peer]\nPublicKey = {}\nAllowedIPs = {}/32, {}/128\nEndpoint = {}:51820\n",
                keys[me].private_base64(),
                INSIDE[me][0],
                INSIDE[me][1],
                keys[other].public_base64(),
                INSIDE[other][0],
                INSIDE[other][1],
                outside(other),
            ),
        );
        let mut text = format!(
            "[interface]\noffload = \"{offload}\"\n[dns]\napply = \"none\"\n\
             [tunnel.peer]\nwireguard = \"peer.conf\"\n"
        );
        for network in ["10.77.0.0/24", "fd77::/64"] {
            text += &format!("[[rule]]\ndst = \"{network}\"\nto = \"peer\"\n");
        }
        for protocol in ["tcp", "udp", "icmp"] {
            text += &format!("[[inbound]]\ntunnel = \"peer\"\nproto = \"{protocol}\"\n");
        }
        site.write("multi-region.toml", &text);
        let daemon = Daemon::spawn(&site, &place);
        End {
            place,
            site,
            _daemon: daemon,
        }
    });
    for end in &ends {
        end._daemon.ready();
    }
    Some(ends)
}

/// The bytes of one direction of one stream, from a seed: any two differ soon.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            // xorshift64 (Marsaglia 2003).
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Sends one noise and compares what comes with the other, both at once.
fn exchange(mut stream: TcpStream, mine: u64, theirs: u64) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut outbound = stream.try_clone()?;
    thread::scope(|scope| {
        let sending = scope.spawn(move || {
            let (mut noise, mut buffer) = (Noise(mine), vec![0; 96 * 1024]);
            let mut left = LENGTH;
            // Pieces of no even size, so that packets end anywhere.
            for size in [1, 7, 1368, 5000, 65_536, 96 * 1024].into_iter().cycle() {
                let size = left.min(size);
                if size == 0 {
                    break;
                }
                // Whole words, or the two ends would count differently.
                noise.fill(&mut buffer[..size.next_multiple_of(8)]);
                outbound.write_all(&buffer[..size])?;
                left -= size;
            }
            outbound.shutdown(std::net::Shutdown::Write)
        });
        let (mut noise, mut expected) = (Noise(theirs), vec![0; 96 * 1024]);
        let mut got = vec![0; 96 * 1024];
        let mut left = LENGTH;
        for size in [1, 7, 1368, 5000, 65_536, 96 * 1024].into_iter().cycle() {
            let size = left.min(size);
            if size == 0 {
                break;
            }
            noise.fill(&mut expected[..size.next_multiple_of(8)]);
            stream.read_exact(&mut got[..size])?;
            assert!(
                got[..size] == expected[..size],
                "other bytes arrive, {} before the end",
                left
            );
            left -= size;
        }
        assert_eq!(stream.read(&mut got)?, 0, "more arrives than was sent");
        sending.join().expect("the sender")
    })
}

/// Streams of both families at once, each in both directions.
fn transfer(ends: &[End; 2]) {
    let [a, b] = ends;
    thread::scope(|scope| {
        let mut streams = Vec::new();
        for (number, address) in (1..).zip(INSIDE[1]) {
            let at = SocketAddr::new(address.parse().expect("an address"), 5000);
            let listener = b.place.run(|| TcpListener::bind(at)).expect("a thread");
            let listener = listener.expect("a listener");
            streams.push(scope.spawn(move || {
                let (stream, _) = listener.accept()?;
                exchange(stream, number, number + 100)
            }));
            let connect = move || TcpStream::connect_timeout(&at, PATIENCE);
            let stream = a.place.run(connect).expect("a thread").expect("a stream");
            streams.push(scope.spawn(move || exchange(stream, number + 100, number)));
        }
        for stream in streams {
            stream.join().expect("no difference").expect("a transfer");
        }
    });
}

/// Datagrams of every size there and back: equal ones in a row, as a sender of many has them.
fn datagrams(ends: &[End; 2]) {
    let [a, b] = ends;
    for (number, address) in INSIDE[1].into_iter().enumerate() {
        let at = SocketAddr::new(address.parse().expect("an address"), 6000);
        let echo = b.place.run(|| UdpSocket::bind(at)).expect("a thread");
        let echo = echo.expect("a socket");
        let any: IpAddr = INSIDE[0][number].parse().expect("an address");
        let app = a.place.run(|| UdpSocket::bind((any, 0))).expect("a thread");
        let app = app.expect("a socket");
        for socket in [&echo, &app] {
            socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
        }
        let mut buffer = vec![0; 2000];
        for size in [0, 1, 64, 500, 1232, 1372 - 20 * number] {
            let datagram = |n: u8| vec![n; size];
            for n in 0..20 {
                app.send_to(&datagram(n), at).expect("sent");
            }
            for n in 0..20 {
                let (length, from) = echo.recv_from(&mut buffer).expect("a datagram");
                assert!(buffer[..length] == datagram(n), "{n} of {size} bytes");
                echo.send_to(&buffer[..length], from).expect("sent");
            }
            for n in 0..20 {
                let length = app.recv(&mut buffer).expect("an answer");
                assert!(buffer[..length] == datagram(n), "{n} of {size} bytes");
            }
        }
    }
}

/// Packets and bytes that came through the tunnel, and packets dropped.
fn received(end: &End) -> (u64, u64, u64) {
    let status = end.site.status(&end.place);
    let told = &status["tunnels"]["peer"];
    let count = |what: &str| told[what]["rx"].as_u64().expect("a count");
    let drops = status["drops"].as_object().expect("drops");
    let drops = drops.values().filter_map(serde_json::Value::as_u64).sum();
    (count("packets"), count("bytes"), drops)
}

#[test]
fn every_byte_arrives_with_super_packets() {
    let Some(ends) = pair("auto", |_| ()) else {
        return;
    };
    transfer(&ends);
    datagrams(&ends);
    for end in &ends {
        let (packets, bytes, drops) = received(end);
        println!("{packets} packets, {bytes} bytes, {drops} drops");
        // Two streams, and their headers. Several segments go as one, where the kernel allows it.
        assert!(bytes > 2 * LENGTH as u64);
    }
}

#[test]
fn every_byte_arrives_without() {
    let Some(ends) = pair("off", |_| ()) else {
        return;
    };
    transfer(&ends);
    datagrams(&ends);
}

/// A cable that segments nothing and joins nothing: each datagram is sent and received alone.
#[test]
fn every_byte_arrives_over_a_cable_without_offload() {
    let plain = |place: &Namespace| {
        let features = "tx-udp-segmentation off gso off gro off tx off rx off";
        place
            .tool("ethtool", &format!("-K eth0 {features}"))
            .expect("ethtool");
    };
    let Some(ends) = pair("auto", plain) else {
        return;
    };
    transfer(&ends);
    datagrams(&ends);
}

/// Streams that end after any number of segments, and a bit.
#[test]
fn short_streams_arrive_whole() {
    let Some(ends) = pair("auto", |_| ()) else {
        return;
    };
    let [a, b] = &ends;
    let at: SocketAddr = "10.77.0.2:5000".parse().expect("an address");
    let listener = b.place.run(|| TcpListener::bind(at)).expect("a thread");
    let listener = listener.expect("a listener");
    let serving = thread::spawn(move || -> io::Result<()> {
        for _ in 0..50 {
            let (mut stream, _) = listener.accept()?;
            let mut all = Vec::new();
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.read_to_end(&mut all)?;
            stream.write_all(&all)?;
        }
        Ok(())
    });
    for n in 0..50usize {
        let mut stream = a
            .place
            .run(|| TcpStream::connect(at))
            .expect("a thread")
            .expect("a stream");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        let mut sent = vec![0; n * 1368 + n];
        Noise(n as u64 + 1).fill(&mut sent);
        stream.write_all(&sent).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("an end");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("an answer");
        assert!(got == sent, "{} bytes", sent.len());
    }
    serving.join().expect("the server").expect("served");
}
