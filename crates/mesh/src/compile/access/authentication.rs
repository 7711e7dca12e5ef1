//! What a policy knows callers by: issuers of tokens with their keys, and clients with theirs. An error names the field.

use std::time::Duration;

use http::Uri;
use http::header::HeaderName;
use proxy::access::{ApiKeys, External, Issuer, Jwt, Keys, Origin, RemoteKeys, TokenFrom};
use resources::access::{
    AccessPolicyApiKeys, AccessPolicyExternal, AccessPolicyJwks, AccessPolicyJwt, AccessPolicyKeyRef,
    AccessPolicyProvider, AccessPolicyServiceRef, AccessPolicyTokenFrom,
};
use sha2::{Digest, Sha256};

use super::super::backends::Reference;
use super::super::index::Subject;
use super::read::{Reader, each};
use crate::identity::{BadId, Bundle, OWN_BUNDLE, SPIFFE_KEY, SYSTEM_NAMESPACE, TrustDomain, foreign_bundle};

/// The group of our kinds.
const GROUP: &str = "mesh.coracle.dev";
/// How often unknown keys may ask for a new set.
const PAUSE: Duration = Duration::from_secs(10);
/// The header that keys come in where nothing else is said.
const API_KEY: &str = "x-api-key";

impl Reader<'_, '_> {
    pub(super) fn jwt(&mut self, jwt: &AccessPolicyJwt) -> Result<Jwt, String> {
        let mut issuers: Vec<Issuer> = Vec::with_capacity(jwt.providers.len());
        for (position, provider) in jwt.providers.iter().enumerate() {
            let issuer = self.issuer(provider).map_err(|error| format!("providers[{position}].{error}"))?;
            if issuers.iter().any(|other| other.name == issuer.name) {
                return Err(format!("providers[{position}].issuer: {:?} is there twice", provider.issuer));
            }
            issuers.push(issuer);
        }
        Ok(Jwt { issuers })
    }

    fn issuer(&mut self, provider: &AccessPolicyProvider) -> Result<Issuer, String> {
        Ok(Issuer {
            name: provider.issuer.as_str().into(),
            audiences: provider.audiences.iter().map(|audience| audience.as_str().into()).collect(),
            subjects: provider.jwks.trust_domain.as_ref().map(|domain| format!("spiffe://{domain}/").into()),
            keys: self.jwks(&provider.jwks).map_err(|error| format!("jwks.{error}"))?,
            from: each("tokenFrom", &provider.token_from, token_from)?,
            leeway: duration("leeway", provider.leeway.as_deref(), 60, 0, 300)?,
            forward: provider.forward.unwrap_or(true),
            told: each("claimsToHeaders", &provider.claims_to_headers, |told| {
                Ok((told.claim.as_str().into(), header_name(&told.header)?))
            })?,
        })
    }

    fn jwks(&mut self, jwks: &AccessPolicyJwks) -> Result<Keys, String> {
        let given = [
            jwks.inline.is_some(),
            jwks.config_map.is_some(),
            jwks.secret.is_some(),
            jwks.uri.is_some(),
            jwks.service.is_some(),
            jwks.trust_domain.is_some(),
        ];
        if given.iter().filter(|given| **given).count() != 1 {
            return Err("inline: exactly one of inline, configMap, secret, uri, service and trustDomain must be given"
                .to_owned());
        }
        if let Some(text) = &jwks.inline {
            return Ok(Keys::Here(text.as_str().into()));
        }
        if let Some(to) = &jwks.config_map {
            return Ok(Keys::Here(self.config_map(to).map_err(|error| format!("configMap: {error}"))?.into()));
        }
        if let Some(to) = &jwks.secret {
            return Ok(Keys::Here(self.secret(to).map_err(|error| format!("secret: {error}"))?.into()));
        }
        if let Some(domain) = &jwks.trust_domain {
            return Ok(Keys::Here(self.bundle_keys(domain).map_err(|error| format!("trustDomain: {error}"))?.into()));
        }
        let (at, path) = match (&jwks.uri, &jwks.service) {
            (Some(uri), _) => self.uri(uri, jwks.ca.as_ref())?,
            (None, Some(service)) => {
                let backend = self.service(service).map_err(|error| format!("service: {error}"))?;
                (backend, service.path.clone().unwrap_or_else(|| "/".to_owned()))
            }
            (None, None) => return Err("uri: it is missing".to_owned()),
        };
        if !path.starts_with('/') || path.parse::<Uri>().is_err() {
            return Err(format!("service.path: {path:?} is no path"));
        }
        Ok(Keys::There(RemoteKeys {
            at,
            path: path.into(),
            timeout: duration("timeout", jwks.timeout.as_deref(), 5, 1, 30)?,
            refresh: duration("refresh", jwks.refresh.as_deref(), 600, 10, 86_400)?,
            pause: PAUSE,
        }))
    }

    /// The keys for tokens of a trust domain's bundle.
    fn bundle_keys(&self, domain: &str) -> Result<String, String> {
        let domain: TrustDomain = domain.parse().map_err(|error: BadId| error.to_string())?;
        let found = if domain == *self.domain {
            let own = self.index.config_map(SYSTEM_NAMESPACE, OWN_BUNDLE);
            own.and_then(|map| Bundle::read(map.data.as_ref()?.get(SPIFFE_KEY)?.as_bytes()).ok())
        } else {
            foreign_bundle(self.index.config_maps_of(SYSTEM_NAMESPACE), &domain)
        };
        found.and_then(|bundle| bundle.token_keys()).ok_or_else(|| {
            format!("no bundle of {domain} with keys for tokens is known here; `coracle trust add` adds one")
        })
    }

