//! vpn-routing
