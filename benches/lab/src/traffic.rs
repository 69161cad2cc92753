//! Sends traffic from one namespace to the other: streams, a flood of small datagrams, and single
//! datagrams that are answered. Sockets are made inside the namespaces, and used by threads here.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Error;
use crate::ground::Ground;

/// Bytes per write and read of a stream's ends.
const CHUNK: usize = 256 * 1024;

/// How long a way may take to carry its first packet: tinc and OpenVPN need seconds.
const OPEN_LIMIT: Duration = Duration::from_secs(20);

/// Payload of small datagrams, in bytes.
pub(crate) const SMALL: usize = 64;

/// Streams of zeros, counted where they arrive.
#[derive(Debug)]
pub(crate) struct Streams {
    received: Arc<AtomicU64>,
    ends: Vec<TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

impl Streams {
    /// One stream to each of these addresses of the far end.
    pub(crate) fn start(ground: &Ground, to: &[Ipv4Addr]) -> Result<Self, Error> {
        let mut this = Self {
            received: Arc::default(),
            ends: Vec::new(),
            threads: Vec::new(),
        };
        // All of them before the first sends: behind a full queue a connection takes seconds.
        let pairs = to.iter().map(|address| connect(ground, *address));
        for (mut sender, mut receiver) in pairs.collect::<Result<Vec<_>, _>>()? {
            this.ends.push(sender.try_clone()?);
            let received = Arc::clone(&this.received);
            this.threads.push(thread::spawn(move || {
                let mut chunk = vec![0; CHUNK];
                while let Ok(length @ 1..) = receiver.read(&mut chunk) {
                    received.fetch_add(length as u64, Ordering::Relaxed);
                }
            }));
            this.threads.push(thread::spawn(move || {
                let chunk = vec![0; CHUNK];
                while sender.write_all(&chunk).is_ok() {}
            }));
        }
        Ok(this)
    }

    /// Bytes that have arrived so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        for end in &self.ends {
            let _ = end.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn connect(ground: &Ground, to: Ipv4Addr) -> Result<(TcpStream, TcpStream), Error> {
    let listener = ground.far.run(|| TcpListener::bind((to, 0)))??;
    let address = listener.local_addr()?;
    let stream = ground
        .app
        .run(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))??;
    let (other, _) = listener.accept()?;
    // A receiver whose sender cannot tell it the end must not wait for ever.
    other.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.set_write_timeout(Some(Duration::from_secs(3)))?;
    Ok((stream, other))
}

/// Sends so many bytes that follow no simple pattern, and compares each where it arrives.
pub(crate) fn compare(ground: &Ground, to: Ipv4Addr, bytes: usize) -> Result<(), Error> {
    let (mut sender, mut receiver) = connect(ground, to)?;
    let sending = thread::spawn(move || -> io::Result<()> {
        let mut pattern = Pattern::default();
        let mut chunk = vec![0; CHUNK];
        for start in (0..bytes).step_by(CHUNK) {
            let part = &mut chunk[..CHUNK.min(bytes - start)];
            pattern.fill(part);
            sender.write_all(part)?;
        }
        sender.shutdown(Shutdown::Write)
    });
    let (mut pattern, mut arrived) = (Pattern::default(), 0);
    let (mut chunk, mut expected) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        let length = receiver.read(&mut chunk)?;
        if length == 0 {
            break;
        }
        pattern.fill(&mut expected[..length]);
        if chunk[..length] != expected[..length] {
            return Err(format!("bytes changed on the way, at {arrived} or later").into());
        }
        arrived += length;
    }
    sending.join().map_err(|_| "the sender panicked")??;
    if arrived != bytes {
        return Err(format!("{arrived} of {bytes} bytes arrived").into());
    }
    Ok(())
}

/// A sequence of bytes that does not repeat (xorshift), the same in pieces of any length.
#[derive(Debug)]
struct Pattern {
    state: u64,
    left: [u8; 8],
    used: usize,
}

impl Default for Pattern {
    fn default() -> Self {
        Self {
            state: 0x9e37_79b9_7f4a_7c15,
            left: [0; 8],
            used: 8,
        }
    }
}

