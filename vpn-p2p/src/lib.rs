//! vpn-p2p
