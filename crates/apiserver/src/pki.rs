//! The server's certificate authority and certificate.
//!
//! Invariants: keys are mode 0600; the authority is kept from start to start (a kubeconfig stays good); the server's
//! certificate lives in memory only, is made anew at each start and again long before it ends.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::error::BuildError;
use crate::files;

const AUTHORITY_YEARS: i64 = 10;
const SERVER_DAYS: i64 = 365;
/// A server certificate is replaced when this much of its life is over.
pub(crate) const RENEW_AFTER: std::time::Duration = std::time::Duration::from_secs(60 * 60 * 24 * 240);
/// Written before the certificate in its file, because reading a certificate's end takes an ASN.1 parser.
const ENDS: &str = "# ends: ";

/// The authority and the certificate it last issued for this server.
pub(crate) struct Authority {
    pem: Arc<str>,
    issuer: Issuer<'static, KeyPair>,
    names: Vec<SanType>,
    current: Arc<Current>,
}

/// The certificate in use; swapped without a restart.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Authority {
    /// Reads the authority from `folder`, or makes it; then issues the server's certificate.
    pub(crate) fn open(
        folder: &Path,
        bound: IpAddr,
        service: IpAddr,
        now: jiff::Timestamp,
    ) -> Result<Self, BuildError> {
        let (certificate, key) = (folder.join("ca.crt"), folder.join("ca.key"));
        let params = authority_params(now);
        let (pem, pair) = match (files::read(&certificate)?, files::read(&key)?) {
            (Some(pem), Some(key_pem))
                if ends(&pem).is_some_and(|end| end > now + jiff::Span::new().hours(24 * 365)) =>
            {
                let pair = KeyPair::from_pem(&key_pem)
                    .map_err(|error| BuildError::Damaged { path: key.clone(), reason: error.to_string() })?;
                (pem, pair)
            }
            _ => make_authority(&certificate, &key, &params, now)?,
        };
        let names = server_names(bound, service)?;
        let issuer = Issuer::new(params, pair);
        let first = issue(&issuer, &names, now)?;
        let pem =
            pem.lines().filter(|line| !line.starts_with('#')).fold(String::new(), |text, line| text + line + "\n");
        Ok(Self { pem: pem.into(), issuer, names, current: Arc::new(Current(ArcSwap::from_pointee(first))) })
    }

    /// The authority's certificate.
    pub(crate) fn pem(&self) -> Arc<str> {
        self.pem.clone()
    }

    /// Replaces the server's certificate; connections from now on get the new one.
    pub(crate) fn renew(&self, now: jiff::Timestamp) -> Result<(), BuildError> {
        self.current.0.store(Arc::new(issue(&self.issuer, &self.names, now)?));
        Ok(())
    }

    /// TLS settings that always use the newest certificate.
    pub(crate) fn server_config(&self) -> Result<rustls::ServerConfig, BuildError> {
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| BuildError::Certificate { name: "server", reason: error.to_string() })?
            .with_no_client_auth()
            .with_cert_resolver(self.current.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn make_authority(
    certificate: &Path,
    key: &Path,
    params: &CertificateParams,
    now: jiff::Timestamp,
) -> Result<(String, KeyPair), BuildError> {
    let failed = |error: rcgen::Error| BuildError::Certificate { name: "authority", reason: error.to_string() };
    let pair = KeyPair::generate().map_err(failed)?;
    let signed = params.self_signed(&pair).map_err(failed)?;
    let end = now + jiff::Span::new().hours(24 * 365 * AUTHORITY_YEARS);
    let pem = format!("{ENDS}{end}\n{}", signed.pem());
    // The key first: a certificate without its key would be taken for a whole authority.
    files::write_private(key, pair.serialize_pem().as_bytes())?;
    files::write_private(certificate, pem.as_bytes())?;
    Ok((pem, pair))
}

fn ends(pem: &str) -> Option<jiff::Timestamp> {
    pem.lines().next()?.strip_prefix(ENDS)?.trim().parse().ok()
}

fn authority_params(now: jiff::Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("coracle-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    life(&mut params, now, 365 * AUTHORITY_YEARS);
    params
}

fn issue(
    issuer: &Issuer<'static, KeyPair>,
    names: &[SanType],
    now: jiff::Timestamp,
) -> Result<CertifiedKey, BuildError> {
    let failed = |reason: String| BuildError::Certificate { name: "server", reason };
    let mut params = CertificateParams::default();
    params.distinguished_name = named("coracle-apiserver");
    params.subject_alt_names = names.to_vec();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    life(&mut params, now, SERVER_DAYS);
    let pair = KeyPair::generate().map_err(|error| failed(error.to_string()))?;
    let signed = params.signed_by(&pair, issuer).map_err(|error| failed(error.to_string()))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
    let key = ring::sign::any_supported_type(&key).map_err(|error| failed(error.to_string()))?;
    Ok(CertifiedKey::new(vec![CertificateDer::from(signed.der().to_vec())], key))
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// From yesterday (clocks differ) for so many days.
fn life(params: &mut CertificateParams, now: jiff::Timestamp, days: i64) {
    let day = |offset: i64| {
        let date = (now + jiff::Span::new().hours(24 * offset)).to_zoned(jiff::tz::TimeZone::UTC).date();
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = day(-1);
    params.not_after = day(days);
}

fn server_names(bound: IpAddr, service: IpAddr) -> Result<Vec<SanType>, BuildError> {
    let domain = resources::names::DOMAIN;
    let names = [
        "localhost".to_owned(),
        "kubernetes".into(),
        "kubernetes.default".into(),
        "kubernetes.default.svc".into(),
        format!("kubernetes.default.svc.{domain}"),
    ];
    let mut all = Vec::new();
    for name in names {
        let name = name
            .try_into()
            .map_err(|error: rcgen::Error| BuildError::Certificate { name: "server", reason: error.to_string() })?;
        all.push(SanType::DnsName(name));
    }
    let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
    for address in loopback.into_iter().chain([service, bound]) {
        let entry = SanType::IpAddress(address);
        if !address.is_unspecified() && !all.contains(&entry) {
            all.push(entry);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn the_authority_is_kept_until_it_nears_its_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = jiff::Timestamp::now();
        let open = |at| Authority::open(folder.path(), LOCAL, LOCAL, at).expect("an authority").pem();
        let first = open(now);
        assert!(first.starts_with("-----BEGIN CERTIFICATE-----"));
        assert_eq!(first, open(now));
        assert_ne!(first, open(now + jiff::Span::new().hours(24 * 365 * 9 + 48)));
    }

    #[test]
    fn a_damaged_key_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = jiff::Timestamp::now();
        Authority::open(folder.path(), LOCAL, LOCAL, now).expect("an authority");
        std::fs::write(folder.path().join("ca.key"), "not a key").expect("writing");
        let error = Authority::open(folder.path(), LOCAL, LOCAL, now).err().expect("an error");
        assert!(error.to_string().contains("ca.key is not usable"), "{error}");
    }
}
