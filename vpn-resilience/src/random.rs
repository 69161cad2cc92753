//! Numbers from a seed: the same on every machine.

use std::time::Duration;

/// SplitMix64. Spreading retries needs no cryptographic randomness, only a good mix.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..=upper`.
    pub(crate) fn uniform(&mut self, upper: Duration) -> Duration {
        let share = self.draw() as f64 / u64::MAX as f64;
        upper.mul_f64(share).min(upper)
    }
}
