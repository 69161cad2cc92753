//! `multi-region top`: a running daemon, seen live.
//!
//! What is shown is a [`model`], changed by keys and by what the daemon says; a picture of it is a
//! [`view`]. Neither has a clock, a terminal or a socket: the [`shell`] does.

mod apps;
mod footer;
mod model;
mod over;
mod peers;
mod rates;
mod shell;
mod snapshot;
mod tunnels;
mod view;
mod words;

pub(crate) use shell::run;
