//! The services of a site: HTTP, UDP echo and DNS, all saying which region answers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use simple_dns::rdata::{A, AAAA, RData, TXT};
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::error::LabError;
use crate::lab::{SITE4, SITE6};
use crate::namespace::{Namespace, RuntimeHandle};

/// Connections served at once by one listener; further ones wait in the kernel's backlog.
const CONNECTIONS: usize = 512;

/// Ports of HTTP: two, so that one client has ports enough for many short connections.
const HTTP_PORTS: [u16; 2] = [80, 8080];

/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(30);

/// Largest request line or header read, in bytes; a longer one ends the connection.
const LINE_MAX: usize = 8 * 1024;

/// Largest body of `/bytes/N`.
const BODY_MAX: u64 = 1 << 30;

/// Time to live of DNS answers, in seconds: tests ask again after a rule has changed.
const TTL: u32 = 1;

/// What a site answers with, and where.
#[derive(Clone, Debug)]
pub struct Site {
    /// The region it names in every answer.
    pub region: String,
    /// An address only this region has; `whoami.test` resolves to it.
    pub own4: Ipv4Addr,
    /// The same in IPv6.
    pub own6: Ipv6Addr,
    /// Further addresses.
    pub also_at: Vec<IpAddr>,
    /// The addresses its resolver listens on, besides nothing else.
    pub resolvers: Vec<IpAddr>,
    /// Which of those have to be put on `lo` first.
    pub resolvers_on_lo: bool,
}

impl Site {
    /// Puts the site's addresses on `lo` and starts its services; they end with the handle.
    pub fn start(self, namespace: &Namespace) -> Result<RuntimeHandle, LabError> {
        let mut addresses: Vec<IpAddr> = vec![
            SITE4.into(),
            SITE6.into(),
            self.own4.into(),
            self.own6.into(),
        ];
        addresses.extend(&self.also_at);
        for address in &addresses {
            add_host_address(namespace, *address)?;
        }
        if self.resolvers_on_lo {
            for address in &self.resolvers {
                add_host_address(namespace, *address)?;
            }
        }
        let resolvers = self.resolvers.clone();
        let sockets = namespace.run(|| Sockets::bind(&addresses, &resolvers))??;
        let site = Arc::new(self);
        namespace.runtime(move || sockets.serve(site))
    }
}

fn add_host_address(namespace: &Namespace, address: IpAddr) -> Result<(), LabError> {
    let prefix = if address.is_ipv6() { 128 } else { 32 };
    namespace.add_address("lo", address, prefix)
}

/// Bound before the runtime starts, so that a started site answers.
struct Sockets {
    http: Vec<TcpListener>,
    echo: Vec<UdpSocket>,
    dns: Vec<UdpSocket>,
}

impl Sockets {
    fn bind(addresses: &[IpAddr], resolvers: &[IpAddr]) -> Result<Self, LabError> {
        let udp = |address: &IpAddr, port| {
            let at = SocketAddr::new(*address, port);
            UdpSocket::bind(at)
                .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
                .map_err(|cause| LabError::socket(format!("a UDP service at {at}"), cause))
        };
        let tcp = |(address, port): (&IpAddr, u16)| {
            let at = SocketAddr::new(*address, port);
            TcpListener::bind(at)
                .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
                .map_err(|cause| LabError::socket(format!("an HTTP service at {at}"), cause))
        };
        Ok(Self {
            http: addresses
                .iter()
                .flat_map(|address| HTTP_PORTS.map(|port| (address, port)))
                .map(tcp)
                .collect::<Result<_, _>>()?,
            echo: addresses
                .iter()
                .map(|address| udp(address, 7))
                .collect::<Result<_, _>>()?,
            dns: resolvers
                .iter()
                .map(|address| udp(address, 53))
                .collect::<Result<_, _>>()?,
        })
    }

    async fn serve(self, site: Arc<Site>) {
        for listener in self.http {
            tokio::spawn(http(listener, Arc::clone(&site)));
        }
        for socket in self.echo {
            let site = Arc::clone(&site);
            tokio::spawn(answer_datagrams(socket, move |question| {
                let mut answer = format!("{} ", site.region).into_bytes();
                answer.extend_from_slice(question);
                Some(answer)
            }));
        }
        for socket in self.dns {
            let site = Arc::clone(&site);
            tokio::spawn(answer_datagrams(socket, move |question| {
                dns_answer(question, &site)
            }));
        }
        std::future::pending::<()>().await;
    }
}

