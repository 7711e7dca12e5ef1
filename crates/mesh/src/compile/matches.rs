//! An HTTPRoute's matches, read into the proxy's.

use std::collections::HashSet;
use std::sync::Arc;

use http::Method;
use http::header::HeaderName;
use proxy::snapshot::{HeaderMatch, Match, PathMatch, QueryMatch, ValueMatch};
use resources::gateway::httproutes::{
    HttpRouteRulesMatches, HttpRouteRulesMatchesHeaders, HttpRouteRulesMatchesHeadersType, HttpRouteRulesMatchesMethod,
    HttpRouteRulesMatchesPath, HttpRouteRulesMatchesPathType, HttpRouteRulesMatchesQueryParams,
    HttpRouteRulesMatchesQueryParamsType,
};

/// Reads the matches of a rule; none at all means every request. The error says what is wrong with which field.
pub(super) fn read(matches: Option<&[HttpRouteRulesMatches]>) -> Result<Vec<Match>, String> {
    match matches {
        None | Some([]) => Ok(vec![Match::default()]),
        Some(matches) => matches.iter().map(read_one).collect(),
    }
}

fn read_one(matches: &HttpRouteRulesMatches) -> Result<Match, String> {
    Ok(Match {
        path: matches.path.as_ref().map(path).transpose()?.unwrap_or_default(),
        method: matches.method.as_ref().map(method),
        headers: headers(matches.headers.as_deref().unwrap_or_default())?,
        query: query(matches.query_params.as_deref().unwrap_or_default()),
    })
}

fn path(path: &HttpRouteRulesMatchesPath) -> Result<PathMatch, String> {
    let value: Arc<str> = path.value.as_deref().unwrap_or("/").into();
    let type_ = path.r#type.as_ref().unwrap_or(&HttpRouteRulesMatchesPathType::PathPrefix);
    if *type_ != HttpRouteRulesMatchesPathType::RegularExpression {
        check_path(&value)?;
    }
    Ok(match type_ {
        HttpRouteRulesMatchesPathType::Exact => PathMatch::Exact(value),
        HttpRouteRulesMatchesPathType::PathPrefix => PathMatch::Prefix(value),
        HttpRouteRulesMatchesPathType::RegularExpression => PathMatch::Regex(value),
    })
}

/// What Gateway API's own CEL rules forbid in exact paths and prefixes.
fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(format!("path {path:?} must begin with '/'"));
    }
    for forbidden in ["//", "/./", "/../", "%2f", "%2F", "#"] {
        if path.contains(forbidden) {
            return Err(format!("path {path:?} must not contain {forbidden:?}"));
        }
    }
    if path.ends_with("/.") || path.ends_with("/..") {
        return Err(format!("path {path:?} must not end with a dot segment"));
    }
    Ok(())
}

fn method(method: &HttpRouteRulesMatchesMethod) -> Method {
    match method {
        HttpRouteRulesMatchesMethod::Get => Method::GET,
        HttpRouteRulesMatchesMethod::Head => Method::HEAD,
        HttpRouteRulesMatchesMethod::Post => Method::POST,
        HttpRouteRulesMatchesMethod::Put => Method::PUT,
        HttpRouteRulesMatchesMethod::Delete => Method::DELETE,
        HttpRouteRulesMatchesMethod::Connect => Method::CONNECT,
        HttpRouteRulesMatchesMethod::Options => Method::OPTIONS,
        HttpRouteRulesMatchesMethod::Trace => Method::TRACE,
        HttpRouteRulesMatchesMethod::Patch => Method::PATCH,
    }
}

/// Of several entries for one header, only the first counts, as Gateway API says.
fn headers(headers: &[HttpRouteRulesMatchesHeaders]) -> Result<Vec<HeaderMatch>, String> {
    let mut seen = HashSet::new();
    let mut found = Vec::with_capacity(headers.len());
    for header in headers {
        let name: HeaderName =
            header.name.parse().map_err(|_| format!("{:?} is not the name of a header", header.name))?;
        if seen.insert(name.clone()) {
            let expression = header.r#type == Some(HttpRouteRulesMatchesHeadersType::RegularExpression);
            found.push(HeaderMatch { name, value: value(&header.value, expression) });
        }
    }
    Ok(found)
}

/// Of several entries for one parameter, only the first counts, as Gateway API says.
fn query(parameters: &[HttpRouteRulesMatchesQueryParams]) -> Vec<QueryMatch> {
    let mut seen = HashSet::new();
    let first = parameters.iter().filter(|parameter| seen.insert(parameter.name.as_str()));
    first
        .map(|parameter| QueryMatch {
            name: parameter.name.as_str().into(),
            value: value(
                &parameter.value,
                parameter.r#type == Some(HttpRouteRulesMatchesQueryParamsType::RegularExpression),
            ),
        })
        .collect()
}

fn value(value: &str, expression: bool) -> ValueMatch {
    if expression { ValueMatch::Regex(value.into()) } else { ValueMatch::Exact(value.into()) }
}
