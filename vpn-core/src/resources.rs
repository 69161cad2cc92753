//! What a tunnel occupies on this machine.

/// What a transport occupies, as far as it can tell without asking the system; what it cannot tell
/// stays 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resources {
    /// Open file descriptors of this process: sockets, devices, pipes.
    pub descriptors: usize,
    /// Tasks of the runtime.
    pub tasks: usize,
    /// Bytes of memory for its state and buffers, about.
    pub bytes: usize,
    /// The process it has besides, which has descriptors and memory of its own.
    pub process: Option<u32>,
}
