//! What a certificate says, as far as SPIFFE looks at it (X509-SVID, sections 2 to 5). Pure.

use jiff::Timestamp;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The URIs among its subject alternative names; an SVID has exactly one.
    pub uris: Vec<String>,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
    /// Whether it may sign certificates, by its basic constraints.
    pub authority: bool,
    /// Whether its key usage lets it sign certificates or revocation lists.
    pub signs: bool,
    /// Whether its key usage lets it make signatures.
    pub signature: bool,
    /// The key's algorithm and point or number, as `SubjectPublicKeyInfo` has it.
    pub public_key: Vec<u8>,
}

/// Reads a certificate.
///
/// # Errors
///
/// Says where it is no certificate.
pub fn facts(der: &[u8]) -> Result<Facts, String> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| format!("no certificate: {error}"))?;
    if !rest.is_empty() {
        return Err("no certificate: more bytes follow it".into());
    }
    let time = |time: x509_parser::time::ASN1Time| {
        Timestamp::from_second(time.timestamp()).map_err(|error| format!("its time is out of range: {error}"))
    };
    let validity = certificate.validity();
    let mut facts = Facts {
        uris: Vec::new(),
        not_before: time(validity.not_before)?,
        not_after: time(validity.not_after)?,
        authority: false,
        signs: false,
        signature: false,
        public_key: certificate.public_key().subject_public_key.data.to_vec(),
    };
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) => facts.authority = constraints.ca,
            ParsedExtension::KeyUsage(usage) => {
                facts.signs = usage.key_cert_sign() || usage.crl_sign();
                facts.signature = usage.digital_signature();
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                facts.uris.extend(names.general_names.iter().filter_map(|name| match name {
                    GeneralName::URI(uri) => Some((*uri).to_owned()),
                    _ => None,
                }));
            }
            _ => {}
        }
    }
    Ok(facts)
}
