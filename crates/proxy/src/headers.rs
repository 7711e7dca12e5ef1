//! Headers that belong to one hop, and those that tell the next hop about this one.
//!
//! Invariants: nothing that concerns a single connection is passed on; what a client may not say is taken out before the proxy
//! says it; a request always leaves with one host and one id.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{Version, request};

use crate::identity::Identity;
use crate::snapshot::Forwarded;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Headers whose values are different in every request.
pub(crate) const UNIQUE: [HeaderName; 2] = [REQUEST_ID, HeaderName::from_static("traceparent")];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Who calls, in Envoy's form: `URI=` and a SPIFFE ID.
const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// The tokens of a list header, in no particular letter case.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// The protocol that a request or an answer wants to change to, if it says so properly.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let upgrade = headers.get(UPGRADE)?;
    let asked = tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    // An upgrade to HTTP/2 may be ignored, and is: the client then goes on with HTTP/1.1.
    (asked && !upgrade.as_bytes().eq_ignore_ascii_case(b"h2c")).then(|| upgrade.clone())
}

/// Whether a header concerns one connection only.
fn of_one_hop(name: &HeaderName) -> bool {
    matches!(name.as_str(), "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade")
}

/// Removes what concerns one connection only.
pub(crate) fn strip(headers: &mut HeaderMap) {
    // One look at the names instead of one for each: most heads have none of them.
    if !headers.keys().any(of_one_hop) {
        return;
    }
    if headers.contains_key(CONNECTION) {
        let listed: Vec<HeaderName> = tokens(headers, &CONNECTION)
            // Framing and host are not for the client to take out.
            .filter(|token| !["close", "keep-alive", "upgrade", "te", "host", "content-length"].contains(token))
            .filter_map(|token| HeaderName::try_from(token).ok())
            .filter(|name| name != HOST && name != CONTENT_LENGTH)
            .collect();
        for name in listed {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
}

/// Makes a head lawful in HTTP/2, where what concerns one connection has no place. It is gone already unless a filter has put it in.
pub(crate) fn make_lawful(headers: &mut HeaderMap) {
    strip(headers);
    if headers.get(TE).is_some_and(|te| te != "trailers") {
        headers.remove(TE);
    }
}

/// How long an endpoint says that it keeps a connection, in seconds.
pub(crate) fn keep_alive(headers: &HeaderMap) -> Option<u64> {
    headers.keys().find(|name| of_one_hop(name))?;
    timeout(headers.get(KEEP_ALIVE)?.to_str().ok()?)
}

/// The same, of what the header says.
pub(crate) fn timeout(hint: &str) -> Option<u64> {
    hint.split(',').find_map(|part| part.trim().strip_prefix("timeout=")?.parse().ok())
}

/// The id of a request: the client's, where it is one, or a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    match headers.get(REQUEST_ID) {
        Some(id) if is_id(id.as_bytes()) => id.clone(),
        _ => new_id(),
    }
}

/// Whether a client's id is one that may be passed on.
pub(crate) fn is_id(said: &[u8]) -> bool {
    (1..=128).contains(&said.len()) && said.iter().all(u8::is_ascii_graphic)
}

/// Says in an answer by which id its request is found, where nothing else says so.
pub(crate) fn name(headers: &mut HeaderMap, id: &HeaderValue) {
    headers.entry(REQUEST_ID).or_insert_with(|| {
        let mut id = id.clone();
        // What is new in every answer has no place in the tables of HTTP/2.
        id.set_sensitive(true);
        id
    });
}

/// Each byte in hexadecimal digits.
pub(crate) const PAIRS: [[u8; 2]; 256] = {
    let (digits, mut pairs, mut byte) = (b"0123456789abcdef", [[0; 2]; 256], 0);
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

/// An id that nobody has.
pub(crate) fn new_id() -> HeaderValue {
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(fastrand::u128(..).to_le_bytes()) {
        pair.copy_from_slice(&PAIRS[usize::from(byte)]);
    }
    // Hexadecimal digits are always a valid value.
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0"))
}

/// Who calls, as the next hop is told.
pub(crate) struct From<'a> {
    pub(crate) address: &'a HeaderValue,
    pub(crate) scheme: &'static str,
    /// The host that the client asked for.
    pub(crate) host: Option<HeaderValue>,
    pub(crate) id: &'a HeaderValue,
    pub(crate) believed: Forwarded,
}

/// Makes a request's headers those of the next hop, apart from what filters say and from what it is told of the caller.
pub(crate) fn prepare(parts: &mut request::Parts) {
    let headers = &mut parts.headers;
    if parts.version == Version::HTTP_2 {
        join_cookies(headers);
    }
    let goes = |(name, value): (&HeaderName, &HeaderValue)| match name.as_str() {
        "expect" | "http2-settings" => true,
        "te" => value != "trailers",
        _ => of_one_hop(name),
    };
    if !headers.iter().any(goes) {
        return;
    }
    let trailers = headers.contains_key(TE) && tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    strip(headers);
    headers.remove(EXPECT);
    headers.remove(HTTP2_SETTINGS);
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// How a backend is told who calls.
pub(crate) fn vouched(identity: &Identity) -> Option<HeaderValue> {
    // A SPIFFE ID has no character that would have to be quoted.
    let plain = identity.id.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b';' | b',' | b'"' | b'='));
    HeaderValue::try_from(format!("URI={}", identity.id)).ok().filter(|_| plain)
}

