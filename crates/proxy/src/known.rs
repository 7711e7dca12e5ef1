//! Names of headers that mean something to the proxy, told apart without a table.
//!
//! Invariant: pure; letter case means nothing.

/// A name of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Accept,
    ClientCert,
    Connection,
    ContentLength,
    ContentType,
    Date,
    Expect,
    Forwarded,
    ForwardedFor,
    ForwardedHost,
    ForwardedProto,
    GrpcStatus,
    Host,
    Http2Settings,
    KeepAlive,
    ProxyConnection,
    RequestId,
    Te,
    TraceParent,
    TraceState,
    Trailer,
    TransferEncoding,
    Upgrade,
    /// Any other.
    Other,
}

/// Which name this is.
pub(crate) fn known(name: &[u8]) -> Known {
    let Some(first) = name.first() else { return Known::Other };
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    // Most names are told by these two.
    match (name.len(), first.to_ascii_lowercase()) {
        (2, b't') if is("te") => Known::Te,
        (4, b'h') if is("host") => Known::Host,
        (4, b'd') if is("date") => Known::Date,
        (6, b'a') if is("accept") => Known::Accept,
        (6, b'e') if is("expect") => Known::Expect,
        (7, b'u') if is("upgrade") => Known::Upgrade,
        (7, b't') if is("trailer") => Known::Trailer,
        (9, b'f') if is("forwarded") => Known::Forwarded,
        (10, b'c') if is("connection") => Known::Connection,
        (10, b'k') if is("keep-alive") => Known::KeepAlive,
        (10, b't') if is("tracestate") => Known::TraceState,
        (11, b't') if is("traceparent") => Known::TraceParent,
        (11, b'g') if is("grpc-status") => Known::GrpcStatus,
        (12, b'c') if is("content-type") => Known::ContentType,
        (12, b'x') if is("x-request-id") => Known::RequestId,
        (14, b'c') if is("content-length") => Known::ContentLength,
        (14, b'h') if is("http2-settings") => Known::Http2Settings,
        (15, b'x') if is("x-forwarded-for") => Known::ForwardedFor,
        (16, b'x') if is("x-forwarded-host") => Known::ForwardedHost,
        (16, b'p') if is("proxy-connection") => Known::ProxyConnection,
        (17, b'x') if is("x-forwarded-proto") => Known::ForwardedProto,
        (17, b't') if is("transfer-encoding") => Known::TransferEncoding,
        (23, b'x') if is("x-forwarded-client-cert") => Known::ClientCert,
        _ => Known::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_known_by_its_name_alone() {
        for (name, expected) in [
            ("accept", Known::Accept),
            ("x-forwarded-client-cert", Known::ClientCert),
            ("connection", Known::Connection),
            ("content-length", Known::ContentLength),
            ("content-type", Known::ContentType),
            ("date", Known::Date),
            ("expect", Known::Expect),
            ("forwarded", Known::Forwarded),
            ("x-forwarded-for", Known::ForwardedFor),
            ("x-forwarded-host", Known::ForwardedHost),
            ("x-forwarded-proto", Known::ForwardedProto),
            ("grpc-status", Known::GrpcStatus),
            ("host", Known::Host),
            ("http2-settings", Known::Http2Settings),
            ("keep-alive", Known::KeepAlive),
            ("proxy-connection", Known::ProxyConnection),
            ("x-request-id", Known::RequestId),
            ("te", Known::Te),
            ("traceparent", Known::TraceParent),
            ("tracestate", Known::TraceState),
            ("trailer", Known::Trailer),
            ("transfer-encoding", Known::TransferEncoding),
            ("upgrade", Known::Upgrade),
        ] {
            assert_eq!(known(name.as_bytes()), expected, "{name}");
            assert_eq!(known(name.to_ascii_uppercase().as_bytes()), expected, "{name}");
            for other in
                [format!("{name}x"), format!("x{name}"), name[1..].to_owned(), name.replacen(&name[..1], "q", 1)]
            {
                assert_eq!(known(other.as_bytes()), Known::Other, "{other}");
            }
        }
        assert_eq!(known(b""), Known::Other);
    }
}
