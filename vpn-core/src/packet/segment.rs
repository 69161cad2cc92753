//! Cutting super-packets, completing checksums.
