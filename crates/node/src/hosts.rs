//! The hosts file of a Pod: the names of Services before the machine's own.
//!
//! It is rewritten in place when Services change, since programs see it through a mount of the file itself.

use std::fmt::Write as _;
use std::io::{self, Seek, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};

use crate::env::service_address;

/// The text of a Pod's hosts file.
pub(crate) fn text(pod: &Pod, own: IpAddr, services: &[Arc<Service>], machine: &str) -> String {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut out = String::from("# Services of this Coracle, then the machine's own names.\n");
    let spec = pod.spec.as_ref();
    let hostname = spec.and_then(|s| s.hostname.as_deref()).or(pod.metadata.name.as_deref()).unwrap_or_default();
    let _ = writeln!(out, "{own}\t{hostname}");
    for alias in spec.iter().flat_map(|s| s.host_aliases.iter().flatten()) {
        let _ =
            writeln!(out, "{}\t{}", alias.ip, alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t"));
    }
    let mut lines: Vec<String> = services.iter().filter_map(|s| line(s, namespace)).collect();
    lines.sort();
    out.extend(lines);
    out.push_str(machine);
    out
}

fn line(service: &Service, own: &str) -> Option<String> {
    let address = service_address(service)?;
    let name = service.metadata.name.as_deref()?;
    let namespace = service.metadata.namespace.as_deref()?;
    let domain = resources::names::DOMAIN;
    let mut line = format!("{address}\t{name}.{namespace}.svc.{domain}\t{name}.{namespace}.svc\t{name}.{namespace}");
    if namespace == own {
        let _ = write!(line, "\t{name}");
    }
    line.push('\n');
    Some(line)
}

/// Writes the file if it says something else.
pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let mut file = std::fs::OpenOptions::new().create(true).write(true).truncate(false).open(path)?;
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn services_come_by_all_their_names() {
        let pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "shop"},
            "spec": {"containers": [], "hostAliases": [{"ip": "10.1.1.1", "hostnames": ["a", "b"]}]}}))
        .expect("a pod");
        let service = |namespace: &str, ip: &str| {
            Arc::new(
                serde_json::from_value(
                    json!({"metadata": {"name": "users", "namespace": namespace}, "spec": {"clusterIP": ip}}),
                )
                .expect("a service"),
            )
        };
        let text = text(
            &pod,
            Ipv4Addr::LOCALHOST.into(),
            &[service("shop", "127.96.0.2"), service("b", "127.96.0.3"), service("c", "None")],
            "127.0.0.1 localhost\n",
        );
        assert_eq!(
            text.lines().skip(1).collect::<Vec<_>>(),
            [
                "127.0.0.1\tp",
                "10.1.1.1\ta\tb",
                "127.96.0.2\tusers.shop.svc.cluster.local\tusers.shop.svc\tusers.shop\tusers",
                "127.96.0.3\tusers.b.svc.cluster.local\tusers.b.svc\tusers.b",
                "127.0.0.1 localhost",
            ]
        );
    }

    #[test]
    fn the_file_stays_the_same_file() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hosts");
        write(&path, "a long first text").expect("written");
        let before = path.metadata().expect("there").ino();
        write(&path, "short").expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "short");
        assert_eq!(path.metadata().expect("there").ino(), before);
    }
}
