//! What the bytes mean: [`frame`]s between members and hubs, [`control`] and packets inside of
//! sessions; of the messages, [`between`] hubs are a kind of their own.
//!
//! A datagram's first byte tells what it is: 1 to 4 are WireGuard's own messages, from 0x80 on
//! frames of the mesh. What a session holds begins with 0x4 or 0x6 (an IP packet), 0x10 (control) or
//! 0x20 (a super-packet).

pub mod between;
pub mod control;
pub mod frame;

pub use between::{Asked, Between};
pub use control::{Inner, Plain, Refusal, ToHub, ToMember, ToPeer, Token, What};
pub use frame::{Frame, FrameError, Tag};
