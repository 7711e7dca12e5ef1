//! Services of the platform's own, which give its listeners their addresses.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use resources::names::SYSTEM_NAMESPACE;
use serde_json::{Value, json};

use crate::error::InstallError;

/// Makes a Service without a selector in the platform's namespace where there is none, at `wanted` if that is free; what is
/// there already is left as it is. Returns it.
pub(crate) async fn ensure(
    client: Client,
    name: &str,
    ports: &Value,
    wanted: Option<Ipv4Addr>,
) -> Result<Service, InstallError> {
    let api: Api<Service> = Api::namespaced(client, SYSTEM_NAMESPACE);
    let failed = |verb, source: Error| InstallError::Request {
        verb,
        kind: "Service",
        name: format!("{SYSTEM_NAMESPACE}/{name}"),
        source: Box::new(source),
    };
    if let Some(service) = api.get_opt(name).await.map_err(|source| failed("get", source))? {
        return Ok(service);
    }
    let made = match api.create(&PostParams::default(), &service(name, ports, wanted)?).await {
        // Another Service has had that address from before.
        Err(Error::Api(status)) if status.code == 422 && wanted.is_some() => {
            api.create(&PostParams::default(), &service(name, ports, None)?).await
        }
        made => made,
    };
    made.map_err(|source| failed("create", source))
}

fn service(name: &str, ports: &Value, address: Option<Ipv4Addr>) -> Result<Service, InstallError> {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": SYSTEM_NAMESPACE, "labels": { "k8s-app": name } },
        "spec": { "ports": ports },
    });
    if let Some(address) = address {
        object["spec"]["clusterIP"] = json!(address);
    }
    serde_json::from_value(object).map_err(|source| InstallError::Encode { name: name.to_owned(), source })
}
