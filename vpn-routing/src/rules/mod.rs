//! Compiled rules and their cache.