    fn uri(&self, text: &str, ca: Option<&AccessPolicyKeyRef>) -> Result<(Origin, String), String> {
        let bad = || format!("uri: {text:?} is not a URL such as https://idp.example/keys");
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
        let roots = ca.map(|to| self.config_map(to).map_err(|error| format!("ca: {error}"))).transpose()?;
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let host = host.trim_matches(['[', ']']).into();
        Ok((Origin::Host { host, port, tls, roots: roots.map(Into::into) }, path))
    }

    /// The backend of a Service that a policy asks something.
    pub(super) fn service(&mut self, to: &AccessPolicyServiceRef) -> Result<Origin, String> {
        let from = Subject { group: GROUP, kind: "AccessPolicy", namespace: self.here, name: self.name };
        let namespace = to.namespace.as_deref();
        let to = Reference { group: None, kind: None, namespace, name: &to.name, port: Some(to.port) };
        self.backends.resolve(from, to).map(Origin::Backend).map_err(|fault| fault.message)
    }

    fn config_map(&self, to: &AccessPolicyKeyRef) -> Result<String, String> {
        let name = format!("ConfigMap {}/{}", self.here, to.name);
        let map = self.index.config_map(self.here, &to.name).ok_or_else(|| format!("{name} does not exist"))?;
        let value = map.data.as_ref().and_then(|data| data.get(&to.key));
        value.cloned().ok_or_else(|| format!("{name} has no key set and no certificate under {:?}", to.key))
    }

    fn secret(&self, to: &AccessPolicyKeyRef) -> Result<String, String> {
        let name = format!("Secret {}/{}", self.here, to.name);
        let secret = self.index.opaque(self.here, &to.name);
        let secret = secret.ok_or_else(|| format!("{name} does not exist, or is not of type Opaque"))?;
        let value = secret.data.as_ref().and_then(|data| data.get(&to.key));
        let value = value.ok_or_else(|| format!("{name} has nothing under {:?}", to.key))?;
        String::from_utf8(value.0.clone()).map_err(|_| format!("{name} has no text under {:?}", to.key))
    }

    pub(super) fn external(&mut self, external: &AccessPolicyExternal) -> Result<External, String> {
        let Origin::Backend(backend) = self.service(&external.service).map_err(|error| format!("service: {error}"))?
        else {
            return Err("service: it has no backend".to_owned());
        };
        let path = external.service.path.clone().unwrap_or_else(|| "/".to_owned());
        if !path.starts_with('/') || path.parse::<Uri>().is_err() {
            return Err(format!("service.path: {path:?} is no path"));
        }
        Ok(External {
            backend,
            path: path.into(),
            timeout: duration("timeout", external.timeout.as_deref(), 5, 1, 30)?,
            fail_open: external.fail_open.unwrap_or(false),
            to_backend: each("headersToService", &external.headers_to_service, |name| header_name(name))?,
        })
    }

    pub(super) fn api_keys(&mut self, keys: &AccessPolicyApiKeys) -> Result<ApiKeys, String> {
        let header = match (&keys.header, &keys.query) {
            (None, None) => Some(HeaderName::from_static(API_KEY)),
            (None, Some(_)) => None,
            (Some(header), _) => Some(header_name(header).map_err(|error| format!("header: {error}"))?),
        };
        let told = keys.client_header.as_deref().map(header_name).transpose();
        let mut found = Vec::new();
        for (position, to) in keys.secrets.iter().enumerate() {
            let secret = self.index.opaque(self.here, &to.name).ok_or_else(|| {
                format!(
                    "secrets[{position}]: Secret {}/{} does not exist, or is not of type Opaque",
                    self.here, to.name
                )
            })?;
            for (client, value) in secret.data.iter().flatten() {
                let lines =
                    value.0.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
                found.extend(lines.map(|line| (client.as_str().into(), Sha256::digest(line).into())));
            }
        }
        Ok(ApiKeys {
            header,
            query: keys.query.as_deref().map(Into::into),
            forward: keys.forward.unwrap_or(false),
            told: told.map_err(|error| format!("clientHeader: {error}"))?,
            keys: found,
        })
    }
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    name.parse().map_err(|_| format!("{name:?} is not the name of a header"))
}

fn token_from(from: &AccessPolicyTokenFrom) -> Result<TokenFrom, String> {
    match (&from.header, &from.query) {
        (Some(header), None) => {
            Ok(TokenFrom::Header(header_name(header)?, from.prefix.as_deref().unwrap_or_default().into()))
        }
        (None, Some(query)) if from.prefix.is_none() => Ok(TokenFrom::Query(query.as_str().into())),
        _ => Err("it needs a header (with a prefix or without) or a query, and not both".to_owned()),
    }
}

/// Reads a time; the numbers are the default and the bounds, in seconds.
pub(super) fn duration(
    field: &str,
    text: Option<&str>,
    default: u64,
    least: u64,
    most: u64,
) -> Result<Duration, String> {
    let Some(text) = text else { return Ok(Duration::from_secs(default)) };
    let parsed = text.parse::<resources::gateway::Duration>();
    let parsed = parsed.map_err(|error| format!("{field}: {text:?} is not a duration such as 30s: {error}"))?;
    let read = Duration::from_millis(u64::try_from(parsed.as_millis()).unwrap_or(u64::MAX));
    if (Duration::from_secs(least)..=Duration::from_secs(most)).contains(&read) {
        Ok(read)
    } else {
        Err(format!("{field}: {text} is not between {least}s and {most}s"))
    }
}
