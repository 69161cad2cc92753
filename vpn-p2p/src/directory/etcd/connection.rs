//! Touches etcd: one client, made when it is first needed, and a time limit for each request.

use std::future::Future;

use etcd_client::Client;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::config::{EtcdConfig, options};
use super::error::EtcdError;

#[derive(Debug)]
pub(super) struct Connection {
    config: EtcdConfig,
    client: Mutex<Option<ClientBox>>,
}

/// The client has no `Debug`, and would show more than it should.
struct ClientBox(Client);

impl std::fmt::Debug for ClientBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Connection {
    pub(super) fn new(config: EtcdConfig) -> Self {
        Self {
            config,
            client: Mutex::default(),
        }
    }

    pub(super) const fn config(&self) -> &EtcdConfig {
        &self.config
    }

    /// The client. With a user, making it asks etcd; it is made again until that succeeds.
    pub(super) async fn client(&self) -> Result<Client, EtcdError> {
        let mut there = self.client.lock().await;
        if let Some(ClientBox(client)) = &*there {
            return Ok(client.clone());
        }
        let connect = Client::connect(&self.config.endpoints, Some(options(&self.config)));
        let client = self.within(connect).await?;
        *there = Some(ClientBox(client.clone()));
        Ok(client)
    }

    /// A request's answer, in time.
    pub(super) async fn within<T>(
        &self,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, EtcdError> {
        let after = self.config.request;
        let endpoints = || self.config.endpoints.join(", ");
        match timeout(after, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(cause)) => Err(EtcdError::Unavailable {
                endpoints: endpoints(),
                cause: Box::new(cause),
            }),
            Err(_) => Err(EtcdError::Late {
                endpoints: endpoints(),
                after,
            }),
        }
    }
}

/// gRPC's code for an answer that is longer than we take; etcd uses it as well, and says its name then.
const OUT_OF_RANGE: i32 = 11;

/// Whether an answer was refused here for its length: asked again, it would be as long.
pub(super) fn is_too_long(error: &EtcdError) -> bool {
    out_of_range(error).is_some_and(|message| !message.starts_with("etcdserver"))
}

/// Whether etcd does not have a revision any more, or not yet.
pub(super) fn is_out_of_range(error: &EtcdError) -> bool {
    out_of_range(error).is_some_and(|message| message.starts_with("etcdserver"))
}

fn out_of_range(error: &EtcdError) -> Option<&str> {
    let EtcdError::Unavailable { cause, .. } = error else {
        return None;
    };
    match cause.downcast_ref::<etcd_client::Error>() {
        Some(etcd_client::Error::GRpcStatus(status)) if status.code() as i32 == OUT_OF_RANGE => {
            Some(status.message())
        }
        _ => None,
    }
}
