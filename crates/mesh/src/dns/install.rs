//! The Service `kube-dns`, which gives the DNS server its address.

use std::net::{IpAddr, Ipv4Addr};

use kube::Client;
use serde_json::json;

use super::{NAME, is_own};
use crate::error::InstallError;
use crate::own_service;

/// Makes the Service where there is none, at `wanted` if that is free, and tells its address. None where the Service is somebody else's.
///
/// # Errors
///
/// When the API refuses.
pub async fn install(client: Client, wanted: Ipv4Addr) -> Result<Option<IpAddr>, InstallError> {
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 53, "targetPort": 53, "protocol": protocol});
    let ports = json!([port("dns", "UDP"), port("dns-tcp", "TCP")]);
    let service = own_service::ensure(client, NAME, &ports, Some(wanted)).await?;
    if !is_own(&service) {
        return Ok(None);
    }
    Ok(service.spec.and_then(|spec| spec.cluster_ip?.parse().ok()))
}
