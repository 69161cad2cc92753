//! What can go wrong while the stage is set.

use std::error::Error;
use std::fmt;

/// A step that failed, and why.
#[derive(Debug)]
pub(crate) struct StepError {
    doing: &'static str,
    cause: Box<dyn Error + Send + Sync>,
}

impl fmt::Display for StepError {
    /// With all causes, for this is what the user reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.doing, self.cause)?;
        let mut cause = self.cause.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Error for StepError {}

/// Says what was being done when an error came.
pub(crate) trait Doing<T> {
    /// Names the step, as in "cannot {doing}".
    fn doing(self, doing: &'static str) -> Result<T, StepError>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Doing<T> for Result<T, E> {
    fn doing(self, doing: &'static str) -> Result<T, StepError> {
        self.map_err(|cause| StepError {
            doing,
            cause: cause.into(),
        })
    }
}
