//! The kubeconfig of the administrator, as every Kubernetes client reads it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The URL under which the server's certificate is good.
pub(crate) fn url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("https://{}", SocketAddr::new(ip, address.port()))
}

/// The file's text. JSON is YAML, and needs no quoting rules of our own.
pub(crate) fn render(address: SocketAddr, ca_pem: &str, token: &str) -> String {
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "coracle", "cluster": {
            "server": url(address), "certificate-authority-data": STANDARD.encode(ca_pem) } }],
        "users": [{ "name": "coracle", "user": { "token": token } }],
        "contexts": [{ "name": "coracle", "context": {
            "cluster": "coracle", "user": "coracle", "namespace": "default" } }],
        "current-context": "coracle",
        "preferences": {},
    });
    format!("{config:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_reachable_ones() {
        for (address, expected) in [
            ("127.0.0.1:6443", "https://127.0.0.1:6443"),
            ("0.0.0.0:1", "https://127.0.0.1:1"),
            ("[::]:2", "https://[::1]:2"),
            ("10.1.2.3:4", "https://10.1.2.3:4"),
        ] {
            assert_eq!(url(address.parse().expect("an address")), expected);
        }
    }
}
