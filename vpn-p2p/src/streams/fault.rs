//! Why a stream ended.

use super::frame::FrameError;

/// Why a stream ended, or did not begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The peer closed it.
    #[error("the peer closed the stream")]
    Ended,
    /// What it is made of failed.
    #[error("{0}")]
    Io(String),
    /// What came are not frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The frames make no sense where they came. The peer has an error, or is none of ours.
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
    /// It was not open, or not greeted, in time.
    #[error("opening took too long")]
    Timeout,
    /// Packets were written to it, and the peer got none of them for a while.
    #[error("nothing moves on the stream")]
    Stalled,
    /// The peer does not answer when asked whether it is there.
    #[error("the peer does not answer")]
    Silent,
    /// The peer takes nothing more from it.
    #[error("the peer replaced the stream")]
    Replaced,
    /// The network below changed: whether it still works is not waited for.
    #[error("the network below changed")]
    Doubted,
    /// The peer was started anew.
    #[error("the peer was started anew")]
    Restarted,
    /// There are as many streams as may be.
    #[error("there are too many streams")]
    TooMany,
    /// The pool was closed.
    #[error("the pool is closed")]
    Closed,
}
