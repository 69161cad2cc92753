//! What the sender of a packet left for somebody later to do.

/// How a super-packet is to be cut (generic segmentation offload).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gso {
    /// Payload bytes of each segment but the last.
    pub size: u16,
}

/// What is still to be done before the packet is complete on a wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Offload {
    /// The packet is a super-packet: its TCP or UDP payload is to be cut into segments.
    pub gso: Option<Gso>,
    /// The transport checksum holds only the pseudo-header's sum (virtio `NEEDS_CSUM`). It is
    /// completed where the packet leaves for a wire; the IPv4 header checksum is always real.
    pub partial_checksum: bool,
}

impl Offload {
    /// A complete, single packet.
    pub const NONE: Self = Self {
        gso: None,
        partial_checksum: false,
    };
}
