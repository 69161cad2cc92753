//! DNS as the router sees it: which query an answer belongs to, and which names an address has.
//!
//! Pure and bounded; what the router does with it is in its chapter
//! ["DNS"](crate::router#dns).
//!
//! | Part | What it decides |
//! |---|---|
//! | [`Message`] | what a datagram asks, and the addresses it names |
//! | [`Pending`] | whether an answer was asked for |
//! | [`Book`] | the names an address is known under, per tunnel |

mod book;
mod limits;
mod message;
mod pending;

pub use book::Book;
pub use limits::DnsLimits;
pub use message::{MAX_ADDRESSES, MAX_ALIASES, MAX_READ, Message, NamedAddress, Question};
pub use pending::{Noted, Pending};

#[cfg(test)]
pub(crate) mod testing;
