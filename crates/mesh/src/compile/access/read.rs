//! An AccessPolicy's words, read into the proxy's. An error names the field.

use std::sync::Arc;

use http::Method;
use http::header::HeaderName;
use proxy::access::{AccessRule, ApiKeys, Condition, Effect, Jwt, Policy, Source, TokenMatch};
use proxy::snapshot::{HeaderMatch, PathMatch, ValueMatch};
use resources::access::{
    AccessPolicy, AccessPolicyAction, AccessPolicyClients, AccessPolicyFrom, AccessPolicyHeader,
    AccessPolicyHeaderType, AccessPolicyPath, AccessPolicyPathType, AccessPolicyRule, AccessPolicyToken,
};

use super::super::backends::Backends;
use super::super::index::{Index, key};
use crate::identity::TrustDomain;

/// Reads a policy, following what it refers to.
pub(super) struct Reader<'r, 'w> {
    pub(super) here: &'r str,
    pub(super) name: &'r str,
    pub(super) index: &'r Index<'w>,
    pub(super) domain: &'r TrustDomain,
    pub(super) backends: &'r mut Backends<'w>,
}

impl<'r, 'w> Reader<'r, 'w> {
    pub(super) fn new(
        policy: &'r AccessPolicy,
        (index, domain): (&'r Index<'w>, &'r TrustDomain),
        backends: &'r mut Backends<'w>,
    ) -> Self {
        let (here, name) = key(&policy.metadata);
        Self { here, name, index, domain, backends }
    }

    pub(super) fn policy(&mut self, policy: &AccessPolicy) -> Result<Policy, String> {
        let spec = &policy.spec;
        let jwt =
            spec.jwt.as_ref().map(|jwt| self.jwt(jwt)).transpose().map_err(|error| format!("spec.jwt.{error}"))?;
        let keys = spec.api_keys.as_ref().map(|keys| self.api_keys(keys)).transpose();
        let keys = keys.map_err(|error| format!("spec.apiKeys.{error}"))?;
        let external = spec.external_authorization.as_ref().map(|external| self.external(external)).transpose();
        let external = external.map_err(|error| format!("spec.externalAuthorization.{error}"))?;
        let rules = spec.rules.iter().enumerate().map(|(position, written)| {
            let known = Known { domain: self.domain, jwt: jwt.as_ref(), keys: keys.as_ref() };
            rule(self.here, position, written, &known).map_err(|error| format!("spec.rules[{position}].{error}"))
        });
        let mut rules: Vec<AccessRule> = rules.collect::<Result<_, _>>()?;
        if rules.is_empty() {
            rules.extend(implied(jwt.is_some(), keys.is_some(), external.is_some())?);
        }
        Ok(Policy { broken: None, jwt, keys, external, rules })
    }
}

/// The rule of a policy that has none: whoever has shown what the policy knows may pass. One that knows nothing lets nobody in.
fn implied(jwt: bool, keys: bool, external: bool) -> Result<Option<AccessRule>, String> {
    let (from, methods, paths, headers) = Default::default();
    let rule = AccessRule {
        name: "implied".into(),
        effect: Effect::Allow,
        from,
        methods,
        paths,
        headers,
        token: jwt.then(TokenMatch::default),
        clients: keys.then(Vec::new),
    };
    if jwt && keys {
        return Err(
            "spec.rules: with both spec.jwt and spec.apiKeys, rules must say which of them is needed".to_owned()
        );
    }
    Ok((jwt || keys || external).then_some(rule))
}

/// What rules of a policy can ask for.
struct Known<'k> {
    domain: &'k TrustDomain,
    jwt: Option<&'k Jwt>,
    keys: Option<&'k ApiKeys>,
}

fn rule(here: &str, position: usize, rule: &AccessPolicyRule, known: &Known<'_>) -> Result<AccessRule, String> {
    Ok(AccessRule {
        name: rule.name.clone().unwrap_or_else(|| position.to_string()).into(),
        effect: match rule.action.unwrap_or_default() {
            AccessPolicyAction::Allow => Effect::Allow,
            AccessPolicyAction::Deny => Effect::Deny,
        },
        from: rule.from.as_ref().map(|from| sources(here, known.domain, from)).transpose()?.unwrap_or_default(),
        methods: each("methods", &rule.methods, |method| self::method(method))?,
        paths: each("paths", &rule.paths, path)?,
        headers: each("headers", &rule.headers, header)?,
        token: rule.jwt.as_ref().map(|wanted| token(wanted, known)).transpose()?,
        clients: rule.api_keys.as_ref().map(|wanted| clients(wanted, known)).transpose()?,
    })
}

