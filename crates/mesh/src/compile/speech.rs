//! What a Service's port speaks, as far as it says: by `appProtocol`, else by its name, else by a number that is well known.

use k8s_openapi::api::core::v1::ServicePort;

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speech {
    /// HTTP, of whichever version.
    Http,
    /// HTTP/2 by prior knowledge.
    H2c,
    /// HTTP/1.1 that becomes a WebSocket.
    WebSocket,
    /// Something that is not HTTP.
    Tcp,
    /// TLS, and who knows what within.
    Tls,
    /// It does not say: HTTP if it looks like it, else bytes.
    Unknown,
}

/// Names of protocols, as `appProtocol` and as what port names begin with.
const NAMES: &[(&str, Speech)] = &[
    ("http", Speech::Http),
    ("kubernetes.io/h2c", Speech::H2c),
    ("h2c", Speech::H2c),
    ("http2", Speech::H2c),
    ("grpc", Speech::H2c),
    ("kubernetes.io/ws", Speech::WebSocket),
    ("ws", Speech::WebSocket),
    ("kubernetes.io/wss", Speech::Tls),
    ("wss", Speech::Tls),
    ("https", Speech::Tls),
    ("tls", Speech::Tls),
    ("tcp", Speech::Tcp),
    ("amqp", Speech::Tcp),
    ("ftp", Speech::Tcp),
    ("kafka", Speech::Tcp),
    ("mongo", Speech::Tcp),
    ("mqtt", Speech::Tcp),
    ("mysql", Speech::Tcp),
    ("nats", Speech::Tcp),
    ("postgres", Speech::Tcp),
    ("postgresql", Speech::Tcp),
    ("redis", Speech::Tcp),
    ("smtp", Speech::Tcp),
    ("ssh", Speech::Tcp),
];

/// Ports of protocols in which the server speaks first, so that waiting for the client's first bytes would only cost time.
const SERVER_FIRST: &[i32] = &[21, 22, 25, 110, 143, 587, 3306, 4222];

/// What `port` speaks.
pub(super) fn speech(port: &ServicePort) -> Speech {
    if let Some(protocol) = &port.app_protocol {
        let named = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(protocol));
        // A protocol that is named but not known is not HTTP for sure; it is looked at like one that is not named.
        return named.map_or(Speech::Unknown, |(_, speech)| *speech);
    }
    let name = port.name.as_deref().unwrap_or_default();
    if name == "grpc-web" || name.starts_with("grpc-web-") {
        return Speech::Http;
    }
    let first = name.split('-').next().unwrap_or_default();
    if let Some((_, speech)) = NAMES.iter().find(|(name, _)| *name == first) {
        return *speech;
    }
    if SERVER_FIRST.contains(&port.port) { Speech::Tcp } else { Speech::Unknown }
}

/// `TCP`, `UDP` or `SCTP`.
pub(super) fn transport(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_say_what_they_speak() {
        for (app_protocol, name, number, expected) in [
            (None, None, 80, Speech::Unknown),
            (None, Some("http"), 80, Speech::Http),
            (None, Some("http-admin"), 80, Speech::Http),
            (None, Some("httpbin"), 80, Speech::Unknown),
            (None, Some("grpc"), 80, Speech::H2c),
            (None, Some("grpc-web"), 80, Speech::Http),
            (None, Some("https"), 443, Speech::Tls),
            (None, Some("tcp-cache"), 80, Speech::Tcp),
            (None, Some("mysql"), 80, Speech::Tcp),
            (None, Some("db"), 3306, Speech::Tcp),
            (Some("HTTP"), Some("tcp"), 80, Speech::Http),
            (Some("kubernetes.io/h2c"), Some("http"), 80, Speech::H2c),
            (Some("kubernetes.io/ws"), None, 80, Speech::WebSocket),
            (Some("example.com/own"), Some("http"), 80, Speech::Unknown),
        ] {
            let port = ServicePort {
                app_protocol: app_protocol.map(str::to_owned),
                name: name.map(str::to_owned),
                port: number,
                ..ServicePort::default()
            };
            assert_eq!(speech(&port), expected, "{app_protocol:?} {name:?} {number}");
        }
    }
}
