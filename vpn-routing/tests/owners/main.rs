//! Owners of real sockets of several users, in a network namespace of their own.
#![cfg(all(feature = "linux-owner", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod common;
mod conformance;
mod echo;
mod process;
mod tcp;
mod udp;
