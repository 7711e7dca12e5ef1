//! Cross-origin resource sharing: what browsers are told about who may read what.
//!
//! Invariants: an origin that is not allowed is told nothing; `*` is never said where credentials are about; all
//! lists are joined once, when a snapshot is compiled.

use http::Method;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};

use crate::snapshot;

/// Which origins a word of a configuration stands for.
#[derive(Debug, PartialEq, Eq)]
enum Allowed {
    Any,
    Matching { scheme: String, host: Host, port: u16 },
}

#[derive(Debug, PartialEq, Eq)]
enum Host {
    Any,
    /// With the dot.
    Below(String),
    Named(String),
}

/// A list of words.
enum List {
    None,
    /// All there are.
    All,
    Some(HeaderValue),
}

/// Ready to be used.
pub(crate) struct Cors {
    origins: Vec<Allowed>,
    credentials: bool,
    methods: List,
    headers: List,
    expose: List,
    max_age: HeaderValue,
}

/// What a request is to CORS.
pub(crate) enum Met {
    /// A question that is answered with these headers.
    Preflight(HeaderMap),
    /// A request whose answer gets these headers.
    Actual(HeaderMap),
}

/// Whether a browser asks before it sends.
pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(ORIGIN) && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Puts what was found onto an answer, in place of what the backend says about the same.
pub(crate) fn share(headers: HeaderMap, answer: &mut HeaderMap) {
    for (name, value) in headers {
        let Some(name) = name else { continue };
        if name == VARY {
            answer.append(name, value);
        } else {
            answer.insert(name, value);
        }
    }
}

impl Cors {
    /// Reads what was written, or says what is wrong with it.
    pub(crate) fn compile(written: &snapshot::Cors) -> Result<Self, String> {
        Ok(Self {
            origins: written.origins.iter().map(|origin| allowed(origin)).collect::<Result<_, _>>()?,
            credentials: written.credentials,
            methods: list(&written.methods)?,
            headers: list(&written.headers)?,
            expose: list(&written.expose)?,
            max_age: HeaderValue::from(written.max_age),
        })
    }

