//! The distribution's etcd on loopback, and a way to it that can be cut.

use std::net::TcpListener as StdListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// A server that ends with this.
pub(crate) struct Server {
    folder: PathBuf,
    port: u16,
    peer_port: u16,
    options: Vec<String>,
    child: Option<Child>,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

fn free_port() -> u16 {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Whether etcd is installed; says so if it is not. With `VPN_LAB_REQUIRED=1`, as in CI, that is a
/// failure.
pub(crate) fn is_there() -> bool {
    let version = Command::new("etcd").arg("--version").output();
    if version.is_ok_and(|version| version.status.success()) {
        return true;
    }
    let required = std::env::var_os("VPN_LAB_REQUIRED").is_some_and(|value| value == "1");
    assert!(
        !required,
        "this test must not be skipped here: etcd is missing"
    );
    println!("SKIPPED: etcd is not installed (Debian: etcd-server)");
    false
}

impl Server {
    /// Starts one; `None` where etcd is not installed.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with("http", &[]).await
    }

    pub(crate) async fn start_with(scheme: &str, options: &[String]) -> Option<Self> {
        if !is_there() {
            return None;
        }
        let name = format!("etcd-{}-{}", std::process::id(), COUNT.fetch_add(1, SeqCst));
        let (port, peer_port) = (free_port(), free_port());
        let mut all = vec![
            format!("--listen-client-urls={scheme}://127.0.0.1:{port}"),
            format!("--advertise-client-urls={scheme}://127.0.0.1:{port}"),
        ];
        all.extend(options.iter().cloned());
        let mut server = Self {
            folder: std::env::temp_dir().join(name),
            port,
            peer_port,
            options: all,
            child: None,
        };
        server.wipe();
        server.run().await;
        Some(server)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Starts it, with what it had.
    pub(crate) async fn run(&mut self) {
        let peers = format!("http://127.0.0.1:{}", self.peer_port);
        let child = Command::new("etcd")
            .arg(format!("--data-dir={}", self.folder.display()))
            .args(&self.options)
            .arg(format!("--listen-peer-urls={peers}"))
            .arg(format!("--initial-advertise-peer-urls={peers}"))
            .arg(format!("--initial-cluster=default={peers}"))
            .args(["--logger=zap", "--log-level=error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        for _ in 0..600 {
            if TcpStream::connect(self.endpoint()).await.is_ok() {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("etcd does not start");
    }

    /// As by a crash.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What it had is gone.
    pub(crate) fn wipe(&self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        self.wipe();
    }
}

/// A way to the server that can be cut.
pub(crate) struct Wire {
    port: u16,
    to: u16,
    serving: Option<JoinHandle<()>>,
}

impl Wire {
    pub(crate) async fn to(server: &Server) -> Self {
        let mut wire = Self {
            port: free_port(),
            to: server.port(),
            serving: None,
        };
        wire.mend().await;
        wire
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) async fn mend(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let to = self.to;
        self.serving = Some(tokio::spawn(async move {
            // Dropped with the task, so that a cut ends what goes on.
            let mut carried = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                carried.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(("127.0.0.1", to)).await {
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        }));
    }

    pub(crate) async fn cut(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
    }
}
