//! TUN to TUN.
fn main() {}
