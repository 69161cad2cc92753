//! Touches nfnetlink: asks which generation of the ruleset is in force, which each change counts.

use std::io::{Read, Write};

use socket2::{Domain, Protocol, Socket, Type};

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN`
const GET: u16 = 10 << 8 | 16;
/// `NFT_MSG_NEWGEN`, the answer.
const NEW: u16 = 10 << 8 | 15;
/// `NFTA_GEN_ID`: a number in network byte order.
const ID: u16 = 1;
/// `nlmsghdr` and `nfgenmsg`.
const HEADERS: usize = 16 + 4;

/// The generation; `None` where the kernel does not say.
pub(super) fn now() -> Option<u32> {
    let netlink = Domain::from(libc::AF_NETLINK);
    let filter = Protocol::from(libc::NETLINK_NETFILTER);
    let mut socket = Socket::new(netlink, Type::DGRAM.cloexec(), Some(filter)).ok()?;
    let mut request = [0; HEADERS];
    request[..4].copy_from_slice(&(HEADERS as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&GET.to_ne_bytes());
    request[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // The kernel answers before `write` is back.
    socket.write_all(&request).ok()?;
    socket.set_nonblocking(true).ok()?;
    let mut answer = [0; 512];
    let length = socket.read(&mut answer).ok()?;
    generation_in(answer.get(..length)?)
}

fn generation_in(answer: &[u8]) -> Option<u32> {
    let word = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if word(4)? != NEW {
        return None;
    }
    let mut at = HEADERS;
    loop {
        let length = usize::from(word(at)?);
        if word(at + 2)? == ID {
            return Some(u32::from_be_bytes(
                answer.get(at + 4..at + 8)?.try_into().ok()?,
            ));
        }
        // Attributes are at least a header long, and aligned to four bytes.
        at += length.max(4).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_read_and_any_other_is_none() {
        let mut answer = vec![0; HEADERS];
        answer[4..6].copy_from_slice(&NEW.to_ne_bytes());
        for (kind, value) in [(2u16, 7u32), (ID, 41)] {
            answer.extend(8u16.to_ne_bytes());
            answer.extend(kind.to_ne_bytes());
            answer.extend(value.to_be_bytes());
        }
        assert_eq!(generation_in(&answer), Some(41));
        for length in 0..answer.len() {
            assert_eq!(generation_in(&answer[..length]), None);
        }
        answer[4] = 2;
        assert_eq!(generation_in(&answer), None);
    }
}