    /// What to do about a request.
    pub(crate) fn meet(&self, method: &Method, headers: &HeaderMap) -> Met {
        let preflight = is_preflight(method, headers);
        let origin = headers.get(ORIGIN).filter(|origin| self.allows(origin));
        // The answer depends on who asks, also where nothing else is said: a cache must not give it to another origin.
        let varies = (VARY, HeaderValue::from_static("origin"));
        let Some(origin) = origin else {
            let said = HeaderMap::from_iter([varies]);
            return if preflight { Met::Preflight(said) } else { Met::Actual(said) };
        };
        let credentials = self.credentials || headers.contains_key(COOKIE) || headers.contains_key(AUTHORIZATION);
        let mut said = HeaderMap::with_capacity(6);
        said.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        said.extend([varies]);
        if self.credentials {
            said.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        // Browsers look at it in the answer itself; in one to a preflight it does no harm, and Gateway API wants it there.
        say(&mut said, ACCESS_CONTROL_EXPOSE_HEADERS, &self.expose, credentials, None);
        if !preflight {
            return Met::Actual(said);
        }
        let asked = |name: HeaderName| headers.get(name).cloned();
        let (method, names) = (asked(ACCESS_CONTROL_REQUEST_METHOD), asked(ACCESS_CONTROL_REQUEST_HEADERS));
        say(&mut said, ACCESS_CONTROL_ALLOW_METHODS, &self.methods, credentials, method);
        say(&mut said, ACCESS_CONTROL_ALLOW_HEADERS, &self.headers, credentials, names);
        said.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        Met::Preflight(said)
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        self.origins.iter().any(|allowed| match allowed {
            Allowed::Any => true,
            Allowed::Matching { scheme, host, port } => parse(origin).is_ok_and(|(its_scheme, its_host, its_port)| {
                let host = match host {
                    Host::Any => true,
                    Host::Below(suffix) => its_host.len() > suffix.len() && its_host.ends_with(suffix.as_str()),
                    Host::Named(name) => *name == its_host,
                };
                host && *scheme == its_scheme && *port == its_port
            }),
        })
    }
}

/// Says a list. Where it is all there are and credentials are about, what was asked for is said in its place, if anything was.
fn say(said: &mut HeaderMap, name: HeaderName, list: &List, credentials: bool, asked: Option<HeaderValue>) {
    let value = match list {
        List::None => None,
        List::Some(value) => Some(value.clone()),
        List::All if credentials => asked,
        List::All => Some(HeaderValue::from_static("*")),
    };
    if let Some(value) = value {
        said.insert(name, value);
    }
}

fn list(words: &[std::sync::Arc<str>]) -> Result<List, String> {
    if words.is_empty() {
        return Ok(List::None);
    }
    if words.iter().any(|word| &**word == "*") {
        return Ok(List::All);
    }
    let joined = words.iter().map(|word| &**word).collect::<Vec<_>>().join(", ");
    HeaderValue::try_from(&joined).map(List::Some).map_err(|_| format!("CORS: {joined:?} cannot be sent in a header"))
}

fn allowed(written: &str) -> Result<Allowed, String> {
    if written == "*" {
        return Ok(Allowed::Any);
    }
    let (scheme, host, port) = parse(written)?;
    let host = match host.strip_prefix('*') {
        None => Host::Named(host),
        Some("") => Host::Any,
        Some(suffix) if suffix.starts_with('.') => Host::Below(suffix.to_owned()),
        Some(_) => return Err(format!("CORS: a star in the origin {written:?} must be followed by a dot")),
    };
    Ok(Allowed::Matching { scheme, host, port })
}

/// Scheme, host and port of an origin, in lower case.
fn parse(origin: &str) -> Result<(String, String, u16), String> {
    let bad = || format!("CORS: the origin {origin:?} is not of the form scheme://host or scheme://host:port");
    let lower = origin.to_ascii_lowercase();
    let (scheme, rest) = lower.split_once("://").ok_or_else(bad)?;
    let (host, port) = match (rest.rsplit_once(':'), scheme) {
        (Some((host, port)), _) if !port.ends_with(']') => (host, port.parse().map_err(|_| bad())?),
        (_, "http") => (rest, 80),
        (_, "https") => (rest, 443),
        _ => return Err(bad()),
    };
    if host.is_empty() || host.contains('/') {
        return Err(bad());
    }
    Ok((scheme.to_owned(), host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str], credentials: bool, all: &str) -> Cors {
        let words = vec![all.into()];
        let origins = origins.iter().map(|origin| (*origin).into()).collect();
        let (methods, headers, expose) = (words.clone(), words.clone(), words);
        Cors::compile(&snapshot::Cors { origins, credentials, methods, headers, expose, max_age: 5 }).expect("good")
    }

    #[test]
    fn origins_are_matched_by_scheme_host_and_port() {
        for (allowed, origin, expected) in [
            ("*", "ftp://odd", true),
            ("https://a.example", "https://a.example", true),
            ("https://a.example", "https://A.example:443", true),
            ("https://a.example", "http://a.example", false),
            ("https://a.example", "https://a.example:8443", false),
            ("https://a.example:8443", "https://a.example:8443", true),
            ("https://*.example", "https://a.b.example", true),
            ("https://*.example", "https://example", false),
            ("https://*.example", "https://aexample", false),
            ("https://*.example", "https://.example", false),
            ("http://*", "http://any.where", true),
            ("http://*", "https://any.where", false),
            ("https://a.example", "null", false),
        ] {
            let origin = HeaderValue::from_static(origin);
            assert_eq!(cors(&[allowed], false, "x").allows(&origin), expected, "{allowed} {origin:?}");
        }
        assert!(allowed("https://*a.example").is_err());
        assert!(allowed("a.example").is_err());
    }

    fn said(cors: &Cors, method: Method, headers: &[(&'static str, &'static str)]) -> Vec<String> {
        let headers = headers.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect();
        let said = match cors.meet(&method, &headers) {
            Met::Preflight(said) | Met::Actual(said) => said,
        };
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            let name = name.as_str();
            format!("{}: {}", name.strip_prefix("access-control-").unwrap_or(name), value.to_str().expect("text"))
        };
        let mut lines: Vec<String> = said.iter().map(line).collect();
        lines.sort();
        lines
    }

    #[test]
    fn a_star_is_not_said_where_credentials_are_about() {
        let asking = [
            ("origin", "https://a.example"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-a, x-b"),
        ];
        let shared = ["allow-origin: https://a.example", "max-age: 5", "vary: origin"];
        for (credentials, list, expected) in [
            (false, "*", vec!["allow-headers: *", "allow-methods: *", "expose-headers: *"]),
            (false, "DELETE", vec!["allow-headers: DELETE", "allow-methods: DELETE", "expose-headers: DELETE"]),
            (true, "*", vec!["allow-credentials: true", "allow-headers: x-a, x-b", "allow-methods: PUT"]),
        ] {
            let mut expected: Vec<&str> = expected.into_iter().chain(shared).collect();
            expected.sort_unstable();
            let cors = cors(&["*"], credentials, list);
            assert_eq!(said(&cors, Method::OPTIONS, &asking), expected, "{credentials} {list}");
        }
        let open = cors(&["*"], false, "*");
        let plain = [("origin", "https://a.example")];
        let expected = ["allow-origin: https://a.example", "expose-headers: *", "vary: origin"];
        assert_eq!(said(&open, Method::GET, &plain), expected);
        let with_cookie = [("origin", "https://a.example"), ("cookie", "a=b")];
        assert_eq!(said(&open, Method::GET, &with_cookie), ["allow-origin: https://a.example", "vary: origin"]);
        // Who is not allowed, or is of no other origin, is told nothing; caches are, that others are told more.
        let closed = cors(&["https://b.example"], true, "*");
        assert_eq!(said(&closed, Method::OPTIONS, &asking), ["vary: origin"]);
        assert_eq!(said(&closed, Method::GET, &plain), ["vary: origin"]);
        assert_eq!(said(&closed, Method::GET, &[]), ["vary: origin"]);
    }
}
