//! The downward API: a Pod's own fields and its containers' resources, as environment values or files.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Where all Pods of a node of plain processes are.
pub(crate) const ADDRESS: &str = "127.0.0.1";

/// The value of a field path; `None` when it is none that the downward API has.
pub(crate) fn field(pod: &Pod, path: &str) -> Option<String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let keyed = |name: &str| path.strip_prefix(name)?.strip_prefix("['")?.strip_suffix("']").map(str::to_owned);
    if let Some(key) = keyed("metadata.labels") {
        return Some(meta.labels.as_ref().and_then(|l| l.get(&key).cloned()).unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations") {
        return Some(meta.annotations.as_ref().and_then(|a| a.get(&key).cloned()).unwrap_or_default());
    }
    match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => Some(lines(meta.labels.iter().flatten())),
        "metadata.annotations" => Some(lines(meta.annotations.iter().flatten())),
        "spec.nodeName" => Some(spec.and_then(|s| s.node_name.clone()).unwrap_or_default()),
        "spec.serviceAccountName" => {
            Some(spec.and_then(|s| s.service_account_name.clone()).unwrap_or_else(|| "default".to_owned()))
        }
        "spec.restartPolicy" => spec.and_then(|s| s.restart_policy.clone()),
        "status.hostIP" | "status.hostIPs" | "status.podIP" | "status.podIPs" => Some(ADDRESS.to_owned()),
        _ => None,
    }
}

/// Labels and annotations as a downward API file shows them.
fn lines<'a>(entries: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    entries.map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join("\n")
}

/// A container's request or limit, in units of the divisor, rounded up.
pub(crate) fn resource(pod: &Pod, own: Option<&Container>, selector: &ResourceFieldSelector) -> Option<String> {
    let container = match &selector.container_name {
        Some(name) => {
            let spec = pod.spec.as_ref()?;
            spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == *name)?
        }
        None => own?,
    };
    let (which, resource) = selector.resource.split_once('.')?;
    let resources = container.resources.as_ref();
    let (limits, requests) = (resources.and_then(|r| r.limits.as_ref()), resources.and_then(|r| r.requests.as_ref()));
    let set = match which {
        "limits" => limits.and_then(|l| l.get(resource)),
        "requests" => requests.and_then(|r| r.get(resource)).or_else(|| limits.and_then(|l| l.get(resource))),
        _ => return None,
    };
    let value = match (set, which, resource) {
        (Some(quantity), _, _) => milli(quantity)?,
        // Without a limit, the machine is the limit.
        (None, "limits", "cpu") => i128::from(crate::machine::cpus()) * 1000,
        (None, "limits", "memory") => i128::from(crate::machine::memory()) * 1000,
        _ => 0,
    };
    let divisor = selector.divisor.as_ref().and_then(milli).filter(|d| *d > 0).unwrap_or(1000);
    Some(((value + divisor - 1) / divisor).to_string())
}

/// A quantity in thousandths.
pub(crate) fn milli(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (numerator, denominator): (i128, i128) = match suffix {
        "" => (1000, 1),
        "m" => (1, 1),
        "u" => (1, 1000),
        "n" => (1, 1_000_000),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1000 << 10, 1),
        "Mi" => (1000 << 20, 1),
        "Gi" => (1000 << 30, 1),
        "Ti" => (1000 << 40, 1),
        "Pi" => (1000 << 50, 1),
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = &fraction[..fraction.len().min(9)];
    let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (top, bottom) = (digits.checked_mul(numerator)?, scale * denominator);
    Some((top + bottom - 1) / bottom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (text, expected) in [
            ("1", Some(1000)),
            ("250m", Some(250)),
            ("0.5", Some(500)),
            ("64Mi", Some(67_108_864_000)),
            ("2k", Some(2_000_000)),
            ("x", None),
        ] {
            assert_eq!(milli(&Quantity(text.to_owned())), expected, "{text}");
        }
    }
}
