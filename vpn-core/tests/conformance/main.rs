//! The conformance kit: what is in memory keeps every contract, and what is broken on purpose is
//! told which clause it breaks.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod broken_lines;
mod broken_sources;
mod memory;
