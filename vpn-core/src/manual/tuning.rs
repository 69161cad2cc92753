//! What can be tuned in this crate, and what it costs.
//!
//! | Setting | Default | More of it |
//! |---|---|---|
//! | [`PacketBatch`](crate::PacketBatch) capacity | 64 packets | fewer wake-ups per packet, more latency in a burst, more cache |
//! | largest packet of a batch | the device's `max_packet` | a buffer is that large whatever it holds: 64 KiB with offload |
//! | offload | where the device has it | one look-up per super-packet instead of one per segment |
//!
//! A batch pools up to twice its capacity of buffers: 64 packets of 64 KiB are up to 8 MiB. What
//! must wait in a queue should wait as [`shrunk`](crate::Packet::shrunk).
//!
//! Cut late: [`Segments`](crate::packet::segment::Segments) writes any one segment straight into
//! a datagram buffer; [`split`](crate::packet::segment::split) costs a buffer per segment.
