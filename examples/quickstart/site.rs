//! The site: a tiny web server that says in which region it is.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::app::REGION_HEADER;

/// Length of an answer, in bytes: some thirty packets, so that there is throughput to see.
const BODY: usize = 40_000;

/// Connections at the same time; more wait to be accepted.
const CONNECTIONS: usize = 64;

/// How long one connection may take.
const LIMIT: Duration = Duration::from_secs(4);

/// Longest question, in bytes.
const MAX_QUESTION: usize = 4096;

/// Pause after a failed accept (no descriptors left): it may fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listens at these addresses.
pub(crate) async fn listen(sites: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for site in sites {
        listeners.push(TcpListener::bind(site).await?);
    }
    Ok(listeners)
}

/// Answers for ever.
pub(crate) async fn serve(region: &'static str, listeners: Vec<TcpListener>) {
    let answer: Arc<[u8]> = answer(region).into();
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut tasks = tokio::task::JoinSet::new();
    for listener in listeners {
        let (answer, permits) = (answer.clone(), permits.clone());
        tasks.spawn(accept(listener, answer, permits));
    }
    while tasks.join_next().await.is_some() {}
}

async fn accept(listener: TcpListener, answer: Arc<[u8]>, permits: Arc<Semaphore>) {
    // Never closed, so a permit always comes.
    while let Ok(permit) = permits.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = answer.clone();
                tokio::spawn(async move {
                    // The app notices a question that is not answered.
                    let _ = timeout(LIMIT, converse(stream, &answer)).await;
                    drop(permit);
                });
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn converse(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    let mut question = Vec::new();
    while !question.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut question).await? == 0 || question.len() > MAX_QUESTION {
            return Ok(());
        }
    }
    stream.write_all(answer).await?;
    stream.shutdown().await
}

fn answer(region: &str) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\n{REGION_HEADER}: {region}\r\nContent-Length: {BODY}\r\n\
         Connection: close\r\n\r\n"
    )
    .into_bytes();
    answer.resize(answer.len() + BODY, b'.');
    answer
}
