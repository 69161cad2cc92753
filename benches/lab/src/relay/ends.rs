//! Both ends of a relayed way: a sender that keeps a window full, and a receiver that counts.

use std::io::{ErrorKind, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ipnet::IpNet;
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use vpn_p2p::mesh::record::{Record, SignedRecord};
use vpn_p2p::mesh::wire::frame::relay_header;
use vpn_p2p::mesh::wire::{Frame, Plain as _, Tag, ToHub, ToMember, Token};
use vpn_p2p::mesh::{Identity, Keys as _, NoiseKeys};
use vpn_p2p::session::Opened;
use vpn_p2p::wg_quick::PrivateKey;

use super::CONTENT;
use super::serve::{NETWORK, TOKEN};
use crate::Error;

/// Datagrams of a burst.
const BURST: usize = 32;

/// Datagrams on the way at a time: fewer than any socket's buffer holds.
const WINDOW: u64 = 96;

/// After so long without anything arriving, what is on the way is lost.
const LOST: Duration = Duration::from_millis(100);

/// Ports that a flood comes from.
const FLOODERS: usize = 16;

/// Datagrams per second of a flood: half a gigabit. With far more the socket's queue is full, and who is
/// in it is the kernel's choice.
const FLOOD: u32 = 200_000;

/// How long a relay may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Two sockets.
pub(super) struct Ends {
    pub(super) sender: UdpSocket,
    pub(super) receiver: UdpSocket,
}

/// How a datagram gets from one to the other.
pub(super) struct Way {
    ends: Ends,
    to: SocketAddr,
    datagram: Vec<u8>,
}

/// What was measured.
pub(super) struct Measured {
    pub(super) received: u64,
    pub(super) lost: u64,
    pub(super) spent: Duration,
    pub(super) took: Duration,
}

fn socket() -> Result<UdpSocket, Error> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

impl Ends {
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self {
            sender: socket()?,
            receiver: socket()?,
        })
    }

    pub(super) fn receiver_addr(&self) -> Result<SocketAddr, Error> {
        Ok(self.receiver.local_addr()?)
    }

    /// To this relay, which knows where they go.
    pub(super) fn bare(self, to: SocketAddr) -> Way {
        self.behind(to, &[])
    }

    /// To this relay, behind this header.
    pub(super) fn behind(self, to: SocketAddr, header: &[u8]) -> Way {
        // As a sealed packet begins.
        let content = [&[4][..], &[7; CONTENT - 1]].concat();
        let datagram = [header, &content].concat();
        Way {
            ends: self,
            to,
            datagram,
        }
    }
}

impl Way {
    /// Both ends become members of the hub that said where it is.
    pub(super) fn through_hub(said: &str) -> Result<Self, Error> {
        let hub: SocketAddr = said.parse()?;
        let ends = Ends::new()?;
        register(&ends.sender, hub, 1)?;
        let receiver = register(&ends.receiver, hub, 2)?;
        Ok(ends.behind(hub, &relay_header(receiver, 0)))
    }