fn token(wanted: &AccessPolicyToken, known: &Known<'_>) -> Result<TokenMatch, String> {
    let jwt = known.jwt.ok_or("jwt: spec.jwt is not there, so no token is believed")?;
    if let Some(issuer) = &wanted.issuer
        && !jwt.issuers.iter().any(|known| *known.name == **issuer)
    {
        return Err(format!("jwt.issuer: {issuer:?} is none of spec.jwt.providers"));
    }
    let claims = each("jwt.claims", &wanted.claims, |claim| {
        let one = |value: &String| Arc::from(value.as_str());
        let condition = match (&claim.equals, &claim.contains, claim.any_of.as_slice()) {
            (None, None, []) => Condition::Present,
            (Some(value), None, []) => Condition::Equals(one(value)),
            (None, Some(value), []) => Condition::Contains(one(value)),
            (None, None, values) => Condition::AnyOf(values.iter().map(one).collect()),
            _ => return Err("only one of equals, contains and anyOf can be given".to_owned()),
        };
        Ok((claim.name.as_str().into(), condition))
    })?;
    Ok(TokenMatch { issuer: wanted.issuer.as_deref().map(Into::into), claims })
}

fn clients(wanted: &AccessPolicyClients, known: &Known<'_>) -> Result<Vec<Arc<str>>, String> {
    if known.keys.is_none() {
        return Err("apiKeys: spec.apiKeys is not there, so no key is known".to_owned());
    }
    // A client whose key has been taken away is no slip: it just has none.
    Ok(wanted.clients.iter().map(|client| client.as_str().into()).collect())
}

/// Reads every item of a list; an error names its place.
pub(super) fn each<F, T>(field: &str, items: &[F], read: impl Fn(&F) -> Result<T, String>) -> Result<Vec<T>, String> {
    let read = items
        .iter()
        .enumerate()
        .map(|(position, item)| read(item).map_err(|error| format!("{field}[{position}]: {error}")));
    read.collect()
}

fn sources(here: &str, domain: &TrustDomain, from: &AccessPolicyFrom) -> Result<Vec<Source>, String> {
    let accounts = each("from.serviceAccounts", &from.service_accounts, |account| {
        let (namespace, name) = qualified(here, account)?;
        Ok(Source::Id(format!("spiffe://{domain}/ns/{namespace}/sa/{name}").into()))
    })?;
    let namespaces = each("from.namespaces", &from.namespaces, |namespace| {
        Ok(Source::Id(format!("spiffe://{domain}/ns/{}/**", plain(namespace)?).into()))
    })?;
    let ids = each("from.spiffeIds", &from.spiffe_ids, |id| {
        let rest =
            id.strip_prefix("spiffe://").filter(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic()));
        match rest {
            Some(_) => Ok(Source::Id(id.as_str().into())),
            None => Err(format!(
                "{id:?} is not a SPIFFE ID such as spiffe://{domain}/ns/shop/sa/orders, or a pattern of one"
            )),
        }
    })?;
    let gateways = each("from.gateways", &from.gateways, |gateway| {
        let (namespace, name) = qualified(here, gateway)?;
        Ok(Source::Gateway(format!("{namespace}/{name}").into()))
    })?;
    let all: Vec<Source> = [accounts, namespaces, ids, gateways].into_iter().flatten().collect();
    if all.is_empty() {
        return Err("from: it names nobody; leave it out to mean everybody".to_owned());
    }
    Ok(all)
}

/// NAMESPACE/NAME, or NAME in this namespace.
fn qualified<'a>(here: &'a str, name: &'a str) -> Result<(&'a str, &'a str), String> {
    let (namespace, name) = name.split_once('/').unwrap_or((here, name));
    Ok((plain(namespace)?, plain(name)?))
}

fn plain(name: &str) -> Result<&str, String> {
    let right = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    if !name.is_empty() && name.bytes().all(right) {
        Ok(name)
    } else {
        Err(format!("{name:?} is not a name; patterns belong into from.spiffeIds"))
    }
}

fn method(method: &str) -> Result<Method, String> {
    // Methods are told apart by letter case; one in small letters is a slip that would allow or deny nothing.
    let written = method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    let read = Method::from_bytes(method.as_bytes()).ok().filter(|_| written);
    read.ok_or_else(|| format!("{method:?} is not a method such as GET, in capital letters"))
}

fn path(path: &AccessPolicyPath) -> Result<PathMatch, String> {
    let value: Arc<str> = path.value.as_str().into();
    let kind = path.kind.unwrap_or_default();
    if kind != AccessPolicyPathType::RegularExpression && !value.starts_with('/') {
        return Err(format!("{value:?} does not begin with a slash"));
    }
    Ok(match kind {
        AccessPolicyPathType::Exact => PathMatch::Exact(value),
        AccessPolicyPathType::PathPrefix => PathMatch::Prefix(value),
        AccessPolicyPathType::RegularExpression => PathMatch::Regex(value),
    })
}

fn header(header: &AccessPolicyHeader) -> Result<HeaderMatch, String> {
    let name: HeaderName = header.name.parse().map_err(|_| format!("{:?} is not the name of a header", header.name))?;
    let value = match (&header.value, header.kind.unwrap_or_default()) {
        (None, _) => ValueMatch::Present,
        (Some(value), AccessPolicyHeaderType::Exact) => ValueMatch::Exact(value.as_str().into()),
        (Some(value), AccessPolicyHeaderType::RegularExpression) => ValueMatch::Regex(value.as_str().into()),
    };
    Ok(HeaderMatch { name, value })
}
