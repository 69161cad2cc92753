//! Owners from a table, for hosts that know their apps themselves and for tests.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use async_trait::async_trait;
use hashbrown::HashMap;
use vpn_core::flow::Protocol;
use vpn_core::owner::{Conclusion, Doubt, Lookup};
use vpn_core::{Evidence, Owner, OwnerAnswer, OwnerQuery, OwnerResolver};

/// How many questions may wait for [`MemoryOwners::answer`]; more are answered Unknown.
const MAX_WAITING: usize = 4096;

/// A table of local sockets and their owners. Clones share it.
///
/// ```
/// use vpn_core::flow::{FlowKey, Protocol};
/// use vpn_core::{Owner, OwnerAnswer, OwnerDetail, OwnerQuery, OwnerResolver};
/// use vpn_routing::owner::MemoryOwners;
///
/// let owners = MemoryOwners::new();
/// owners.set(Protocol::UDP, "0.0.0.0:5353".parse().unwrap(), Owner::user(1001));
/// let flow = FlowKey::new(
///     Protocol::UDP,
///     ([10, 5, 0, 2].into(), 5353),
///     ([192, 0, 2, 1].into(), 53),
/// );
/// let query = OwnerQuery { flow, detail: OwnerDetail::Uid };
/// assert_eq!(owners.resolve(&query), OwnerAnswer::Known(Owner::user(1001)));
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryOwners {
    state: Arc<Mutex<State>>,
}

type Local = (Protocol, SocketAddr);

#[derive(Debug, Default)]
struct State {
    owners: HashMap<Local, OwnerAnswer, foldhash::quality::RandomState>,
    waiting: Vec<OwnerQuery>,
    answers: VecDeque<(OwnerQuery, OwnerAnswer)>,
    waker: Option<Waker>,
}

impl MemoryOwners {
    /// A table that knows nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says who owns a local address and port (for an ICMP echo, its identifier). The unspecified
    /// address stands for every address of its family.
    pub fn set(&self, protocol: Protocol, local: SocketAddr, owner: Owner) {
        let known = OwnerAnswer::Known(owner);
        self.lock().owners.insert((protocol, local), known);
    }

    /// Makes questions about a local address and port wait for [`answer`](Self::answer).
    pub fn set_pending(&self, protocol: Protocol, local: SocketAddr) {
        let pending = OwnerAnswer::Pending;
        self.lock().owners.insert((protocol, local), pending);
    }

    /// Forgets a local address and port.
    pub fn remove(&self, protocol: Protocol, local: SocketAddr) {
        self.lock().owners.remove(&(protocol, local));
    }

    /// The questions that wait, oldest first.
    pub fn waiting(&self) -> Vec<OwnerQuery> {
        self.lock().waiting.clone()
    }

    /// Answers a question that waits; `false` if it does not.
    pub fn answer(&self, query: &OwnerQuery, answer: OwnerAnswer) -> bool {
        let mut state = self.lock();
        let Some(position) = state.waiting.iter().position(|q| q == query) else {
            return false;
        };
        let query = state.waiting.remove(position);
        state.answers.push_back((query, answer));
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&self, query: &OwnerQuery) -> Option<&OwnerAnswer> {
        let (protocol, port) = (query.flow.protocol(), query.flow.src_port());
        let any: IpAddr = match query.flow.src() {
            IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let find = |addr| self.owners.get(&(protocol, SocketAddr::new(addr, port)));
        find(query.flow.src()).or_else(|| find(any))
    }
}

#[async_trait]
impl OwnerResolver for MemoryOwners {
    fn resolve(&self, query: &OwnerQuery) -> OwnerAnswer {
        let mut state = self.lock();
        match state.find(query).cloned() {
            // Answers that wait to be taken count as well, so both lists together are bounded.
            Some(OwnerAnswer::Pending)
                if state.waiting.len() + state.answers.len() >= MAX_WAITING =>
            {
                OwnerAnswer::Unknown
            }
            Some(OwnerAnswer::Pending) => {
                state.waiting.push(*query);
                OwnerAnswer::Pending
            }
            answer => answer.unwrap_or(OwnerAnswer::Unknown),
        }
    }

    async fn resolved(&self) -> (OwnerQuery, OwnerAnswer) {
        poll_fn(|context| {
            let mut state = self.lock();
            match state.answers.pop_front() {
                Some(answer) => Poll::Ready(answer),
                None => {
                    state.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn evidence(&self, query: &OwnerQuery) -> Evidence {
        let conclusion = match self.lock().find(query) {
            Some(OwnerAnswer::Known(owner)) => Conclusion::Known(owner.clone()),
            Some(OwnerAnswer::Pending) => Conclusion::Pending,
            Some(OwnerAnswer::Unknown) | None => Conclusion::Unknown(Doubt::NoSocket),
        };
        Evidence::new(*query)
            .looked_at(Lookup::Table)
            .concluding(conclusion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vpn_core::OwnerDetail;
    use vpn_core::flow::FlowKey;

    #[tokio::test]
    async fn known_pending_and_unknown() {
        let owners = MemoryOwners::new();
        let query = |protocol, port| OwnerQuery {
            flow: FlowKey::new(
                protocol,
                ([10, 5, 0, 2].into(), port),
                ([192, 0, 2, 1].into(), 53),
            ),
            detail: OwnerDetail::Uid,
        };
        owners.set(Protocol::TCP, ([0, 0, 0, 0], 1).into(), Owner::user(1));
        owners.set_pending(Protocol::TCP, ([10, 5, 0, 2], 2).into());
        let known = OwnerAnswer::Known(Owner::user(1));
        assert_eq!(owners.resolve(&query(Protocol::TCP, 1)), known);
        assert_eq!(
            owners.resolve(&query(Protocol::UDP, 1)),
            OwnerAnswer::Unknown
        );
        let asked = query(Protocol::TCP, 2);
        assert_eq!(owners.resolve(&asked), OwnerAnswer::Pending);
        assert_eq!(owners.waiting(), [asked]);
        // Looking takes no part in it.
        let evidence = owners.evidence(&asked);
        assert_eq!(evidence.lookups, [Lookup::Table]);
        assert_eq!(evidence.conclusion, Conclusion::Pending);
        assert_eq!(owners.waiting(), [asked]);
        assert!(owners.answer(&asked, known.clone()));
        assert!(!owners.answer(&asked, known.clone()));
        assert_eq!(owners.resolved().await, (asked, known));
    }
}
