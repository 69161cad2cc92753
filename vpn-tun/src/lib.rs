//! vpn-tun
