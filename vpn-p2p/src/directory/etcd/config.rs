//! What a directory over etcd has to be told. Passwords and keys are in no `Debug`.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

use super::error::EtcdError;

/// How long etcd keeps what is a node's after it was heard of last, unless said otherwise. Longer than
/// a restart of etcd, or of the node; an address of a node that died is free that much later.
pub const LEASE: Duration = Duration::from_secs(300);

/// How long one request may take, unless said otherwise.
pub const REQUEST: Duration = Duration::from_secs(5);

/// Shortest lease: etcd's own least is two seconds more than its election timeout, about this.
pub const MIN_LEASE: Duration = Duration::from_secs(5);

/// Where etcd is, and how it is talked to.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// `HOST:PORT`, `http://…` or `https://…`, at least one. With [`tls`](Self::tls) plain `http` is an
    /// error.
    pub endpoints: Vec<String>,
    /// What all keys begin with; default `vpn/`. Networks that share an etcd have different ones, and
    /// etcd's roles may grant a prefix.
    pub prefix: String,
    /// User and password; default none.
    pub user: Option<EtcdUser>,
    /// TLS; default none, so use it on loopback only.
    pub tls: Option<EtcdTls>,
    /// How long a node that is not heard of keeps its addresses and record ([`LEASE`]); at least
    /// [`MIN_LEASE`]. It is renewed three times as often.
    pub lease: Duration,
    /// How long one request may take ([`REQUEST`]).
    pub request: Duration,
}

impl EtcdConfig {
    /// These endpoints, and defaults.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: "vpn/".to_owned(),
            user: None,
            tls: None,
            lease: LEASE,
            request: REQUEST,
        }
    }

    /// Whether it makes sense.
    pub(super) fn check(&self) -> Result<(), EtcdError> {
        let wrong = |what| Err(EtcdError::Config(what));
        if self.endpoints.is_empty() {
            return wrong("no endpoint is given");
        }
        if self.endpoints.iter().any(|endpoint| endpoint.contains('@')) {
            return wrong("an endpoint has a user in it; give user and password by themselves");
        }
        let plain = |endpoint: &String| endpoint.starts_with("http://");
        if self.tls.is_some() && self.endpoints.iter().any(plain) {
            return wrong("an endpoint is http://, and TLS is configured");
        }
        if self.prefix.is_empty() || !self.prefix.ends_with('/') {
            return wrong("the prefix does not end with a slash");
        }
        if self.lease < MIN_LEASE || self.lease > Duration::from_secs(86_400) {
            return wrong("a lease lasts five seconds to a day");
        }
        if self.request.is_zero() {
            return wrong("a request that may take no time never succeeds");
        }
        Ok(())
    }
}

/// A user of etcd.
#[derive(Clone)]
pub struct EtcdUser {
    name: String,
    password: Zeroizing<String>,
}

impl EtcdUser {
    /// This user, with this password.
    pub fn new(name: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            password: Zeroizing::new(password.into()),
        }
    }
}

impl fmt::Debug for EtcdUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EtcdUser({}, password)", self.name)
    }
}

/// How etcd shows who it is, and we do.
#[derive(Clone, Default)]
pub struct EtcdTls {
    /// The authority that signed etcd's certificate, in PEM. Required.
    pub ca: Vec<u8>,
    /// Our certificate and its key, in PEM, where etcd asks for one.
    pub client: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
    /// The name in etcd's certificate, where it is not the endpoint's.
    pub server_name: Option<String>,
}

impl fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdTls")
            .field("client", &self.client.is_some())
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

/// As the client wants it.
pub(super) fn options(config: &EtcdConfig) -> etcd_client::ConnectOptions {
    let mut options = etcd_client::ConnectOptions::new()
        .with_connect_timeout(config.request)
        // A server that is gone without a word is noticed, also while nothing is asked.
        .with_keep_alive(Duration::from_secs(5), Duration::from_secs(5))
        .with_keep_alive_while_idle(true)
        // A member that lost the others would be silent otherwise.
        .with_require_leader(true);
    if let Some(user) = &config.user {
        options = options
            .with_user(user.name.clone(), user.password.as_str())
            .with_auto_token_refresh(true);
    }
    if let Some(tls) = &config.tls {
        let ca = etcd_client::Certificate::from_pem(&tls.ca);
        let mut with = etcd_client::TlsOptions::new().ca_certificate(ca);
        if let Some((certificate, key)) = &tls.client {
            with = with.identity(etcd_client::Identity::from_pem(certificate, key.as_slice()));
        }
        if let Some(name) = &tls.server_name {
            with = with.domain_name(name);
        }
        options = options.with_tls(with);
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown_and_what_makes_no_sense_is_refused() {
        let mut config = EtcdConfig::new(["127.0.0.1:2379"]);
        config.user = Some(EtcdUser::new("node", "hunter2"));
        config.tls = Some(EtcdTls {
            client: Some((b"cert".to_vec(), Zeroizing::new(b"secret-key".to_vec()))),
            ..EtcdTls::default()
        });
        config.check().unwrap();
        let shown = format!("{config:?}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("115, 101, 99"),
            "{shown}"
        );
        for change in [
            (|c: &mut EtcdConfig| c.endpoints.clear()) as fn(&mut EtcdConfig),
            |c| c.endpoints = vec!["http://u:p@host:1".into()],
            |c| c.endpoints = vec!["http://host:1".into()],
            |c| c.prefix = "vpn".into(),
            |c| c.lease = Duration::from_secs(1),
            |c| c.request = Duration::ZERO,
        ] {
            let mut wrong = config.clone();
            change(&mut wrong);
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
