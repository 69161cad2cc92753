//! Which guards a tunnel gets: a breaker, and nothing else.
//!
//! | | WireGuard | OpenVPN | an interface of another program | direct |
//! |---|---|---|---|---|
//! | breaker | yes | yes | yes | no: it is up whenever the uplink is |
//! | time limit | `no_answer_after` is it | `no_answer_after` is it | it is there or not | no |
//! | made anew | it tries again by itself | its process is started again | it is looked for again | no |
//!
//! A time limit of its own would be a second opinion on when a tunnel is down, and one that learns would
//! overrule what the configuration says; it would cut closing off as well, which undoes what a tunnel
//! changed in the system. Each of them comes back by itself from whatever happens, with pauses of its
//! own: nothing is left that making one anew could mend.
//!
//! The breaker adds what none of them has: one that goes up and down is down until it lasts. It is
//! outermost, and says down instead of up, never the other way round; its packets are dropped as those of
//! any tunnel that is down. Another network closes it.

use std::sync::{Arc, Weak};

use vpn_core::TunnelTransport;
use vpn_resilience::decorate::{Guarded, TunnelBreaker};

use super::{Kept, lock};

/// A tunnel behind its breaker.
pub(super) type Held = Guarded<Arc<dyn TunnelTransport>, TunnelBreaker>;

impl Kept {
    /// A tunnel behind a breaker, which is told of under this name from now on.
    pub(crate) fn tunnel(
        &self,
        name: &str,
        transport: Arc<dyn TunnelTransport>,
    ) -> Arc<dyn TunnelTransport> {
        let held = Arc::new(Guarded::new(transport, TunnelBreaker::new(self.0.breaker)));
        let known: Weak<Held> = Arc::downgrade(&held);
        let mut tunnels = lock(&self.0.tunnels);
        // Of those that never came into use, too, if nobody asks.
        tunnels.retain(|(_, held)| held.strong_count() > 0);
        tunnels.push((name.to_owned(), known));
        drop(tunnels);
        held
    }
}
