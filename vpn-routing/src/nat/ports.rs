//! Draws ports for flows that cannot keep their own.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use vpn_core::DropReason;

/// Ports drawn for a colliding flow before it is refused. Bounds the work per flow; with half of
/// the ports taken the chance of a miss is 2^-64.
pub const PORT_TRIES: usize = 64;

/// First port given to a colliding flow: below are the well-known ones (RFC 6335 §6).
pub const FIRST_PORT: u16 = 1024;

/// No free port was drawn in [`PORT_TRIES`] tries: nearly all are taken. Fewer flows at the same
/// time, or another tunnel, help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no free port in {PORT_TRIES} tries")]
pub struct PortsExhausted;

impl From<PortsExhausted> for DropReason {
    fn from(_: PortsExhausted) -> Self {
        Self::PortsExhausted
    }
}

/// Ports from [`FIRST_PORT`] on, each as likely as any other (RFC 6056 §3.3.1): who does not know
/// the generator's state cannot tell the next one.
#[derive(Debug)]
pub struct RandomPorts(StdRng);

impl RandomPorts {
    /// Seeded by the operating system; the same ports again and again with a `seed`, for tests.
    pub fn new(seed: Option<u64>) -> Self {
        Self(match seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::from_os_rng(),
        })
    }

    /// The first of some ports that is `free`.
    ///
    /// # Errors
    ///
    /// [`PortsExhausted`] if none of [`PORT_TRIES`] is.
    pub fn draw(&mut self, free: impl Fn(u16) -> bool) -> Result<u16, PortsExhausted> {
        (0..PORT_TRIES)
            .map(|_| self.0.random_range(FIRST_PORT..=u16::MAX))
            .find(|&port| free(port))
            .ok_or(PortsExhausted)
    }
}
