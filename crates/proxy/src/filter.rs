//! Changes to requests and answers: headers, host, path; and redirects.
//!
//! Invariants: a filter that passed [`check`] applies to every request; pure, no IO.

use std::fmt::Write as _;
use std::sync::Arc;

use http::header::{HOST, HeaderMap, HeaderValue, LOCATION};
use http::uri::PathAndQuery;
use http::{StatusCode, Uri};

use crate::snapshot::{Filter, HeaderChanges, PathRewrite, Redirect};

/// Says what is wrong with filters.
pub(crate) fn check(filters: &[Filter], prefixed: bool) -> Result<(), String> {
    for filter in filters {
        match filter {
            // Mirrors and CORS are compiled, and with that checked, by themselves.
            Filter::RequestHeaders(_) | Filter::ResponseHeaders(_) | Filter::Mirror(_) | Filter::Cors(_) => {}
            Filter::Rewrite { host, path } => {
                if let Some(host) = host
                    && HeaderValue::from_str(host).is_err()
                {
                    return Err(format!("the host {host:?} cannot be sent"));
                }
                check_path(path.as_ref(), prefixed)?;
            }
            Filter::Redirect(redirect) => {
                check_path(redirect.path.as_ref(), prefixed)?;
                if !redirect.status.is_redirection() || redirect.status == StatusCode::NOT_MODIFIED {
                    return Err(format!("{} is no redirect; use 301, 302, 303, 307 or 308", redirect.status.as_u16()));
                }
            }
        }
    }
    Ok(())
}

fn check_path(path: Option<&PathRewrite>, prefixed: bool) -> Result<(), String> {
    let (PathRewrite::Full(new) | PathRewrite::Prefix(new)) = match path {
        None => return Ok(()),
        Some(PathRewrite::Prefix(_)) if !prefixed => {
            return Err("a prefix can only be replaced where the rule matches a prefix".into());
        }
        Some(path) => path,
    };
    if !new.is_empty() && (!new.starts_with('/') || new.contains(['?', '#']) || PathAndQuery::try_from(&**new).is_err())
    {
        return Err(format!("the path {new:?} cannot be sent; it must begin with a slash and have no query"));
    }
    Ok(())
}

/// Applies changes to headers.
pub(crate) fn change(headers: &mut HeaderMap, changes: &HeaderChanges) {
    for name in &changes.remove {
        headers.remove(name);
    }
    for (name, value) in &changes.set {
        headers.insert(name.clone(), value.clone());
    }
    for (name, value) in &changes.add {
        headers.append(name.clone(), value.clone());
    }
}

/// Applies what filters say about a request.
pub(crate) fn change_request(filters: &[Filter], prefix: Option<&Arc<str>>, uri: &mut Uri, headers: &mut HeaderMap) {
    for filter in filters {
        match filter {
            Filter::RequestHeaders(changes) => change(headers, changes),
            Filter::Rewrite { host, path } => {
                if let Some(host) = host.as_ref().and_then(|host| HeaderValue::from_str(host).ok()) {
                    headers.insert(HOST, host);
                }
                if let Some(path) = path {
                    let new = rewritten(path, prefix, uri.path());
                    let whole = match uri.query() {
                        Some(query) => format!("{new}?{query}"),
                        None => new,
                    };
                    // Both halves were valid; together they may only be too long, and then the old one stays.
                    if let Ok(path_and_query) = PathAndQuery::try_from(whole) {
                        *uri = Uri::from(path_and_query);
                    }
                }
            }
            Filter::ResponseHeaders(_) | Filter::Redirect(_) | Filter::Mirror(_) | Filter::Cors(_) => {}
        }
    }
}

/// Applies what filters say about an answer.
pub(crate) fn change_response(filters: &[Filter], headers: &mut HeaderMap) {
    for filter in filters {
        if let Filter::ResponseHeaders(changes) = filter {
            change(headers, changes);
        }
    }
}

fn rewritten(rewrite: &PathRewrite, prefix: Option<&Arc<str>>, path: &str) -> String {
    match rewrite {
        PathRewrite::Full(new) if new.is_empty() => "/".into(),
        PathRewrite::Full(new) => new.to_string(),
        PathRewrite::Prefix(new) => {
            let prefix = prefix.map_or("", |prefix| prefix.trim_end_matches('/'));
            let rest = path.strip_prefix(prefix).unwrap_or(path);
            if rest.is_empty() {
                return if new.is_empty() { "/".into() } else { new.to_string() };
            }
            format!("{}{}{rest}", new.trim_end_matches('/'), if rest.starts_with('/') { "" } else { "/" })
        }
    }
}

/// What a redirect needs to know about a request.
pub(crate) struct Asked<'a> {
    pub(crate) scheme: &'a str,
    /// As the client wrote it, with its port if any.
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
}

