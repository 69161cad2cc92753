//! Streams over TCP, in clear text: for tests, examples, and inside of what is protected already.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::TcpSocket;

use super::stream::{Stream, StreamOpener};

type MakeSocket = dyn Fn() -> io::Result<TcpSocket> + Send + Sync;

/// Opens TCP connections to one address. **Nothing is encrypted, and nobody proves who they are.**
#[derive(Clone)]
pub struct TcpOpener {
    to: SocketAddr,
    socket: Arc<MakeSocket>,
}

impl TcpOpener {
    /// Connects to this address by sockets of the system's choice.
    pub fn new(to: SocketAddr) -> Self {
        let socket = move || match to {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        };
        Self::with_sockets(to, socket)
    }

    /// Connects by sockets that `socket` makes: marked or bound, so that they avoid the capture.
    pub fn with_sockets(
        to: SocketAddr,
        socket: impl Fn() -> io::Result<TcpSocket> + Send + Sync + 'static,
    ) -> Self {
        let socket = Arc::new(socket);
        Self { to, socket }
    }
}

impl fmt::Debug for TcpOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpOpener").field("to", &self.to).finish()
    }
}

#[async_trait]
impl StreamOpener for TcpOpener {
    async fn open(&self) -> io::Result<Box<dyn Stream>> {
        let stream = (self.socket)()?.connect(self.to).await?;
        // Frames are written many at a time; what is left over must not wait for an answer.
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}
