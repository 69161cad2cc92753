//! The WireGuard transport keeps the contract of a transport, between two ends on loopback.
#![cfg(feature = "wireguard")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use async_trait::async_trait;
use common::{End, Keys, local, port, transport, udp};
use tokio::sync::Mutex;
use vpn_core::TunnelTransport;
use vpn_core::testing::conformance::{FarEnd, TransportFixture, number_of, tunnel_transport};
use vpn_p2p::WireGuardTransport;

/// A client, and a server that answers once somebody reads from it.
struct Fixture {
    client: WireGuardTransport,
    server: Mutex<Server>,
}

enum Server {
    Silent(Option<WireGuardTransport>),
    Answers(End),
}

impl Fixture {
    fn new() -> Self {
        let keys = Keys::new();
        let server = transport(&keys.server_file(0, "10.5.0.2/32"), local());
        let endpoint = format!("127.0.0.1:{}", port(&server));
        let file = keys.client_file(&endpoint, "0.0.0.0/0");
        Self {
            client: transport(&file, local()),
            server: Mutex::new(Server::Silent(Some(server))),
        }
    }
}

#[async_trait]
impl FarEnd for Fixture {
    async fn send(&self, number: u16) {
        if let Server::Answers(server) = &*self.server.lock().await {
            let packet = udp("203.0.113.10", "10.5.0.2", &number.to_be_bytes());
            assert_eq!(server.send(&[packet]).await.total(), 0);
        }
    }

    async fn receive(&self) -> u16 {
        match &mut *self.server.lock().await {
            Server::Answers(server) => number_of(&server.receive().await).unwrap(),
            Server::Silent(_) => std::future::pending().await,
        }
    }

    /// The network takes what the peer does not.
    fn fills_up(&self) -> bool {
        false
    }

    async fn patience(&self) {
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
}

#[async_trait]
impl TransportFixture for Fixture {
    fn transport(&self) -> &dyn TunnelTransport {
        &self.client
    }

    async fn answer(&self) {
        let mut server = self.server.lock().await;
        if let Server::Silent(silent) = &mut *server {
            let transport = silent.take().unwrap();
            *server = Server::Answers(End::new(transport));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wireguard_transport_conforms() {
    let make = async || Fixture::new();
    tunnel_transport(make).await.unwrap();
}
