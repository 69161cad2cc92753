//! Touches `/proc/net`: ping and raw sockets, which have no exact query.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileExt;

use vpn_core::flow::Family;

use super::choose::SocketRecord;
use super::diag::state_of;
use super::normal;

/// How much of a table is read: some thousand sockets. Beyond it the owner is unknown.
const MAX_TABLE: usize = 512 * 1024;

/// The tables of the network namespace of the thread that opened them: an open table stays with
/// its namespace.
#[derive(Debug)]
pub(super) struct ProcTables {
    icmp: Option<File>,
    icmp6: Option<File>,
    raw: Option<File>,
    raw6: Option<File>,
}

impl ProcTables {
    /// Opens what there is; a kernel without IPv6 has no tables of it, and no such sockets.
    pub(super) fn open() -> Self {
        // Not `/proc/net`: that is the namespace of the main thread.
        let open = |name| File::open(format!("/proc/thread-self/net/{name}")).ok();
        Self {
            icmp: open("icmp"),
            icmp6: open("icmp6"),
            raw: open("raw"),
            raw6: open("raw6"),
        }
    }

    /// Ping sockets; the local port is the echo identifier.
    pub(super) fn ping(&self, family: Family) -> io::Result<Vec<SocketRecord>> {
        records(match family {
            Family::V4 => &self.icmp,
            Family::V6 => &self.icmp6,
        })
    }

    /// Raw sockets; the local port is the protocol.
    pub(super) fn raw(&self, family: Family) -> io::Result<Vec<SocketRecord>> {
        records(match family {
            Family::V4 => &self.raw,
            Family::V6 => &self.raw6,
        })
    }
}

/// Whole or not at all: half of a table might hide a second candidate. A table that does not exist
/// has nobody in it.
fn records(table: &Option<File>) -> io::Result<Vec<SocketRecord>> {
    let text = table.as_ref().map(read).transpose()?;
    Ok(text.map(|text| parse(&text)).unwrap_or_default())
}

fn read(table: &File) -> io::Result<String> {
    let mut bytes = vec![0; 4096];
    let mut filled = 0;
    loop {
        match table.read_at(&mut bytes[filled..], filled as u64)? {
            0 => break,
            n => filled += n,
        }
        if filled >= MAX_TABLE {
            return Err(ErrorKind::FileTooLarge.into());
        }
        if bytes.len() - filled < 1024 {
            bytes.resize(bytes.len() * 2, 0);
        }
    }
    bytes.truncate(filled);
    String::from_utf8(bytes).map_err(|_| ErrorKind::InvalidData.into())
}

/// Columns: `sl local remote st queues timer retransmits uid timeout inode …`.
fn parse(text: &str) -> Vec<SocketRecord> {
    let line = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let remote = address(columns.get(2)?)?;
        Some(SocketRecord {
            local: address(columns.get(1)?)?,
            remote,
            uid: columns.get(7)?.parse().ok()?,
            inode: columns.get(9)?.parse().ok()?,
            // The tables do not say: it may be bound to ours.
            interface: 0,
            state: state_of(u8::from_str_radix(columns.get(3)?, 16).ok()?, &remote),
        })
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// `0200050A:0001`: words of 32 bits in the machine's byte order, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (addr, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |i: usize| {
        let word = addr.get(i * 8..i * 8 + 8)?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    };
    let addr: IpAddr = match addr.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let mut bytes = [0; 16];
            bytes.copy_from_slice(words.as_flattened());
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(normal(addr), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn both_families_are_read() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n\
            1: 0200050A:0001 010200C0:0000 07 00000000:00000000 00:00000000 00000000  1000        0 4242 2 0 0\n\
            2: 000080FE000000000000000001000000:003A 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 7 2 0 0\n\
            3: nonsense\n";
        let sockets = parse(text);
        assert_eq!(sockets.len(), 2);
        assert_eq!(sockets[0].local, "10.5.0.2:1".parse().unwrap());
        assert_eq!(sockets[0].remote, "192.0.2.1:0".parse().unwrap());
        assert_eq!((sockets[0].uid, sockets[0].inode), (1000, 4242));
        assert_eq!(sockets[1].local, "[fe80::1]:58".parse().unwrap());
    }
}
