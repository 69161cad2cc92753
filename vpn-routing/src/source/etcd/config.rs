//! Where rules in etcd are. Passwords and keys are in no `Debug`.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

/// How long one request may take, unless said otherwise.
pub const REQUEST: Duration = Duration::from_secs(5);

/// Where rules in etcd are.
#[derive(Clone)]
pub struct EtcdRulesConfig {
    endpoints: Vec<String>,
    prefix: String,
    request: Duration,
    user: Option<(String, Zeroizing<String>)>,
    ca: Option<Vec<u8>>,
    client: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
    server_name: Option<String>,
}

impl EtcdRulesConfig {
    /// The rules below this prefix (`vpn-rules/`, say, and nothing that others may write) at these endpoints: `HOST:PORT`, `http://…` or
    /// `https://…`. Without user and TLS, so for loopback only.
    pub fn new(
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        prefix: impl Into<String>,
    ) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: prefix.into(),
            request: REQUEST,
            user: None,
            ca: None,
            client: None,
            server_name: None,
        }
    }

    /// User and password. The password is overwritten when this is dropped, and in no `Debug`; the client
    /// of etcd has a copy of its own while it is connected.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), Zeroizing::new(password.into())));
        self
    }

    /// TLS: etcd's certificate is signed by this authority, in PEM.
    #[must_use]
    pub fn tls(mut self, ca: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(ca.into());
        self
    }

    /// With TLS, our certificate and its key, in PEM, where etcd asks for one.
    #[must_use]
    pub fn certificate(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.client = Some((certificate.into(), Zeroizing::new(key.into())));
        self
    }

    /// With TLS, the name in etcd's certificate, where it is not the endpoint's.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// How long one request may take ([`REQUEST`]).
    #[must_use]
    pub const fn request(mut self, within: Duration) -> Self {
        self.request = within;
        self
    }

    pub(super) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) const fn within(&self) -> Duration {
        self.request
    }

    /// What is wrong with it.
    pub(super) fn problem(&self) -> Option<&'static str> {
        let plain = |endpoint: &String| endpoint.starts_with("http://");
        if self.endpoints.is_empty() {
            Some("no endpoint is given")
        } else if self.endpoints.iter().any(|endpoint| endpoint.contains('@')) {
            Some("an endpoint has a user in it; give user and password by themselves")
        } else if self.ca.is_some() && self.endpoints.iter().any(plain) {
            Some("an endpoint is http://, and TLS is configured")
        } else if self.ca.is_none() && (self.client.is_some() || self.server_name.is_some()) {
            Some("a certificate or server name is given, and no authority for TLS")
        } else if self.prefix.is_empty() || !self.prefix.ends_with('/') {
            Some("the prefix does not end with a slash")
        } else if self.request.is_zero() {
            Some("a request that may take no time never succeeds")
        } else {
            None
        }
    }

    /// As the client wants it.
    pub(super) fn options(&self) -> etcd_client::ConnectOptions {
        let mut options = etcd_client::ConnectOptions::new()
            .with_connect_timeout(self.request)
            // A server that is gone without a word is noticed, also while nothing changes.
            .with_keep_alive(Duration::from_secs(5), Duration::from_secs(5))
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        if let Some((name, password)) = &self.user {
            options = options
                .with_user(name.clone(), password.as_str())
                .with_auto_token_refresh(true);
        }
        if let Some(ca) = &self.ca {
            let ca = etcd_client::Certificate::from_pem(ca);
            let mut tls = etcd_client::TlsOptions::new().ca_certificate(ca);
            if let Some((certificate, key)) = &self.client {
                tls = tls.identity(etcd_client::Identity::from_pem(certificate, key.as_slice()));
            }
            if let Some(name) = &self.server_name {
                tls = tls.domain_name(name);
            }
            options = options.with_tls(tls);
        }
        options
    }
}

impl fmt::Debug for EtcdRulesConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdRulesConfig")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("tls", &self.ca.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown_and_what_makes_no_sense_is_refused() {
        let good = || EtcdRulesConfig::new(["127.0.0.1:1"], "vpn/rules/");
        assert_eq!(good().problem(), None);
        let full = good()
            .user("node", "hunter2")
            .tls("ca")
            .certificate("cert", "secret-key");
        assert_eq!(full.problem(), None);
        let shown = format!("{full:?}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("115, 101"),
            "{shown}"
        );
        for wrong in [
            EtcdRulesConfig::new([""; 0], "vpn/"),
            EtcdRulesConfig::new(["u:p@host:1"], "vpn/"),
            EtcdRulesConfig::new(["http://host:1"], "vpn/").tls("ca"),
            EtcdRulesConfig::new(["host:1"], "vpn"),
            EtcdRulesConfig::new(["host:1"], ""),
            good().server_name("etcd.example"),
            good().request(Duration::ZERO),
        ] {
            assert!(wrong.problem().is_some(), "{wrong:?}");
        }
    }
}
