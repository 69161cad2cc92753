//! Touches etcd: rules that are there, for many hosts at once.

use std::path::Path;
use std::sync::Arc;

use vpn_core::RuleSource;
use vpn_examples::etcd::EtcdAccess;

use crate::config::Etcd;
use crate::error::Error;

/// Begins to follow the rules; etcd need not be there yet.
#[cfg(feature = "etcd")]
pub(crate) fn follow(
    path: &Path,
    etcd: &Etcd,
    access: &EtcdAccess,
) -> Result<Arc<dyn RuleSource>, Error> {
    use vpn_routing::source::{EtcdRules, EtcdRulesConfig};

    let scheme = match access.tls.is_some() {
        true => "https",
        false => "http",
    };
    let endpoints = etcd.endpoints.iter().map(|at| format!("{scheme}://{at}"));
    let mut config = EtcdRulesConfig::new(endpoints, etcd.prefix.as_str());
    if let Some(tls) = &access.tls {
        config = config.tls(tls.ca.clone());
        if let Some((certificate, key)) = &tls.client {
            config = config.certificate(certificate.clone(), key.to_vec());
        }
        if let Some(name) = &tls.server_name {
            config = config.server_name(name);
        }
    }
    if let Some((name, password)) = &access.user {
        config = config.user(name, password.as_str());
    }
    let rules = EtcdRules::start(config).map_err(|error| Error::Config {
        path: path.to_owned(),
        key: "etcd".to_owned(),
        problem: error.to_string(),
    })?;
    Ok(Arc::new(rules))
}

/// Without the feature there is no such table: the configuration was refused.
#[cfg(not(feature = "etcd"))]
pub(crate) fn follow(path: &Path, _: &Etcd, _: &EtcdAccess) -> Result<Arc<dyn RuleSource>, Error> {
    Err(Error::Config {
        path: path.to_owned(),
        key: "etcd".to_owned(),
        problem: "this program was built without the feature etcd".to_owned(),
    })
}
