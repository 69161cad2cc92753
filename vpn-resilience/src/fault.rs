//! Decides what a failure says: whether another attempt can help, and whether the peer is ill.
//!
//! By type, never by what a message says: a message is for people, and changes.

/// What a failure says about the next attempt, and about who failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// It may work next time: tried again, and a breaker counts it as a failure.
    Transient,
    /// Another attempt fails the same way, until somebody changes something: not tried again, and
    /// a breaker counts it as a failure.
    Permanent,
    /// The other end works, and its answer is no: not tried again, and to a breaker it is a success.
    Answered,
}

impl Fault {
    /// Whether another attempt can help.
    pub const fn is_worth_a_retry(self) -> bool {
        matches!(self, Self::Transient)
    }

    /// Whether who was asked did not do what it is there for.
    pub const fn is_failure(self) -> bool {
        !matches!(self, Self::Answered)
    }

    /// What an error of the operating system says. Kinds that name a mistake of the caller or a
    /// missing right are permanent; all others, unknown ones included, may pass.
    pub fn of_io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        match error.kind() {
            Kind::PermissionDenied
            | Kind::AddrNotAvailable
            | Kind::InvalidInput
            | Kind::InvalidData
            | Kind::Unsupported
            | Kind::NotADirectory
            | Kind::IsADirectory
            | Kind::ReadOnlyFilesystem => Self::Permanent,
            Kind::AlreadyExists => Self::Answered,
            _ => Self::Transient,
        }
    }
}

/// Says what errors of one type say. Every `Fn(&E) -> Fault` is one.
pub trait Classify<E: ?Sized>: Send + Sync {
    /// What this one says.
    fn classify(&self, error: &E) -> Fault;
}

impl<E: ?Sized, F: Fn(&E) -> Fault + Send + Sync> Classify<E> for F {
    fn classify(&self, error: &E) -> Fault {
        self(error)
    }
}

/// Takes every failure for a transient one: for where nothing else is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllTransient;

impl<E: ?Sized> Classify<E> for AllTransient {
    fn classify(&self, _: &E) -> Fault {
        Fault::Transient
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};

    /// N-29: the kind decides; the message is for people.
    #[test]
    fn by_type_and_never_by_message() {
        let transient = Error::new(ErrorKind::ConnectionRefused, "permission denied");
        let permanent = Error::new(ErrorKind::PermissionDenied, "connection refused, try again");
        assert_eq!(Fault::of_io(&transient), Fault::Transient);
        assert_eq!(Fault::of_io(&permanent), Fault::Permanent);
        assert_eq!(Fault::of_io(&Error::from_raw_os_error(0)), Fault::Transient);
    }
}
