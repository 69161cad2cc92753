//! Owners of flows.
