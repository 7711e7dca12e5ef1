//! Whom the proxy trusts when it speaks TLS to others: given authorities alone, or those of the system.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

const NONE: &str = "there is no certificate authority to trust; install ca-certificates, or name one";

/// The system's authorities.
pub(super) fn of_system() -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() { Err(NONE.into()) } else { Ok(store) }
}

/// How TLS is spoken to a server whose certificate one of these authorities (PEM) must have signed; one of the system's where
/// none are given.
///
/// # Errors
///
/// Where there is nobody to trust.
pub fn client_config(roots: Option<&str>) -> Result<Arc<ClientConfig>, String> {
    let store = match roots {
        Some(pem) => {
            let mut store = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|error| format!("the authorities are no PEM: {error}"))?;
                store.add(certificate).map_err(|error| format!("an authority cannot be used: {error}"))?;
            }
            store
        }
        None => of_system()?,
    };
    if store.is_empty() {
        return Err(NONE.into());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
