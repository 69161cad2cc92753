//! How-tos.
