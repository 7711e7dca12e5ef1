//! Certificates of listeners, chosen by server name.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::error::Refused;
use crate::route::HostTable;
use crate::secured::certified;
use crate::snapshot::Certificate;

struct ByName {
    names: HostTable<Arc<CertifiedKey>>,
    default: Arc<CertifiedKey>,
}

impl std::fmt::Debug for ByName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ByName")
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.names.find(&name.to_ascii_lowercase()));
        Some(Arc::clone(named.unwrap_or(&self.default)))
    }
}

/// What a listener with these certificates offers.
pub(crate) fn server_config(listener: &Arc<str>, certificates: &[Certificate]) -> Result<Arc<ServerConfig>, Refused> {
    let bad = |index, reason| Refused::BadCertificate { listener: listener.clone(), index, reason };
    let mut names = HostTable::new();
    let mut default = None;
    for (index, certificate) in certificates.iter().enumerate() {
        let key = Arc::new(certified(&certificate.chain, &certificate.key).map_err(|reason| bad(index, reason))?);
        for host in &certificate.hosts {
            if !names.insert(host, Arc::clone(&key)) {
                return Err(bad(index, format!("an earlier certificate is for {host:?} already")));
            }
        }
        default.get_or_insert(key);
    }
    let default = default.ok_or_else(|| bad(0, "there is none; a TLS listener needs at least one".into()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(0, error.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName { names, default }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
