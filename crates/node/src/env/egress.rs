//! The variables by which a Pod's programs go out through the mesh, where it asks for that.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use resources::names::{DOMAIN, EGRESS_ANNOTATION, EGRESS_PORT, EGRESS_SERVICE, SYSTEM_NAMESPACE};

use super::services::address;

/// How many Services are named in `NO_PROXY`: an environment is no place for more.
const NAMED: usize = 500;

/// The variables; none where the Pod does not ask, or there is no way out. Services are asked directly, by whichever name.
pub(crate) fn variables(pod: &Pod, services: &[Arc<Service>]) -> BTreeMap<String, String> {
    let asks = pod.metadata.annotations.as_ref().and_then(|all| all.get(EGRESS_ANNOTATION));
    let key = |service: &Service| {
        let of = |part: &Option<String>| part.clone().unwrap_or_default();
        (of(&service.metadata.namespace), of(&service.metadata.name))
    };
    let exit = services.iter().find(|s| key(s) == (SYSTEM_NAMESPACE.to_owned(), EGRESS_SERVICE.to_owned()));
    let Some(exit) = exit.and_then(|exit| address(exit)).filter(|_| asks.is_some_and(|how| how == "proxy")) else {
        return BTreeMap::new();
    };
    let own = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut direct: Vec<String> = ["localhost", "127.0.0.0/8", "::1"].map(str::to_owned).into();
    direct.extend([format!(".{DOMAIN}"), ".svc".to_owned()]);
    let mut named: Vec<String> = services
        .iter()
        .take(NAMED)
        .map(|service| key(service))
        .flat_map(|(namespace, name)| {
            let short = (namespace == own).then(|| name.clone());
            short.into_iter().chain([format!("{name}.{namespace}")])
        })
        .collect();
    named.sort();
    direct.append(&mut named);
    let (url, direct) = (format!("http://{exit}:{EGRESS_PORT}"), direct.join(","));
    // Programs do not agree on the letter case.
    let upper = [("HTTP_PROXY", &url), ("HTTPS_PROXY", &url), ("NO_PROXY", &direct)];
    upper
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), name.to_ascii_lowercase()].map(|name| (name, value.clone())))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_that_asks_goes_out_by_the_proxy_and_to_services_directly() {
        let service = |namespace: &str, name: &str, ip: &str| {
            let object = json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": ip}});
            Arc::new(serde_json::from_value::<Service>(object).expect("a service"))
        };
        let services = [
            service("kube-system", "egress", "127.96.0.11"),
            service("shop", "users", "127.96.0.2"),
            service("bank", "pay", "127.96.0.3"),
        ];
        let pod = |how: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "shop", "annotations": how}}))
                .expect("a pod")
        };
        let asks = pod(json!({"mesh.coracle.dev/egress": "proxy"}));
        let env = variables(&asks, &services);
        assert_eq!(env.len(), 6);
        assert_eq!(env["https_proxy"], "http://127.96.0.11:3128");
        assert_eq!(
            env["NO_PROXY"],
            "localhost,127.0.0.0/8,::1,.cluster.local,.svc,egress.kube-system,pay.bank,users,users.shop"
        );
        assert!(variables(&pod(json!({})), &services).is_empty());
        assert!(variables(&pod(json!({"mesh.coracle.dev/egress": "none"})), &services).is_empty());
        assert!(variables(&asks, &services[1..]).is_empty());
    }
}
