//! `metrics`: what Prometheus reads, by HTTP, of this host only. Touches a listening socket; what is told is
//! for the daemon to say.

use std::convert::Infallible;
use std::future::Future;
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
pub struct Listener(TcpListener);

/// Why an address is none for metrics; `None`: it is one.
pub fn wrong_address(address: SocketAddr) -> Option<&'static str> {
    match address {
        _ if !address.ip().is_loopback() => Some("not a loopback address: others could read it"),
        _ if address.port() == 0 => Some("name a port"),
        _ => None,
    }
}

impl Listener {
    /// Binds the address, which is one of this host.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        TcpListener::bind(address).await.map(Self)
    }

    /// Answers until `shutdown` with what `tell` says, or why it cannot; again, if it is called again.
    pub async fn serve<T, F>(&self, tell: T, shutdown: CancellationToken)
    where
        T: Fn() -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<String, String>> + Send + 'static,
    {
        let mut callers = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(_) = callers.join_next() => {}
                accepted = self.0.accept(), if callers.len() < CONNECTIONS => match accepted {
                    Ok((stream, _)) => drop(callers.spawn(converse(stream, tell.clone()))),
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
async fn converse<T, F>(stream: TcpStream, tell: T)
where
    T: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<String, String>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let tell = tell.clone();
        async move { Ok::<_, Infallible>(answer(&request, tell).await) }
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

async fn answer<F>(request: &Request<Incoming>, tell: impl Fn() -> F) -> Response<Full<Bytes>>
where
    F: Future<Output = Result<String, String>>,
{
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
    match tell().await {
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