impl Pattern {
    fn fill(&mut self, into: &mut [u8]) {
        let mut at = 0;
        while at < into.len() {
            if self.used == self.left.len() {
                self.state ^= self.state << 13;
                self.state ^= self.state >> 7;
                self.state ^= self.state << 17;
                self.left = self.state.to_le_bytes();
                self.used = 0;
            }
            let count = (into.len() - at).min(self.left.len() - self.used);
            into[at..at + count].copy_from_slice(&self.left[self.used..self.used + count]);
            at += count;
            self.used += count;
        }
    }
}

/// A far end that answers each datagram, and an application's socket to it.
#[derive(Debug)]
pub(crate) struct Echo {
    socket: UdpSocket,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    number: u64,
}

impl Echo {
    pub(crate) fn start(ground: &Ground, to: Ipv4Addr) -> Result<Self, Error> {
        let far = ground.far.run(|| UdpSocket::bind((to, 0)))??;
        let address = far.local_addr()?;
        let socket = ground.app.run(|| connected(address))??;
        far.set_read_timeout(Some(Duration::from_millis(100)))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut bytes = [0; 2048];
            while !stopping.load(Ordering::Relaxed) {
                // A time-out, or ICMP's word about an earlier answer: neither ends it.
                if let Ok((length, from)) = far.recv_from(&mut bytes) {
                    let _ = far.send_to(&bytes[..length], from);
                }
            }
        });
        Ok(Self {
            socket,
            stop,
            thread: Some(thread),
            number: 0,
        })
    }

    /// Asks until an answer comes: the way carries packets from then on.
    pub(crate) fn wait_until_open(&mut self) -> Result<(), Error> {
        let end = Instant::now() + OPEN_LIMIT;
        while Instant::now() < end {
            if self.once().is_some() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err("nothing came through it".into())
    }

    /// Asks once every `pace` for so long; what each answered question took.
    pub(crate) fn ask_for(&mut self, length: Duration, pace: Duration) -> Vec<Duration> {
        let started = Instant::now();
        let mut times = Vec::new();
        while started.elapsed() < length {
            times.extend(self.once());
            thread::sleep(pace);
        }
        times
    }

    /// One question; `None` if its answer did not come in time.
    fn once(&mut self) -> Option<Duration> {
        self.number += 1;
        let mut question = [0; SMALL];
        question[..8].copy_from_slice(&self.number.to_le_bytes());
        let asked = Instant::now();
        self.socket.send(&question).ok()?;
        let mut answer = [0; SMALL];
        loop {
            let length = self.socket.recv(&mut answer).ok()?;
            // An answer to an earlier question may come late.
            if answer[..length] == question {
                return Some(asked.elapsed());
            }
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    Ok(socket)
}

/// Sends small datagrams as fast as one thread can, and returns how many arrive per second.
pub(crate) fn flood(ground: &Ground, to: Ipv4Addr, length: Duration) -> Result<f64, Error> {
    let far = ground.far.run(|| UdpSocket::bind((to, 0)))??;
    far.set_read_timeout(Some(Duration::from_millis(100)))?;
    let address = far.local_addr()?;
    let socket = ground.app.run(|| connected(address))??;
    let (stop, arrived) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let (stopping, arriving) = (Arc::clone(&stop), Arc::clone(&arrived));
    let receiver = thread::spawn(move || {
        let mut bytes = [0; 2048];
        while !stopping.load(Ordering::Relaxed) {
            if far.recv(&mut bytes).is_ok() {
                arriving.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let stopping = Arc::clone(&stop);
    let sender = thread::spawn(move || {
        while !stopping.load(Ordering::Relaxed) {
            // A full queue is what a flood is for.
            let _ = socket.send(&[0; SMALL]);
        }
    });
    thread::sleep(length / 8);
    let (started, before) = (Instant::now(), arrived.load(Ordering::Relaxed));
    thread::sleep(length);
    let rate = (arrived.load(Ordering::Relaxed) - before) as f64 / started.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    for thread in [receiver, sender] {
        thread
            .join()
            .map_err(|_| "a thread of the flood panicked")?;
    }
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_is_the_same_in_any_pieces() {
        let mut whole = vec![0; 1000];
        Pattern::default().fill(&mut whole);
        let (mut pieces, mut pattern) = (vec![0; 1000], Pattern::default());
        let (mut at, mut length) = (0, 1);
        while at < pieces.len() {
            let end = (at + length).min(pieces.len());
            pattern.fill(&mut pieces[at..end]);
            (at, length) = (end, length % 13 + 1);
        }
        assert_eq!(whole, pieces);
        assert_ne!(whole[..8], whole[8..16]);
    }
}
