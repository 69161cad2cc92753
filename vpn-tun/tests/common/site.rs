//! A neighbour at the other end of the uplink, in a namespace of its own: it answers at some
//! addresses and writes down every frame.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Result, add_address, carrier, index, link_up, netlink, uplink};

/// Longer than any machine of ours needs; reached only when something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Addresses the neighbour has: on the link, and of the Internet behind it.
pub(crate) const ADDRESSES: [&str; 4] = [
    "192.0.2.1/24",
    "203.0.113.10/32",
    "2001:db8::1/64",
    "2001:db8:ffff::10/128",
];

/// Port of its echo services, TCP and UDP.
pub(crate) const ECHO: u16 = 7;

/// What the neighbour does at a test's request, in its own namespace.
type Task = Box<dyn FnOnce() + Send>;

pub(crate) struct Site {
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    tasks: mpsc::Sender<Task>,
    threads: Vec<JoinHandle<()>>,
}

impl Site {
    /// Makes the uplink, and moves its other end to the neighbour. Default routes lead to it.
    pub(crate) async fn new(handle: &Handle) -> Result<Self> {
        let up0 = uplink(handle).await?;
        let frames: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (tasks, requests) = mpsc::channel::<Task>();
        let (ready, thread) = mpsc::channel();
        let (moved, arrived) = mpsc::channel::<()>();
        let (up, working) = mpsc::channel::<()>();
        let (written, stopped) = (frames.clone(), stop.clone());
        let neighbour = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(nix::unistd::gettid().as_raw() as u32).unwrap();
            arrived.recv().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(settle()).unwrap();
            // All of it is there before anybody sends.
            let packets = watcher();
            let sockets = echo_sockets();
            let listener = std::net::TcpListener::bind(("::", ECHO)).unwrap();
            let services = [
                std::thread::spawn({
                    let stopped = stopped.clone();
                    move || watch(&packets, &written, &stopped)
                }),
                std::thread::spawn({
                    let stopped = stopped.clone();
                    move || echo_udp(&sockets, &stopped)
                }),
                std::thread::spawn(move || echo_tcp(&listener, &stopped)),
            ];
            up.send(()).unwrap();
            for task in requests {
                task();
            }
            for service in services {
                service.join().unwrap();
            }
        });
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .index(index(handle, "up1").await?)
            .setns_by_pid(thread.recv()?)
            .build();
        handle.link().change(peer).execute().await?;
        moved.send(())?;
        working.recv()?;
        carrier(handle, up0).await?;
        // Without gateways, every destination is a neighbour on the link.
        Ok(Self {
            frames,
            stop,
            tasks,
            threads: vec![neighbour],
        })
    }

    /// Runs something in the neighbour's namespace, and waits for it.
    pub(crate) fn run<T: Send + 'static>(&self, task: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        let task = move || sender.send(task()).unwrap();
        self.tasks.send(Box::new(task)).unwrap();
        receiver.recv().unwrap()
    }

    /// Frames the neighbour has sent or received so far, that say yes.
    pub(crate) fn seen(&self, which: impl Fn(&[u8]) -> bool) -> usize {
        let frames = self.frames.lock().unwrap();
        frames.iter().filter(|frame| which(frame)).count()
    }

    /// Frames with this text in it.
    pub(crate) fn saw(&self, text: &[u8]) -> usize {
        self.seen(|frame| frame.windows(text.len()).any(|window| window == text))
    }

    /// Everything sent before has been written down: a frame that is let through follows it.
    pub(crate) async fn caught_up(&self, mark: u32) -> Result<()> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let text = format!("barrier {}.", COUNT.fetch_add(1, Ordering::Relaxed));
        let start = Instant::now();
        while self.saw(text.as_bytes()) == 0 {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            socket.set_mark(mark)?;
            let to: SocketAddr = "192.0.2.1:9".parse()?;
            socket.send_to(text.as_bytes(), &to.into())?;
            assert!(start.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The channel ends with the sender.
        self.tasks = mpsc::channel().0;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

async fn settle() -> Result<()> {
    std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")?;
    let handle = netlink();
    let up1 = index(&handle, "up1").await?;
    std::fs::write("/proc/sys/net/ipv6/conf/up1/accept_dad", "0")?;
    for index in [1, up1] {
        link_up(&handle, index).await?;
    }
    for net in ADDRESSES {
        let net: ipnet::IpNet = net.parse()?;
        add_address(&handle, up1, net.addr(), net.prefix_len()).await?;
    }
    Ok(())
}

fn watcher() -> Socket {
    const ETH_P_ALL: u16 = 3;
    let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    socket
}

fn watch(mut socket: &Socket, frames: &Mutex<Vec<Vec<u8>>>, stop: &AtomicBool) {
    let mut frame = [0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        if let Ok(length) = std::io::Read::read(&mut socket, &mut frame) {
            frames.lock().unwrap().push(frame[..length].to_vec());
        }
    }
}

/// One socket per address, so that answers come from where the question went.
fn echo_sockets() -> Vec<UdpSocket> {
    let addresses = ADDRESSES.map(|net| net.parse::<ipnet::IpNet>().unwrap().addr());
    let start = Instant::now();
    let bind = |address: IpAddr| loop {
        match UdpSocket::bind((address, ECHO)) {
            // An IPv6 address counts once the link's carrier has been noticed.
            Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {
                assert!(start.elapsed() < PATIENCE);
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result.unwrap(),
        }
    };
    let sockets: Vec<UdpSocket> = addresses.map(bind).into();
    for socket in &sockets {
        socket.set_nonblocking(true).unwrap();
    }
    sockets
}

fn echo_udp(sockets: &[UdpSocket], stop: &AtomicBool) {
    let mut buf = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        for socket in sockets {
            while let Ok((length, from)) = socket.recv_from(&mut buf) {
                let _ = socket.send_to(&buf[..length], from);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn echo_tcp(listener: &std::net::TcpListener, stop: &AtomicBool) {
    listener.set_nonblocking(true).unwrap();
    while !stop.load(Ordering::Relaxed) {
        if let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut copy = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut stream, &mut copy);
            });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The address of an Internet site of a family.
pub(crate) fn site(v4: bool) -> IpAddr {
    let address = if v4 {
        "203.0.113.10"
    } else {
        "2001:db8:ffff::10"
    };
    address.parse().unwrap()
}
