//! Certificates for TLS with etcd: an authority, etcd's own and a client's.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// The name in etcd's certificate; its address on loopback is there as well.
pub const SERVER_NAME: &str = "etcd.example";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A folder with `ca.pem`, `server.pem`, `server.key`, `client.pem` and `client.key`. It goes with this.
#[derive(Debug)]
pub struct Papers(PathBuf);

impl Papers {
    /// New ones: nobody else's authority signed them.
    pub fn new() -> Self {
        let number = COUNT.fetch_add(1, SeqCst);
        let name = format!("etcd-papers-{}-{number}", std::process::id());
        let this = Self(std::env::temp_dir().join(name));
        fs::create_dir_all(&this.0).expect("a folder");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let ca = CertifiedIssuer::self_signed(params, key).expect("an authority");
        this.write("ca.pem", "CERTIFICATE", ca.der());
        for (whose, name) in [("server", SERVER_NAME), ("client", "node.example")] {
            let key = KeyPair::generate().expect("a key");
            let names = vec![name.to_owned(), "127.0.0.1".to_owned()];
            let params = CertificateParams::new(names).expect("names");
            let certificate = params.signed_by(&key, &ca).expect("a certificate");
            this.write(&format!("{whose}.pem"), "CERTIFICATE", certificate.der());
            this.write(&format!("{whose}.key"), "PRIVATE KEY", &key.serialize_der());
        }
        this
    }

    /// The path of one of the files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What is in one of the files.
    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("a file of these papers")
    }

    /// Options with which etcd shows its certificate, and asks for the client's.
    pub fn options(&self) -> [String; 4] {
        let file = |name: &str| self.path(name).display().to_string();
        [
            format!("--cert-file={}", file("server.pem")),
            format!("--key-file={}", file("server.key")),
            format!("--trusted-ca-file={}", file("ca.pem")),
            "--client-cert-auth".to_owned(),
        ]
    }

    fn write(&self, name: &str, what: &str, der: &[u8]) {
        let text = STANDARD.encode(der);
        let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
        let body = lines.collect::<Vec<_>>().join("\n");
        let path = self.path(name);
        let pem = format!("-----BEGIN {what}-----\n{body}\n-----END {what}-----\n");
        fs::write(&path, pem).expect("a file");
        own(&path);
    }
}

fn own(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("a mode");
}

impl Default for Papers {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Papers {
    fn drop(&mut self) {
        // What is left is in the folder for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}
