//! What the benchmarks share: worlds in which a router has flows, packets for them, and a ruler.
//!
//! Machines differ and are noisy, so each result stands beside a peer or a limit measured in the
//! same run. [`side_by_side`] takes turns between contenders and reports medians and their ratio;
//! criterion keeps the history and draws the plots.
#![forbid(unsafe_code)]

pub mod ruler;
pub mod world;

pub use ruler::{Row, heading, is_smoke_test, side_by_side, timed};
