//! The Service `kube-dns`, which gives the DNS server its address.

use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use serde_json::json;

use super::{NAME, NAMESPACE, is_own};
use crate::error::InstallError;

/// Makes the Service where there is none, at `wanted` if that is free, and tells its address. None where the Service is somebody else's.
///
/// # Errors
///
/// When the API refuses.
pub async fn install(client: Client, wanted: Ipv4Addr) -> Result<Option<IpAddr>, InstallError> {
    let api: Api<Service> = Api::namespaced(client, NAMESPACE);
    let failed = |verb, source: Error| InstallError::Request {
        verb,
        kind: "Service",
        name: format!("{NAMESPACE}/{NAME}"),
        source: Box::new(source),
    };
    let service = match api.get_opt(NAME).await.map_err(|source| failed("get", source))? {
        Some(service) => service,
        None => match api.create(&PostParams::default(), &service(Some(wanted))?).await {
            // Another Service has had that address from before there was DNS.
            Err(Error::Api(status)) if status.code == 422 => {
                let made = api.create(&PostParams::default(), &service(None)?).await;
                made.map_err(|source| failed("create", source))?
            }
            made => made.map_err(|source| failed("create", source))?,
        },
    };
    if !is_own(&service) {
        return Ok(None);
    }
    Ok(service.spec.and_then(|spec| spec.cluster_ip?.parse().ok()))
}

fn service(address: Option<Ipv4Addr>) -> Result<Service, InstallError> {
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 53, "targetPort": 53, "protocol": protocol});
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE,
            "labels": {"k8s-app": "kube-dns"},
        },
        "spec": {"ports": [port("dns", "UDP"), port("dns-tcp", "TCP")]},
    });
    if let Some(address) = address {
        object["spec"]["clusterIP"] = json!(address);
    }
    serde_json::from_value(object).map_err(|source| InstallError::Encode { name: NAME.to_owned(), source })
}