/// Says who calls, and nothing else about it: not what the client said, nor what a route's filters did.
pub(crate) fn vouch(headers: &mut HeaderMap, told: Option<&HeaderValue>) {
    match told {
        Some(told) => drop(headers.insert(CLIENT_CERT, told.clone())),
        None => drop(headers.remove(CLIENT_CERT)),
    }
}

/// HTTP/2 may send cookies apart; HTTP/1.1 must have them together.
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    if cookies.next().is_some() && cookies.next().is_some() {
        let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
            headers.insert(COOKIE, joined);
        }
    }
}

/// Tells the next hop who calls.
pub(crate) fn tell(headers: &mut HeaderMap, from: &From<'_>) {
    let scheme = HeaderValue::from_static(from.scheme);
    match from.believed {
        Forwarded::Replace => {
            headers.remove(FORWARDED);
            headers.insert(FORWARDED_FOR, from.address.clone());
            headers.insert(FORWARDED_PROTO, scheme);
            match &from.host {
                Some(host) => headers.insert(FORWARDED_HOST, host.clone()),
                None => headers.remove(FORWARDED_HOST),
            };
        }
        Forwarded::Append => {
            let chain: Vec<&[u8]> = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
            let chain = if chain.is_empty() {
                from.address.clone()
            } else {
                let all = [chain.as_slice(), &[from.address.as_bytes()]].concat().join(&b", "[..]);
                HeaderValue::from_bytes(&all).unwrap_or_else(|_| from.address.clone())
            };
            headers.insert(FORWARDED_FOR, chain);
            headers.entry(FORWARDED_PROTO).or_insert(scheme);
            if let Some(host) = &from.host {
                headers.entry(FORWARDED_HOST).or_insert_with(|| host.clone());
            }
            if headers.contains_key(FORWARDED) {
                append_forwarded(headers, from);
            }
        }
    }
    headers.insert(REQUEST_ID, from.id.clone());
}

/// Adds this hop to a `Forwarded` header that is there.
fn append_forwarded(headers: &mut HeaderMap, from: &From<'_>) {
    let address = from.address.to_str().unwrap_or("unknown");
    let node = if address.contains(':') { format!("\"[{address}]\"") } else { address.to_owned() };
    let host = from.host.as_ref().and_then(|host| host.to_str().ok());
    let host = host.map(|host| format!(";host=\"{host}\"")).unwrap_or_default();
    if let Ok(element) = HeaderValue::try_from(format!("for={node}{host};proto={}", from.scheme)) {
        headers.append(FORWARDED, element);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    fn prepared(pairs: &[(&'static str, &'static str)], believed: Forwarded) -> HeaderMap {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        for (name, value) in pairs {
            parts.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let (address, id) = (HeaderValue::from_static("10.0.0.9"), HeaderValue::from_static("id"));
        let host = Some(HeaderValue::from_static("a.test"));
        prepare(&mut parts);
        tell(&mut parts.headers, &From { address: &address, scheme: "http", host, id: &id, believed });
        parts.headers
    }

    #[test]
    fn hop_by_hop_headers_and_those_listed_are_removed() {
        let mut headers = map(&[
            ("connection", "close, X-Secret ,host,content-length"),
            ("x-secret", "1"),
            ("host", "h"),
            ("content-length", "3"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "x"),
            ("x-kept", "1"),
        ]);
        assert_eq!(keep_alive(&headers), Some(5));
        strip(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "host", "x-kept"]);
    }

    #[test]
    fn a_stranger_is_not_believed() {
        let said = [("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https"), ("forwarded", "for=x")];
        let headers = prepared(&said, Forwarded::Replace);
        assert_eq!(headers["x-forwarded-for"], "10.0.0.9");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "a.test");
        assert!(!headers.contains_key("forwarded"));
    }

    #[test]
    fn a_friend_is_continued() {
        let said = [("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https"), ("forwarded", "for=x")];
        let headers = prepared(&said, Forwarded::Append);
        assert_eq!(headers["x-forwarded-for"], "1.2.3.4, 10.0.0.9");
        assert_eq!(headers["x-forwarded-proto"], "https");
        let forwarded: Vec<_> = headers.get_all("forwarded").iter().collect();
        assert_eq!(forwarded, ["for=x", "for=10.0.0.9;host=\"a.test\";proto=http"]);
    }

    #[test]
    fn upgrades_are_only_taken_when_meant() {
        let wanted = |pairs: &[_]| upgrade(&map(pairs)).is_some();
        assert!(wanted(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]));
        assert!(!wanted(&[("upgrade", "websocket")]));
        assert!(!wanted(&[("connection", "upgrade"), ("upgrade", "h2c")]));
    }

    #[test]
    fn ids_are_kept_if_sane() {
        assert_eq!(request_id(&map(&[("x-request-id", "abc")])), "abc");
        assert_eq!(request_id(&map(&[("x-request-id", "a b")])).len(), 32);
        assert_ne!(request_id(&map(&[])), request_id(&map(&[])));
    }

    #[test]
    fn only_trailers_are_announced_and_nothing_expected() {
        let headers = prepared(&[("te", "gzip, trailers"), ("expect", "100-continue")], Forwarded::Replace);
        assert_eq!(headers["te"], "trailers");
        assert!(!headers.contains_key("expect"));
    }
}
