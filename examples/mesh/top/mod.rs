//! `mesh top`: a running member, seen live.
//!
//! What is shown is a [`model`], changed by keys and by what the daemon says; a picture of it is a
//! [`view`]. Neither has a clock, a terminal or a socket: the [`shell`] does.

pub(crate) mod model;
mod shell;
pub(crate) mod view;

pub(crate) use shell::run;
