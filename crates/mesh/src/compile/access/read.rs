//! An AccessPolicy's words, read into the proxy's. An error names the field.

use std::sync::Arc;

use http::Method;
use http::header::HeaderName;
use proxy::access::{AccessRule, Effect, Policy, Source};
use proxy::snapshot::{HeaderMatch, PathMatch, ValueMatch};
use resources::access::{
    AccessPolicy, AccessPolicyAction, AccessPolicyFrom, AccessPolicyHeader, AccessPolicyHeaderType, AccessPolicyPath,
    AccessPolicyPathType, AccessPolicyRule,
};
use resources::names::DOMAIN;

use super::super::index::key;

/// Reads a policy.
pub(super) fn policy(policy: &AccessPolicy) -> Result<Policy, String> {
    let here = key(&policy.metadata).0;
    let rules = policy.spec.rules.iter().enumerate();
    let rules = rules.map(|(position, rule)| {
        self::rule(here, position, rule).map_err(|error| format!("spec.rules[{position}].{error}"))
    });
    Ok(Policy { rules: rules.collect::<Result<_, _>>()?, ..Policy::default() })
}

fn rule(here: &str, position: usize, rule: &AccessPolicyRule) -> Result<AccessRule, String> {
    Ok(AccessRule {
        name: rule.name.clone().unwrap_or_else(|| position.to_string()).into(),
        effect: match rule.action.unwrap_or_default() {
            AccessPolicyAction::Allow => Effect::Allow,
            AccessPolicyAction::Deny => Effect::Deny,
        },
        from: rule.from.as_ref().map(|from| sources(here, from)).transpose()?.unwrap_or_default(),
        methods: each("methods", &rule.methods, |method| self::method(method))?,
        paths: each("paths", &rule.paths, path)?,
        headers: each("headers", &rule.headers, header)?,
        token: None,
        clients: None,
    })
}

/// Reads every item of a list; an error names its place.
fn each<F, T>(field: &str, items: &[F], read: impl Fn(&F) -> Result<T, String>) -> Result<Vec<T>, String> {
    let read = items
        .iter()
        .enumerate()
        .map(|(position, item)| read(item).map_err(|error| format!("{field}[{position}]: {error}")));
    read.collect()
}

fn sources(here: &str, from: &AccessPolicyFrom) -> Result<Vec<Source>, String> {
    let accounts = each("from.serviceAccounts", &from.service_accounts, |account| {
        let (namespace, name) = qualified(here, account)?;
        Ok(Source::Id(format!("spiffe://{DOMAIN}/ns/{namespace}/sa/{name}").into()))
    })?;
    let namespaces = each("from.namespaces", &from.namespaces, |namespace| {
        Ok(Source::Id(format!("spiffe://{DOMAIN}/ns/{}/**", plain(namespace)?).into()))
    })?;
    let ids = each("from.spiffeIds", &from.spiffe_ids, |id| {
        let rest =
            id.strip_prefix("spiffe://").filter(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic()));
        match rest {
            Some(_) => Ok(Source::Id(id.as_str().into())),
            None => Err(format!(
                "{id:?} is not a SPIFFE ID such as spiffe://{DOMAIN}/ns/shop/sa/orders, or a pattern of one"
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
