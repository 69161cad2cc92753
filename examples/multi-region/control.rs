//! What the control socket is asked, and who answers.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use vpn_examples::control;
pub(crate) use vpn_examples::control::{State, state_of};

use crate::error::Error;
use crate::explain::Question;
use crate::report::Reporter;
use crate::switch::Switch;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    Status,
    Explain(Question),
    Reload,
    Switch(Switch),
}

/// The listening end.
#[derive(Debug)]
pub(crate) struct Listener(control::Listener);

impl Listener {
    /// Binds the socket.
    pub(crate) async fn bind(path: &Path) -> Result<Self, Error> {
        let bound = control::Listener::bind(path).await;
        bound.map(Self).map_err(|cause| failed(path, cause))
    }

    /// Answers until `shutdown`; again, if it is called again.
    pub(crate) async fn serve(&self, reporter: Reporter, shutdown: CancellationToken) {
        let answer = move |request: Request| {
            let reporter = reporter.clone();
            async move { reporter.answer(&request).await }
        };
        self.0.serve(answer, shutdown).await;
    }
}

/// Asks a running daemon.
pub(crate) async fn ask(path: &Path, request: &Request) -> Result<Value, Error> {
    let answer = control::ask(path, request).await;
    answer.map_err(|cause| failed(path, cause))
}

fn failed(path: &Path, cause: std::io::Error) -> Error {
    Error::Control {
        path: path.to_owned(),
        cause,
    }
}
