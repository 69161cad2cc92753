//! Numbers and times of the configuration, each within its bounds.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};

/// A time, written `500ms`, `5s`, `2h 4m`; within bounds in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span<const MIN: u64, const MAX: u64>(pub(crate) Duration);

/// A whole number within bounds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count<const MIN: usize, const MAX: usize>(pub(crate) usize);

impl<const MIN: u64, const MAX: u64> fmt::Debug for Span<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.0))
    }
}

impl<const MIN: usize, const MAX: usize> fmt::Debug for Count<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Span<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let span = humantime::parse_duration(&text)
            .map_err(|error| D::Error::custom(format!("no time such as 500ms or 5s: {error}")))?;
        let bounds = Duration::from_millis(MIN)..=Duration::from_millis(MAX);
        if bounds.contains(&span) {
            return Ok(Self(span));
        }
        let show = humantime::format_duration;
        let (min, max) = (show(*bounds.start()), show(*bounds.end()));
        Err(D::Error::custom(format!("not from {min} to {max}")))
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for Span<MIN, MAX> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de, const MIN: usize, const MAX: usize> Deserialize<'de> for Count<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(from)?;
        match usize::try_from(number) {
            Ok(count) if (MIN..=MAX).contains(&count) => Ok(Self(count)),
            _ => Err(D::Error::custom(format!("not from {MIN} to {MAX}"))),
        }
    }
}

impl<const MIN: usize, const MAX: usize> Serialize for Count<MIN, MAX> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(self.0 as u64)
    }
}
