//! vpn-resilience