async fn answer_datagrams(socket: UdpSocket, answer: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let Ok(socket) = tokio::net::UdpSocket::from_std(socket) else {
        return;
    };
    let mut buffer = vec![0; 65_535];
    loop {
        // Errors here are ICMP's about an earlier answer: not about this socket.
        let Ok((length, asker)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        if let Some(answer) = answer(&buffer[..length]) {
            let _ = socket.send_to(&answer, asker).await;
        }
    }
}

/// The answer to one query, or nothing to what is not a query.
fn dns_answer(question: &[u8], site: &Site) -> Option<Vec<u8>> {
    let query = Packet::parse(question).ok()?;
    let (id, asked) = (query.id(), query.questions.first()?.clone());
    let name = asked.qname.to_string();
    let data = match (name.as_str(), asked.qtype) {
        ("whoami.test", QTYPE::TYPE(TYPE::TXT)) => {
            Some(RData::TXT(TXT::new().with_string(&site.region).ok()?))
        }
        ("whoami.test", QTYPE::TYPE(TYPE::A)) => Some(a(site.own4)),
        ("whoami.test", QTYPE::TYPE(TYPE::AAAA)) => Some(aaaa(site.own6)),
        ("web.test", QTYPE::TYPE(TYPE::A)) => Some(a(SITE4)),
        ("web.test", QTYPE::TYPE(TYPE::AAAA)) => Some(aaaa(SITE6)),
        _ => None,
    };
    let known = matches!(name.as_str(), "whoami.test" | "web.test");
    let mut reply = Packet::new_reply(id);
    reply.set_flags(PacketFlag::RECURSION_DESIRED | PacketFlag::RECURSION_AVAILABLE);
    if let Some(data) = data {
        reply.answers.push(ResourceRecord::new(
            asked.qname.clone(),
            CLASS::IN,
            TTL,
            data,
        ));
    } else if !known {
        *reply.rcode_mut() = RCODE::NameError;
    }
    reply.questions.push(asked);
    reply.build_bytes_vec().ok()
}

fn a(address: Ipv4Addr) -> RData<'static> {
    RData::A(A {
        address: address.into(),
    })
}

fn aaaa(address: Ipv6Addr) -> RData<'static> {
    RData::AAAA(AAAA {
        address: address.into(),
    })
}

async fn http(listener: TcpListener, site: Arc<Site>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let Ok((stream, client)) = listener.accept().await else {
            continue;
        };
        let site = Arc::clone(&site);
        tokio::spawn(async move {
            // A client that goes away in the middle is normal here.
            let _ = connection(stream, client, &site).await;
            drop(slot);
        });
    }
}

/// Serves requests on one connection until the client has enough.
async fn connection(stream: TcpStream, client: SocketAddr, site: &Site) -> io::Result<()> {
    let server = stream.local_addr()?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let request = line(&mut stream).await?;
        let Some(path) = request.split(' ').nth(1).map(str::to_owned) else {
            return Ok(());
        };
        let mut close = request.ends_with("HTTP/1.0");
        loop {
            let header = line(&mut stream).await?.to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            close |= header == "connection: close";
        }
        if let Some(count) = path.strip_prefix("/bytes/") {
            let count = count.parse::<u64>().unwrap_or(0).min(BODY_MAX);
            head(&mut stream, "application/octet-stream", count, close).await?;
            let block = [0; 65_536];
            let mut left = count;
            while left > 0 {
                let now = left.min(block.len() as u64);
                let part = usize::try_from(now).unwrap_or(block.len());
                stream.write_all(&block[..part]).await?;
                left -= now;
            }
        } else {
            let body = format!(
                "{{\"region\": \"{}\", \"client\": \"{client}\", \"server\": \"{server}\"}}\n",
                site.region
            );
            head(&mut stream, "application/json", body.len() as u64, close).await?;
            stream.write_all(body.as_bytes()).await?;
        }
        stream.flush().await?;
        if close {
            return stream.shutdown().await;
        }
    }
}

async fn head(
    stream: &mut BufReader<TcpStream>,
    kind: &str,
    length: u64,
    close: bool,
) -> io::Result<()> {
    let end = if close { "close" } else { "keep-alive" };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: {end}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await
}

/// One line without its end, bounded in length and time.
async fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut bytes = Vec::new();
    loop {
        let available = timeout(IDLE, stream.fill_buf()).await??;
        if available.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let take = end.map_or(available.len(), |at| at + 1);
        bytes.extend_from_slice(&available[..take]);
        stream.consume(take);
        if bytes.len() > LINE_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if end.is_some() {
            let text = String::from_utf8_lossy(&bytes);
            return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
        }
    }
}
