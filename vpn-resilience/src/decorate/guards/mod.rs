//! The guards, one each.

pub(super) mod breaker;
pub(super) mod rate;
pub(super) mod shed;
pub(super) mod timeout;
