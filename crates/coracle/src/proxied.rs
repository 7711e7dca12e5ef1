//! Whether the way to an API server leads through a proxy: as kubectl has it, so that one kubeconfig and one environment serve both.
//!
//! Invariants: what a kubeconfig says of its cluster (`proxy-url`) goes before the environment and holds for every address; from the
//! environment (`HTTPS_PROXY`, `HTTP_PROXY`), nothing on this machine and nothing that `NO_PROXY` names goes through a proxy.
//! It must not know: what is asked of the API server.

use http::Uri;
use std::net::IpAddr;

/// The proxy for an API server's URL, if any.
///
/// # Errors
/// When what is said to be a proxy is no URL of one.
pub(crate) fn proxy_for(
    server: &Uri,
    of_cluster: Option<&str>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Uri>, String> {
    if let Some(url) = of_cluster {
        return parsed(url, "proxy-url of the kubeconfig").map(Some);
    }
    let either = |name: &str| variable(name).or_else(|| variable(&name.to_lowercase())).filter(|text| !text.is_empty());
    let name = if server.scheme_str() == Some("http") { "HTTP_PROXY" } else { "HTTPS_PROXY" };
    let Some(url) = either(name) else { return Ok(None) };
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = server.port_u16().unwrap_or(if name == "HTTP_PROXY" { 80 } else { 443 });
    let none = either("NO_PROXY").unwrap_or_default();
    if is_here(host) || none.split(',').any(|entry| spares(entry.trim(), host, port)) {
        return Ok(None);
    }
    parsed(&url, name).map(Some)
}

fn parsed(url: &str, from: &str) -> Result<Uri, String> {
    // A bare host and port is an HTTP proxy.
    let whole = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let bad =
        |why: &str| format!("{from} names the proxy {}, which {why}; http, https and socks5 are known", host_of(url));
    let uri: Uri = whole.parse().map_err(|_| bad("is no URL"))?;
    match uri.scheme_str() {
        Some("http" | "https" | "socks5") => Ok(uri),
        _ => Err(bad("is of no known kind")),
    }
}

/// Without what may be a password.
fn host_of(url: &str) -> &str {
    url.rsplit('@').next().unwrap_or(url)
}

fn is_here(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether an entry of `NO_PROXY` names a host: `*`, an address, a network, a domain with or without what is below it.
fn spares(entry: &str, host: &str, port: u16) -> bool {
    if entry.is_empty() {
        return false;
    }
    if entry == "*" {
        return true;
    }
    if let Some((network, bits)) = entry.split_once('/') {
        return inside(network, bits, host).unwrap_or(false);
    }
    let (name, wanted) = match entry.rsplit_once(':') {
        Some((name, number)) if !name.contains(':') || name.ends_with(']') => (name, number.parse::<u16>().ok()),
        _ => (entry, None),
    };
    if wanted.is_some_and(|wanted| wanted != port) {
        return false;
    }
    let name = name.trim_matches(['[', ']']).to_lowercase();
    if let Ok(address) = name.parse::<IpAddr>() {
        return host.parse::<IpAddr>().is_ok_and(|ip| ip == address);
    }
    let host = host.to_lowercase();
    let below = name.strip_prefix('*').unwrap_or(&name);
    match below.strip_prefix('.') {
        Some(domain) => host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')),
        None => host == below || host.strip_suffix(below).is_some_and(|rest| rest.ends_with('.')),
    }
}

fn inside(network: &str, bits: &str, host: &str) -> Option<bool> {
    let bits: u32 = bits.parse().ok()?;
    Some(match (network.parse().ok()?, host.parse().ok()?) {
        (IpAddr::V4(network), IpAddr::V4(ip)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            network.to_bits() & mask == ip.to_bits() & mask
        }
        (IpAddr::V6(network), IpAddr::V6(ip)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            network.to_bits() & mask == ip.to_bits() & mask
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(server: &str, cluster: Option<&str>, environment: &[(&str, &str)]) -> Result<Option<String>, String> {
        let variable = |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        proxy_for(&server.parse().unwrap(), cluster, variable).map(|uri| uri.map(|uri| uri.to_string()))
    }

    #[test]
    fn what_is_on_this_machine_needs_no_proxy() {
        let set = [("HTTPS_PROXY", "http://proxy:3128")];
        for server in ["https://127.0.0.1:6443", "https://localhost:6443", "https://[::1]:6443"] {
            assert_eq!(of(server, None, &set), Ok(None), "{server}");
        }
        assert_eq!(of("https://10.0.0.1:6443", None, &set).unwrap().as_deref(), Some("http://proxy:3128/"));
        assert_eq!(of("http://10.0.0.1:8080", None, &set), Ok(None), "that is what HTTP_PROXY is for");
        let set = [("https_proxy", "proxy:3128")];
        assert_eq!(of("https://10.0.0.1", None, &set).unwrap().as_deref(), Some("http://proxy:3128/"));
        // A cluster's own proxy is meant wherever the cluster is.
        let own = of("https://127.0.0.1:6443", Some("socks5://a:1080"), &[]).unwrap();
        assert_eq!(own.as_deref(), Some("socks5://a:1080/"));
    }

    #[test]
    fn exceptions_are_hosts_domains_networks_and_ports() {
        let cases = [
            ("*", "https://a.example.com", true),
            ("example.com", "https://a.example.com", true),
            ("example.com", "https://example.com", true),
            ("example.com", "https://badexample.com", false),
            (".example.com", "https://example.com", false),
            (".example.com", "https://A.Example.com", true),
            ("*.example.com", "https://a.example.com", true),
            ("10.0.0.0/8", "https://10.9.8.7:6443", true),
            ("10.0.0.0/8", "https://11.0.0.1", false),
            ("0.0.0.0/0", "https://11.0.0.1", true),
            ("fd00::/8", "https://[fd00::1]:6443", true),
            ("10.0.0.1", "https://10.0.0.1", true),
            ("10.0.0.1:6443", "https://10.0.0.1:6443", true),
            ("10.0.0.1:6443", "https://10.0.0.1", false),
            (" x.org , example.com", "https://example.com", true),
            ("", "https://example.com", false),
        ];
        for (none, server, spared) in cases {
            let found = of(server, None, &[("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", none)]).unwrap();
            assert_eq!(found.is_none(), spared, "{none:?} {server}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_said_without_its_password() {
        let error = of("https://a", Some("ftp://mia:secret@p:1"), &[]).unwrap_err();
        assert!(error.contains("p:1") && !error.contains("secret"), "{error}");
    }
}
