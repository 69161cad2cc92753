//! Streams to a hub over TLS, for networks that block UDP: who is at the other end is proven by its
//! identity, and by nothing else.
//!
//! Both ends show a certificate that they made themselves, of their Ed25519 identity. Nothing in it
//! counts but that key; that the other end has the secret part is proven by the handshake's signature,
//! which rustls checks. A node takes only the hub's key. A hub takes any: the key says which streams are
//! one client's, and who may be a member is decided inside, as over UDP. TLS 1.3 only; nothing is
//! resumed, so each stream proves it anew. What the streams carry is sealed between members already.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, ServerConfig};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector, server::TlsStream};
use vpn_core::PeerId;
use zeroize::Zeroizing;

use super::identity::Identity;
use crate::streams::{Stream, StreamOpener};

/// How long an address is tried alone, before the next one is tried beside it (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);

/// How long one is tried.
const EACH: Duration = Duration::from_secs(3);

/// A certificate needs a name; nobody looks at it, and it is not sent when connecting.
const NAME: &str = "mesh";

/// What stands before an Ed25519 secret in PKCS#8 (RFC 8410 §7).
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// What stands before an Ed25519 key in a certificate (RFC 8410 §4).
const SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Why there is no TLS. Says nothing about the key.
#[derive(Debug, thiserror::Error)]
#[error("no certificate can be made of this identity")]
pub struct TlsError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl TlsError {
    fn new(cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Box::new(cause))
    }
}

type Made = (CertificateDer<'static>, PrivateKeyDer<'static>);

/// A certificate of this identity, signed by itself.
fn certificate(identity: &Identity) -> Result<Made, TlsError> {
    let secret = identity.reveal_bytes();
    let pkcs8 = Zeroizing::new([&PKCS8[..], &secret[..]].concat());
    let key = || PrivatePkcs8KeyDer::from(pkcs8.to_vec());
    let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key(), &rcgen::PKCS_ED25519)
        .map_err(TlsError::new)?;
    let params = rcgen::CertificateParams::new([NAME.to_owned()]).map_err(TlsError::new)?;
    let certificate = params.self_signed(&pair).map_err(TlsError::new)?;
    Ok((certificate.der().clone(), PrivateKeyDer::Pkcs8(key())))
}

/// Whose certificate this is.
fn peer(certificate: &CertificateDer<'_>) -> Result<PeerId, Error> {
    let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    let key = key.strip_prefix(&SPKI).and_then(|key| key.try_into().ok());
    let other = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
    key.map(PeerId).ok_or(other)
}

/// Whose key is good: one, or any.
#[derive(Debug)]
struct Pinned {
    only: Option<PeerId>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let peer = peer(certificate)?;
        if self.only.is_some_and(|only| only != peer) {
            let cause = CertificateError::ApplicationVerificationFailure;
            return Err(Error::InvalidCertificate(cause));
        }
        Ok(())
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }
}

fn too_old() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.3 is spoken here".to_owned()))
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

fn verifier(only: Option<PeerId>) -> Arc<Pinned> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Arc::new(Pinned { only, provider })
}

/// Takes streams of nodes.
#[derive(Clone)]
pub struct TlsListener(TlsAcceptor);

impl TlsListener {
    /// As this hub.
    ///
    /// # Errors
    ///
    /// [`TlsError`].
    pub fn new(identity: &Identity) -> Result<Self, TlsError> {
        let (certificate, key) = certificate(identity)?;
        let verifier = verifier(None);
        let builder = ServerConfig::builder_with_provider(verifier.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::new)?;
        let mut config = builder
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)
            .map_err(TlsError::new)?;
        config.send_tls13_tickets = 0;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Greets a client, and says whose stream it is. The caller limits how long that may take.
    ///
    /// # Errors
    ///
    /// What the network says, and that it was no TLS of such a node.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(PeerId, TlsStream<TcpStream>)> {
        // Frames are written many at a time; what is left over must not wait for an answer.
        stream.set_nodelay(true)?;
        let stream = self.0.accept(stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let first = certificates.and_then(<[_]>::first);
        let first = first.ok_or(io::ErrorKind::InvalidData)?;
        let peer =
            peer(first).map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, cause))?;
        Ok((peer, stream))
    }
}

impl fmt::Debug for TlsListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsListener").finish_non_exhaustive()
    }
}

type MakeSocket = dyn Fn(SocketAddr) -> io::Result<TcpSocket> + Send + Sync;

/// Opens streams to one hub, which proves that it has the key it is known by.
#[derive(Clone)]
pub struct TlsOpener {
    connector: TlsConnector,
    endpoints: Vec<SocketAddr>,
    socket: Arc<MakeSocket>,
}

impl TlsOpener {
    /// As this node, to this hub, at one of these addresses. `socket` makes the sockets: marked or
    /// bound, so that they avoid the capture.
    ///
    /// # Errors
    ///
    /// [`TlsError`].
    pub fn new(
        identity: &Identity,
        hub: PeerId,
        endpoints: Vec<SocketAddr>,
        socket: impl Fn(SocketAddr) -> io::Result<TcpSocket> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        let (certificate, key) = certificate(identity)?;
        let verifier = verifier(Some(hub));
        let builder = ClientConfig::builder_with_provider(verifier.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::new)?;
        let mut config = builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(vec![certificate], key)
            .map_err(TlsError::new)?;
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            endpoints,
            socket: Arc::new(socket),
        })
    }

    async fn connect(&self, to: SocketAddr) -> io::Result<Box<dyn Stream>> {
        let stream = (self.socket)(to)?.connect(to).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        Ok(Box::new(self.connector.connect(name, stream).await?))
    }
}

