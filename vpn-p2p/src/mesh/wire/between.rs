//! Decides what hubs tell each other, inside of the session by which one joined the other.
//!
//! A hub asks its neighbours for who is not its own member, tells them whom its members introduce
//! themselves to, and whose record changed. A neighbour is believed in *who its members are*, as far as
//! our own members' addresses are not touched. What members send each other it cannot read, and records
//! are signed by whom they are of.

use serde::{Deserialize, Serialize};

use super::What;

/// A question's name: the hub whose member asked first, and that hub's number for it. The same on all
/// its ways, so that a hub that is asked twice knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Asked {
    /// The first bytes of that hub's key.
    pub hub: [u8; 8],
    /// Its number, which nobody can foresee: who could would ask it first elsewhere.
    pub number: u64,
}

/// What hubs tell each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Between {
    /// Who is this? Answered by [`Found`](Self::Found) or [`NotFound`](Self::NotFound).
    Find {
        /// Which question this is.
        asked: Asked,
        /// Who.
        what: What,
        /// How many hubs may still be asked one behind the other, the receiver included.
        hops: u8,
        /// Hubs that were asked on this way, the first bytes of their keys: none of them is asked again.
        visited: Vec<[u8; 8]>,
    },
    /// This is who was asked for.
    Found {
        /// The question.
        asked: Asked,
        /// Its signed record.
        record: Vec<u8>,
        /// Whether it is connected to a hub now.
        online: bool,
        /// How many hubs there are between the receiver and it, the sender included.
        hubs: u8,
    },
    /// Nobody in this direction is.
    NotFound {
        /// The question.
        asked: Asked,
    },
    /// A member is about to send its first message to one of yours, or of somebody behind you.
    Introduce {
        /// To whom: the first bytes of its key.
        to: [u8; 8],
        /// The member's signed record.
        record: Vec<u8>,
        /// Hubs that this may still pass, the receiver included.
        hops: u8,
        /// How many hubs there are between the receiver and the member, the sender included.
        hubs: u8,
    },
    /// Somebody you asked for has a new record. Repeated until you [have](Self::Have) it.
    Changed {
        /// The new record.
        record: Vec<u8>,
        /// How many hubs there are between the receiver and it, the sender included.
        hubs: u8,
    },
    /// That change arrived.
    Have {
        /// Whose record.
        peer: [u8; 32],
        /// Its number.
        sequence: u64,
    },
    /// What you sent for this member cannot be delivered: it is not here, nor behind me.
    Absent {
        /// Who is not there: the first bytes of its key.
        to: [u8; 8],
        /// Who sent it.
        from: [u8; 8],
        /// Hubs that this may still pass, the receiver included.
        hops: u8,
    },
}
