//! Decides for whom a run of datagrams is, and what stands before each where it crosses from hub to
//! hub: the header of members is shorter than that of hubs. No socket.

use bytes::BytesMut;

use crate::mesh::wire::Tag;
use crate::mesh::wire::frame::{
    CARRY_HEADER, FAR, RELAY_HEADER, VERSION, carry_header, is_frame, relay_header,
};

/// What stands before a datagram whose content is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heading {
    /// A member's, for this one.
    To(Tag),
    /// Another hub's.
    Carried { to: Tag, from: Tag, hops: u8 },
}

impl Heading {
    const fn len(self) -> usize {
        match self {
            Self::To(_) => RELAY_HEADER,
            Self::Carried { .. } => CARRY_HEADER,
        }
    }
}

/// For whom a datagram is, if its content is sealed.
#[inline]
pub(super) fn heading(datagram: &[u8]) -> Option<Heading> {
    let (kind, hops, rest) = match datagram {
        [kind @ (0x80 | 0x87), VERSION, hops, 0, rest @ ..] => (*kind, *hops, rest),
        _ => return None,
    };
    let (to, rest) = rest.split_first_chunk()?;
    let (heading, content) = if kind == 0x80 {
        (Heading::To(Tag(*to)), rest)
    } else {
        let (from, content) = rest.split_first_chunk()?;
        let (to, from) = (Tag(*to), Tag(*from));
        (Heading::Carried { to, from, hops }, content)
    };
    let sealed = !content.is_empty() && !is_frame(content);
    sealed.then_some(heading)
}

/// How many of the first datagrams have the heading of the first one.
#[inline]
pub(super) fn run(bytes: &[u8], stride: usize, first: Heading) -> usize {
    let head = &bytes[..first.len().min(bytes.len())];
    let datagrams = bytes.chunks(stride).skip(1);
    let alike = |datagram: &&[u8]| datagram.starts_with(head) && heading(datagram).is_some();
    1 + datagrams.take_while(alike).count()
}

/// The run with another header before each datagram, and the length of each.
fn with_header(run: &[u8], stride: usize, old: usize, new: &[u8]) -> (usize, BytesMut) {
    let count = run.len().div_ceil(stride.max(1));
    let mut out = BytesMut::with_capacity(run.len() + count * new.len());
    for datagram in run.chunks(stride.max(1)) {
        out.extend_from_slice(new);
        out.extend_from_slice(datagram.get(old..).unwrap_or_default());
    }
    (stride - old.min(stride) + new.len(), out)
}

/// A member's run, as it goes to another hub.
pub(super) fn departs(
    run: &[u8],
    stride: usize,
    to: Tag,
    from: Tag,
    hops: u8,
) -> (usize, BytesMut) {
    with_header(run, stride, RELAY_HEADER, &carry_header(to, from, hops))
}

/// Another hub's run, as it goes to a member.
pub(super) fn arrived(run: &[u8], stride: usize, from: Tag) -> (usize, BytesMut) {
    with_header(run, stride, CARRY_HEADER, &relay_header(from, FAR))
}

/// Another hub's run, as it goes to the next.
pub(super) fn fewer(run: &mut [u8], stride: usize, hops: u8) {
    for datagram in run.chunks_mut(stride.max(1)) {
        if let Some(left) = datagram.get_mut(2) {
            *left = hops;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_goes_over_two_hubs_is_what_was_sent_but_for_who_is_named() {
        let [a, b] = [Tag([1; 8]), Tag([2; 8])];
        let one =
            |tag, fill: u8, len: usize| [&relay_header(tag, 0)[..], &vec![fill; len]].concat();
        let sent = [one(b, 4, 100), one(b, 5, 100), one(b, 6, 7)].concat();
        assert_eq!(heading(&sent), Some(Heading::To(b)));
        assert_eq!(run(&sent, 112, Heading::To(b)), 3);
        let (stride, mut between) = departs(&sent, 112, b, a, 2);
        assert_eq!((stride, between.len()), (120, 120 + 120 + 27));
        let carried = |hops| Heading::Carried {
            to: b,
            from: a,
            hops,
        };
        assert_eq!(heading(&between), Some(carried(2)));
        fewer(&mut between, stride, 1);
        assert_eq!(heading(&between[240..]), Some(carried(1)));
        assert_eq!(run(&between, stride, carried(1)), 3);
        let (stride, arrived) = arrived(&between, stride, a);
        assert_eq!(stride, 112);
        let one = |fill: u8, len: usize| [&relay_header(a, FAR)[..], &vec![fill; len]].concat();
        let expected = [one(4, 100), one(5, 100), one(6, 7)].concat();
        assert_eq!(&arrived[..], &expected[..]);
    }

    #[test]
    fn what_is_not_sealed_has_no_heading() {
        let [a, b] = [Tag([1; 8]), Tag([2; 8])];
        for content in [&[][..], &[0x86, 1], &[0x80]] {
            assert_eq!(heading(&[&relay_header(b, 0)[..], content].concat()), None);
            assert_eq!(
                heading(&[&carry_header(b, a, 1)[..], content].concat()),
                None
            );
        }
        assert_eq!(heading(&[0x80, VERSION]), None);
    }
}