impl fmt::Debug for TlsOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("TlsOpener");
        debug.field("endpoints", &self.endpoints);
        debug.finish_non_exhaustive()
    }
}

#[async_trait]
impl StreamOpener for TlsOpener {
    async fn open(&self) -> io::Result<Box<dyn Stream>> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        let (mut left, mut tried) = (self.endpoints.iter().copied(), JoinSet::new());
        loop {
            if let Some(to) = left.next() {
                let this = self.clone();
                tried.spawn(async move { tokio::time::timeout(EACH, this.connect(to)).await });
            } else if tried.is_empty() {
                return Err(last);
            }
            let pause = async {
                match left.len() {
                    0 => std::future::pending().await,
                    _ => tokio::time::sleep(HEAD_START).await,
                }
            };
            // One that fails makes room for the next at once; the first that is there is taken, and
            // the others end with the set.
            tokio::select! {
                Some(done) = tried.join_next() => match done {
                    Ok(Ok(Ok(stream))) => return Ok(stream),
                    Ok(Ok(Err(error))) => last = error,
                    Ok(Err(_)) => last = io::ErrorKind::TimedOut.into(),
                    Err(error) => last = io::Error::other(error),
                },
                () = pause => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn opener(identity: &Identity, hub: PeerId, to: SocketAddr) -> TlsOpener {
        TlsOpener::new(identity, hub, vec![to], |_| TcpSocket::new_v4()).unwrap()
    }

    #[tokio::test]
    async fn a_stream_leads_to_the_hub_of_this_key_and_shows_it_whose_it_is() {
        let (hub, node) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = tcp.local_addr().unwrap();
        let listener = TlsListener::new(&hub).unwrap();
        let accepting = tokio::spawn(async move {
            let mut accepted = Vec::new();
            for _ in 0..2 {
                let stream = tcp.accept().await.unwrap().0;
                accepted.push(listener.accept(stream).await);
            }
            accepted
        });
        let mut stream = opener(&node, hub.id(), to).open().await.unwrap();
        stream.write_all(b"frames").await.unwrap();
        // Another hub's key, at the same address.
        let wrong = opener(&node, node.id(), to).open().await;
        assert!(wrong.is_err_and(|error| error.kind() == io::ErrorKind::InvalidData));
        let mut accepted = accepting.await.unwrap();
        assert!(accepted.remove(1).is_err());
        let (peer, mut theirs) = accepted.remove(0).unwrap();
        assert_eq!(peer, node.id());
        let mut bytes = [0; 6];
        theirs.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"frames");
    }

    /// As the hub's names are tried by datagrams: all of them, and not one after the other's patience.
    #[tokio::test]
    async fn addresses_that_do_not_answer_cost_a_quarter_of_a_second_each() {
        let (hub, node) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let [mute, gone, to] = [&silent, &closed, &tcp].map(|it| it.local_addr().unwrap());
        drop(closed);
        let listener = TlsListener::new(&hub).unwrap();
        let accepting =
            tokio::spawn(async move { listener.accept(tcp.accept().await.unwrap().0).await });
        let many = vec![mute, mute, gone, mute, to];
        let opener = TlsOpener::new(&node, hub.id(), many, |_| TcpSocket::new_v4()).unwrap();
        let began = std::time::Instant::now();
        opener.open().await.unwrap();
        let took = began.elapsed();
        assert!(took >= HEAD_START * 3 && took < EACH, "{took:?}");
        assert_eq!(accepting.await.unwrap().unwrap().0, node.id());
        let none = TlsOpener::new(&node, hub.id(), vec![gone], |_| TcpSocket::new_v4()).unwrap();
        let refused = none.open().await.map(drop).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn who_has_no_key_or_no_tls_gets_nothing() {
        let hub = Identity::generate().unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = tcp.local_addr().unwrap();
        let listener = TlsListener::new(&hub).unwrap();
        let provider = verifier(Some(hub.id())).provider.clone();
        let without = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier(Some(hub.id())))
            .with_no_client_auth();
        let connecting = tokio::spawn(async move {
            let stream = TcpStream::connect(to).await.unwrap();
            let name = ServerName::try_from(NAME).unwrap();
            let connector = TlsConnector::from(Arc::new(without));
            let mut stream = connector.connect(name, stream).await?;
            stream.read_u8().await
        });
        let stream = tcp.accept().await.unwrap().0;
        assert!(listener.accept(stream).await.is_err());
        assert!(connecting.await.unwrap().is_err());
        let mut plain = TcpStream::connect(to).await.unwrap();
        plain.write_all(&[0x80, 1, 0, 0, 0, 0]).await.unwrap();
        let stream = tcp.accept().await.unwrap().0;
        assert!(listener.accept(stream).await.is_err());
    }
}
