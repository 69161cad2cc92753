//! `metrics`: what Prometheus reads, by HTTP, of this host only.

mod families;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HOST};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use vpn_core::metrics::prometheus::MEDIA_TYPE;

use crate::error::Error;
use crate::report::Reporter;

/// Connections at the same time; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 4;

/// Bytes of a request, its head and what follows: the least that hyper takes.
const MAX_REQUEST: usize = 8 * 1024;

/// Lines of a request's head.
const MAX_HEADERS: usize = 32;

/// How long a whole conversation may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pause after an error of the listening socket.
const BREATH: Duration = Duration::from_millis(100);

/// The listening end.
#[derive(Debug)]
pub(crate) struct Listener(TcpListener);

impl Listener {
    /// Binds the address, which is one of this host.
    pub(crate) async fn bind(address: SocketAddr) -> Result<Self, Error> {
        TcpListener::bind(address)
            .await
            .map(Self)
            .map_err(|cause| Error::Metrics { address, cause })
    }

    /// Answers until `shutdown`; again, if it is called again.
    pub(crate) async fn serve(&self, reporter: Reporter, shutdown: CancellationToken) {
        let mut callers = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(_) = callers.join_next() => {}
                accepted = self.0.accept(), if callers.len() < CONNECTIONS => match accepted {
                    Ok((stream, _)) => drop(callers.spawn(converse(stream, reporter.clone()))),
                    Err(error) => {
                        tracing::warn!(%error, "metrics");
                        // Out of file descriptors, say: do not spin.
                        tokio::time::sleep(BREATH).await;
                    }
                }
            }
        }
    }
}

/// One question and its answer.
async fn converse(stream: TcpStream, reporter: Reporter) {
    let service = service_fn(move |request| {
        let reporter = reporter.clone();
        async move { Ok::<_, Infallible>(answer(&request, &reporter).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(MAX_REQUEST)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    // Who asked may have gone away, or say nothing: the answer is theirs to miss.
    let _ = tokio::time::timeout(PATIENCE, connection).await;
}

async fn answer(request: &Request<Incoming>, reporter: &Reporter) -> Response<Full<Bytes>> {
    if !is_for_us(request) {
        let text = "ask by address, or as localhost\n";
        return plain(StatusCode::MISDIRECTED_REQUEST, text);
    }
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "here is /metrics\n");
    }
    if *request.method() != Method::GET {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET it\n");
        let headers = response.headers_mut();
        headers.insert(ALLOW, hyper::header::HeaderValue::from_static("GET"));
        return response;
    }
    match reporter.metrics().await {
        Ok(text) => {
            let mut response = Response::new(Full::new(Bytes::from(text)));
            let format = hyper::header::HeaderValue::from_static(MEDIA_TYPE);
            response.headers_mut().insert(CONTENT_TYPE, format);
            response
        }
        Err(gone) => plain(StatusCode::SERVICE_UNAVAILABLE, &format!("{gone}\n")),
    }
}

/// Whether the request names this host by its address. A page of the web that has its own name lead
/// to 127.0.0.1 names itself, and must not read what is here.
fn is_for_us(request: &Request<Incoming>) -> bool {
    let Some(host) = request.headers().get(HOST) else {
        // HTTP/1.0; no browser speaks it.
        return true;
    };
    let named = host.to_str().unwrap_or_default();
    let name = match named.parse::<SocketAddr>() {
        Ok(address) => return address.ip().is_loopback(),
        Err(_) => named.rsplit_once(':').map_or(named, |(name, _)| name),
    };
    let address: Result<IpAddr, _> = name.parse();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text.to_owned())));
    *response.status_mut() = status;
    response
}
