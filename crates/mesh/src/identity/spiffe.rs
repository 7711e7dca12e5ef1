//! SPIFFE IDs and trust domains (SPIFFE-ID, section 2).
//!
//! Invariant: a value of these types is valid; there is no other way to make one.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

const SCHEME: &str = "spiffe://";
/// The longest SPIFFE ID, in bytes (SPIFFE-ID, section 2.3).
const LONGEST: usize = 2048;
/// The longest trust domain, in bytes (SPIFFE-ID, section 2.3).
const LONGEST_DOMAIN: usize = 255;

/// Why a text is no SPIFFE ID or trust domain.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is no {what}: {reason}")]
pub struct BadId {
    /// What was read.
    pub text: String,
    /// What it should be.
    pub what: &'static str,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// The name of those who share roots of trust, such as `cluster.local`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Its name, without a scheme.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The identity of a Kubernetes service account in this trust domain: `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    ///
    /// # Errors
    ///
    /// A name that no SPIFFE ID can hold; Kubernetes' names all can.
    pub fn account(&self, namespace: &str, account: &str) -> Result<SpiffeId, BadId> {
        format!("{SCHEME}{self}/ns/{namespace}/sa/{account}").parse()
    }
}

impl Default for TrustDomain {
    /// What it is where nobody says otherwise: the cluster's own domain, as Istio has it.
    fn default() -> Self {
        Self(resources::names::DOMAIN.into())
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let name = text.strip_prefix(SCHEME).unwrap_or(text);
        let bad = |reason| BadId { text: text.to_owned(), what: "trust domain", reason };
        if name.is_empty() {
            return Err(bad("it is empty"));
        }
        if name.len() > LONGEST_DOMAIN {
            return Err(bad("it is longer than 255 bytes"));
        }
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if !name.bytes().all(allowed) {
            return Err(bad("only lower-case letters, digits, dots, dashes and underscores may be in it"));
        }
        Ok(Self(name.into()))
    }
}

/// The identity of a workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    domain: TrustDomain,
}

impl SpiffeId {
    /// The whole ID, as it stands in a certificate.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same, to be shared.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    /// Whose word this identity is.
    #[must_use]
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The path, with its leading slash.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[SCHEME.len() + self.domain.0.len()..]
    }

    /// Namespace and service account, where the path says `/ns/NAMESPACE/sa/ACCOUNT`.
    #[must_use]
    pub fn account(&self) -> Option<(&str, &str)> {
        let mut parts = self.path().split('/').skip(1);
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None) => Some((namespace, account)),
            _ => None,
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for SpiffeId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = |reason| BadId { text: text.to_owned(), what: "SPIFFE ID", reason };
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| bad("it does not begin with spiffe://"))?;
        if text.len() > LONGEST {
            return Err(bad("it is longer than 2048 bytes"));
        }
        let (domain, path) = rest.split_once('/').ok_or_else(|| bad("it has no path, so it names no workload"))?;
        let domain: TrustDomain = domain.parse().map_err(|error: BadId| bad(error.reason))?;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        for segment in path.split('/') {
            if matches!(segment, "" | "." | "..") || !segment.bytes().all(allowed) {
                return Err(bad("its path has a segment that is empty, a dot, or not of letters, digits, . - _"));
            }
        }
        Ok(Self { text: text.into(), domain })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_whole_or_refused() {
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/orders".parse().unwrap();
        assert_eq!((id.domain().as_str(), id.path()), ("cluster.local", "/ns/shop/sa/orders"));
        assert_eq!(id.account(), Some(("shop", "orders")));
        let other: SpiffeId = "spiffe://a/b".parse().unwrap();
        assert_eq!(other.account(), None);
        for bad in [
            "",
            "cluster.local/ns/a/sa/b",
            "https://cluster.local/a",
            "spiffe://cluster.local",
            "spiffe:///ns/a/sa/b",
            "spiffe://Cluster.local/a",
            "spiffe://a@b/c",
            "spiffe://a:1/c",
            "spiffe://a/b/",
            "spiffe://a//b",
            "spiffe://a/../b",
            "spiffe://a/b?x",
            "spiffe://a/b#x",
            "spiffe://a/b%20",
            "spiffe://a/ü",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
        assert!(format!("spiffe://a/{}", "b".repeat(2048)).parse::<SpiffeId>().is_err());
    }

    #[test]
    fn a_trust_domain_may_be_written_with_its_scheme() {
        assert_eq!("spiffe://a.test".parse::<TrustDomain>().unwrap().as_str(), "a.test");
        for bad in ["", "A", "a/b", "a:1", &"a".repeat(256)] {
            assert!(bad.parse::<TrustDomain>().is_err(), "{bad}");
        }
    }
}