/// The headers of a redirect's answer.
pub(crate) fn redirect(redirect: &Redirect, prefix: Option<&Arc<str>>, asked: &Asked<'_>) -> HeaderMap {
    let scheme = redirect.scheme.as_deref().unwrap_or(asked.scheme);
    let (asked_host, asked_port) = split_port(asked.authority);
    let host = redirect.host.as_deref().unwrap_or(asked_host);
    let port = match (redirect.port, &redirect.scheme) {
        (Some(port), _) => Some(port),
        (None, Some(_)) => None,
        (None, None) => asked_port,
    };
    let mut location = format!("{scheme}://{host}");
    if let Some(port) = port
        && !matches!((scheme, port), ("http", 80) | ("https", 443))
    {
        // Writing to a string cannot fail.
        let _ = write!(location, ":{port}");
    }
    match &redirect.path {
        Some(path) => location.push_str(&rewritten(path, prefix, asked.path)),
        None => location.push_str(asked.path),
    }
    if let Some(query) = asked.query {
        location.push('?');
        location.push_str(query);
    }
    let mut headers = HeaderMap::with_capacity(2);
    if let Ok(location) = HeaderValue::try_from(location) {
        headers.insert(LOCATION, location);
    }
    headers
}

/// Splits a port off an authority, which may be an IPv6 address in brackets.
pub(crate) fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_replaced_by_whole_segments() {
        for (prefix, new, path, expected) in [
            ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
            ("/foo/", "/xyz", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz", "/foo", "/xyz"),
            ("/foo", "/xyz", "/foo/", "/xyz/"),
            ("/foo", "/xyz/", "/foo", "/xyz/"),
            ("/foo", "", "/foo/bar", "/bar"),
            ("/foo", "", "/foo", "/"),
            ("/foo", "/", "/foo/bar", "/bar"),
            ("/foo", "/", "/foo", "/"),
            ("/", "/xyz", "/a", "/xyz/a"),
        ] {
            let rewrite = PathRewrite::Prefix(new.into());
            assert_eq!(rewritten(&rewrite, Some(&prefix.into()), path), expected, "{prefix} -> {new:?} on {path}");
        }
    }

    #[test]
    fn a_rewrite_keeps_the_query() {
        let mut uri: Uri = "/a/b?c=d".parse().expect("a path");
        let mut headers = HeaderMap::new();
        let filter = Filter::Rewrite { host: Some("new.example".into()), path: Some(PathRewrite::Full("/x".into())) };
        change_request(&[filter], None, &mut uri, &mut headers);
        assert_eq!(uri.to_string(), "/x?c=d");
        assert_eq!(headers[HOST], "new.example");
    }

    #[test]
    fn redirects_point_where_the_client_can_follow() {
        let plain = Redirect { scheme: None, host: None, port: None, path: None, status: StatusCode::FOUND };
        let asked = Asked { scheme: "http", authority: "a.test:8080", path: "/p/q", query: Some("x=1") };
        for (change, expected) in [
            (plain.clone(), "http://a.test:8080/p/q?x=1"),
            (Redirect { scheme: Some("https".into()), ..plain.clone() }, "https://a.test/p/q?x=1"),
            (Redirect { scheme: Some("https".into()), port: Some(443), ..plain.clone() }, "https://a.test/p/q?x=1"),
            (Redirect { port: Some(80), host: Some("b.test".into()), ..plain.clone() }, "http://b.test/p/q?x=1"),
            (Redirect { port: Some(81), ..plain.clone() }, "http://a.test:81/p/q?x=1"),
            (Redirect { path: Some(PathRewrite::Prefix("/z".into())), ..plain.clone() }, "http://a.test:8080/z/q?x=1"),
        ] {
            assert_eq!(redirect(&change, Some(&"/p".into()), &asked)[LOCATION], expected);
        }
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        let rewrite = |path| Filter::Rewrite { host: None, path: Some(path) };
        assert!(check(&[rewrite(PathRewrite::Prefix("/a".into()))], false).is_err());
        assert!(check(&[rewrite(PathRewrite::Full("a".into()))], true).is_err());
        assert!(check(&[rewrite(PathRewrite::Full("/a?b".into()))], true).is_err());
        assert!(check(&[rewrite(PathRewrite::Full("/a b".into()))], true).is_err());
        assert!(check(&[rewrite(PathRewrite::Full("/a".into()))], false).is_ok());
    }

    #[test]
    fn ports_are_split_off() {
        for (authority, expected) in [
            ("a", ("a", None)),
            ("a:80", ("a", Some(80))),
            ("[::1]", ("[::1]", None)),
            ("[::1]:80", ("[::1]", Some(80))),
        ] {
            assert_eq!(split_port(authority), expected);
        }
    }
}