    /// Keeps the way full for a while; what the relay spent is asked at both ends of the window.
    pub(super) fn flow(
        &self,
        bursts: bool,
        warm_up: Duration,
        window: Duration,
        spent: impl Fn() -> Duration,
    ) -> Result<Measured, Error> {
        let (received, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        self.ends.receiver.set_read_timeout(Some(LOST))?;
        thread::scope(|scope| {
            let sending = scope.spawn(|| self.send(bursts, &received, &stop));
            let sender = sending.thread().clone();
            let (arrived, ended) = (&received, &stop);
            let receiving = scope.spawn(move || self.receive(arrived, ended, &sender));
            thread::sleep(warm_up);
            let (before, spent_before) = (received.load(Ordering::Relaxed), spent());
            let start = Instant::now();
            thread::sleep(window);
            let (after, spent_after) = (received.load(Ordering::Relaxed), spent());
            let took = start.elapsed();
            stop.store(true, Ordering::Relaxed);
            let lost = sending.join().map_err(|_| "the sender failed")??;
            receiving.join().map_err(|_| "the receiver failed")??;
            if after == before {
                return Err("nothing came through the relay".into());
            }
            Ok(Measured {
                received: after - before,
                lost,
                spent: spent_after - spent_before,
                took,
            })
        })
    }

    /// Sends the hub what strangers may send, from many ports, until it is told to stop: Hellos, Joins
    /// with a cookie that is none, handshakes. Returns how many.
    pub(super) fn flood(&self, stop: &AtomicBool) -> Result<u64, Error> {
        let record = [7; 500];
        let join = Frame::Join {
            cookie: [1; 16],
            record: &record,
        };
        let mut initiation = vec![7; 148];
        initiation[..4].copy_from_slice(&[1, 0, 0, 0]);
        let kinds = [
            Frame::Hello { nonce: 1 }.to_bytes(),
            join.to_bytes(),
            initiation,
        ];
        let sockets: Vec<UdpSocket> = (0..FLOODERS).map(|_| socket()).collect::<Result<_, _>>()?;
        let (mut sent, start) = (0, Instant::now());
        let due = |sent: u64| Duration::from_secs(sent) / FLOOD;
        while !stop.load(Ordering::Relaxed) {
            for socket in &sockets {
                thread::sleep(due(sent).saturating_sub(start.elapsed()));
                let state = UdpSocketState::new(socket.into())?;
                for kind in &kinds {
                    let transmit = Transmit {
                        destination: self.to,
                        ecn: None,
                        contents: &kind.repeat(BURST),
                        segment_size: Some(kind.len()),
                        src_ip: None,
                    };
                    if state.try_send(socket.into(), &transmit).is_ok() {
                        sent += BURST as u64;
                    }
                }
            }
        }
        Ok(sent)
    }

    /// Sends as far as the window goes; returns how many never arrived.
    fn send(&self, bursts: bool, received: &AtomicU64, stop: &AtomicBool) -> Result<u64, Error> {
        let socket = &self.ends.sender;
        let state = UdpSocketState::new(socket.into())?;
        socket.set_nonblocking(false)?;
        let each = if bursts {
            BURST.min(state.max_gso_segments())
        } else {
            1
        };
        let contents = self.datagram.repeat(each);
        let transmit = Transmit {
            destination: self.to,
            ecn: None,
            contents: &contents,
            segment_size: (each > 1).then_some(self.datagram.len()),
            src_ip: None,
        };
        let (mut sent, mut lost) = (0_u64, 0_u64);
        let (mut last, mut since) = (0, Instant::now());
        while !stop.load(Ordering::Relaxed) {
            let arrived = received.load(Ordering::Relaxed);
            if arrived != last {
                (last, since) = (arrived, Instant::now());
            }
            if sent.saturating_sub(arrived + lost) + each as u64 > WINDOW {
                if since.elapsed() > LOST {
                    lost = sent.saturating_sub(arrived);
                    since = Instant::now();
                }
                thread::park_timeout(Duration::from_millis(1));
                continue;
            }
            state.try_send(socket.into(), &transmit)?;
            sent += each as u64;
        }
        Ok(lost)
    }

    fn receive(
        &self,
        received: &AtomicU64,
        stop: &AtomicBool,
        sender: &thread::Thread,
    ) -> Result<(), Error> {
        let socket = &self.ends.receiver;
        let state = UdpSocketState::new(socket.into())?;
        socket.set_nonblocking(false)?;
        let mut buffer = vec![0; 65_535];
        while !stop.load(Ordering::Relaxed) {
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let mut meta = [RecvMeta::default()];
            match state.recv(socket.into(), &mut slices, &mut meta) {
                Ok(_) if meta[0].len >= CONTENT => {
                    let count = meta[0].len.div_ceil(meta[0].stride.max(1));
                    received.fetch_add(count as u64, Ordering::Relaxed);
                    sender.unpark();
                }
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn ask(socket: &UdpSocket, hub: SocketAddr, datagram: &[u8]) -> Result<BytesMut, Error> {
    socket.send_to(datagram, hub)?;
    let mut buffer = [0; 2048];
    let (count, _) = socket.recv_from(&mut buffer)?;
    Ok(BytesMut::from(&buffer[..count]))
}

/// Becomes a member of a hub, by this socket; its name there.
fn register(socket: &UdpSocket, hub: SocketAddr, number: u8) -> Result<Tag, Error> {
    let unix = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_secs();
    let identity = Identity::generate()?;
    let keys = NoiseKeys::new(&PrivateKey::generate()?);
    let network: IpNet = NETWORK.parse()?;
    let address = network.hosts().nth(usize::from(number));
    let record = Record {
        peer: identity.id(),
        name: String::new(),
        session: keys.public(),
        addresses: address.into_iter().collect(),
        routes: Vec::new(),
        candidates: Vec::new(),
        sequence: 1,
        expires: unix + 3600,
    };
    let record = record.sign(&identity).to_bytes();
    let welcome = ask(socket, hub, &Frame::Hello { nonce: 1 }.to_bytes())?;
    let Ok(Frame::Welcome {
        cookie,
        record: hubs,
        ..
    }) = Frame::read(&welcome)
    else {
        return Err("no welcome".into());
    };
    let hubs = SignedRecord::from_bytes(hubs, unix)?;
    let mut session = keys.session(hubs.record().session);
    let join = Frame::Join {
        cookie,
        record: &record,
    };
    socket.send_to(&join.to_bytes(), hub)?;
    let initiation = session.initiate(false).ok_or("no handshake")?;
    let response = ask(socket, hub, &initiation)?;
    let Opened::Reply(keepalive) = session.open(response) else {
        return Err("no session".into());
    };
    socket.send_to(&keepalive, hub)?;
    let token = Some(Token(TOKEN.to_owned().into()));
    let register = ToHub::Register {
        id: 1,
        token,
        record,
    };
    let mut plain = register.to_plain();
    plain.resize(plain.len().next_multiple_of(16), 0);
    let mut sealed = Vec::new();
    session.seal(BytesMut::from(&plain[..]), &mut sealed);
    let Opened::Packet(answer) = session.open(ask(socket, hub, &sealed)?) else {
        return Err("no answer".into());
    };
    match ToMember::from_plain(&answer) {
        Some(ToMember::Registered { .. }) => Ok(Tag::from(identity.id())),
        other => Err(format!("not registered: {other:?}").into()),
    }
}
