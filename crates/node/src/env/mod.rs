//! A container's environment: what it declares, what its Services are, and what this node adds; as pure functions of what
//! was looked up before.
//!
//! Nothing is inherited from Coracle but the few variables in [`HOST`]: a Pod's environment is what its manifest says.
//!
//! Precedence, lowest first: the host's few, the recipe's, Service variables, `PORT` and `VOLUME_`, `envFrom`, `env`.

mod downward;
mod egress;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, Service};

pub(crate) use downward::{ADDRESS, field, milli, resource};
pub(crate) use egress::variables as egress;
pub(crate) use rules::expand::expand;
pub(crate) use services::{Reached, address as service_address, services_for};

use crate::recipe::Recipe;

/// The variables of Coracle's own environment that programs get, where they are set.
pub(crate) const HOST: [&str; 9] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR"];

/// What a ConfigMap or Secret lookup gave; absence is remembered so that it can be told from "not asked".
#[derive(Clone, Debug, Default)]
pub(crate) struct Lookups {
    pub config_maps: BTreeMap<String, Option<ConfigMap>>,
    pub secrets: BTreeMap<String, Option<Secret>>,
}

/// The names that a container's environment refers to.
pub(crate) fn references(container: &Container) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for from in container.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    (maps, secrets)
}

/// All that an environment is made of.
pub(crate) struct Input<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub recipe: Option<&'a Recipe>,
    pub lookups: &'a Lookups,
    /// The Pod's namespace's Services and `kubernetes`.
    pub services: &'a [Service],
    pub reached: &'a dyn Reached,
    /// Container port to host port.
    pub ports: &'a BTreeMap<u16, u16>,
    /// The Pod's address.
    pub address: IpAddr,
    /// Where each volume lies on the host.
    pub volumes: &'a BTreeMap<String, PathBuf>,
    /// What of Coracle's own environment programs get.
    pub host: &'a BTreeMap<String, String>,
    /// What else the node adds.
    pub extra: &'a BTreeMap<String, String>,
}

/// Why an environment can't be made: what Kubernetes calls a CreateContainerConfigError.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct EnvError(pub(crate) String);

/// The whole environment.
pub(crate) fn build(input: &Input<'_>) -> Result<BTreeMap<String, String>, EnvError> {
    let mut env = input.host.clone();
    let name = input.pod.metadata.name.clone().unwrap_or_default();
    let hostname = input.pod.spec.as_ref().and_then(|s| s.hostname.clone()).unwrap_or(name);
    env.insert("HOSTNAME".to_owned(), hostname);
    let links = input.pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let namespace = input.pod.metadata.namespace.as_deref().unwrap_or("default");
    env.extend(services::variables(input.services, namespace, links, input.reached));
    env.extend(ports(input.container, input.ports));
    env.extend(input.volumes.iter().map(|(name, path)| (variable("VOLUME_", name), path.display().to_string())));
    env.extend(input.extra.clone());
    if let Some(recipe) = input.recipe {
        let written: Vec<_> =
            recipe.env.iter().map(|(k, v)| (k.clone(), expand(v, &|n| env.get(n).cloned()))).collect();
        env.extend(written);
    }
    from(input, &mut env)?;
    for var in input.container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (_, Some(_)) => value_from(input, var)?,
            (value, None) => Some(expand(value.as_deref().unwrap_or_default(), &|n| env.get(n).cloned())),
        };
        if let Some(value) = value {
            env.insert(var.name.clone(), value);
        }
    }
    Ok(env)
}

/// `PORT` and `PORT_<NAME>`.
fn ports(container: &Container, map: &BTreeMap<u16, u16>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for (at, port) in container.ports.iter().flatten().enumerate() {
        let Ok(number) = u16::try_from(port.container_port) else { continue };
        let host = map.get(&number).copied().unwrap_or(number).to_string();
        if at == 0 {
            env.insert("PORT".to_owned(), host.clone());
        }
        if let Some(name) = &port.name {
            env.insert(variable("PORT_", name), host);
        }
    }
    env
}

/// `VOLUME_` and `data-dir` to `VOLUME_DATA_DIR`.
pub(crate) fn variable(prefix: &str, name: &str) -> String {
    format!("{prefix}{}", name.to_ascii_uppercase().replace(['-', '.'], "_"))
}

fn from(input: &Input<'_>, env: &mut BTreeMap<String, String>) -> Result<(), EnvError> {
    for from in input.container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(source) = &from.config_map_ref {
            match input.lookups.config_maps.get(&source.name).and_then(Option::as_ref) {
                Some(map) => env.extend(map.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), v.clone()))),
                None if source.optional == Some(true) => {}
                None => return Err(missing("configmap", &source.name)),
            }
        }
        if let Some(source) = &from.secret_ref {
            match input.lookups.secrets.get(&source.name).and_then(Option::as_ref) {
                Some(secret) => {
                    let text = |v: &[u8]| String::from_utf8_lossy(v).into_owned();
                    env.extend(secret.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), text(&v.0))));
                }
                None if source.optional == Some(true) => {}
                None => return Err(missing("secret", &source.name)),
            }
        }
    }
    Ok(())
}

fn missing(kind: &str, name: &str) -> EnvError {
    EnvError(format!("{kind} \"{name}\" not found"))
}

fn value_from(input: &Input<'_>, var: &k8s_openapi::api::core::v1::EnvVar) -> Result<Option<String>, EnvError> {
    let Some(source) = &var.value_from else { return Ok(None) };
    let namespace = input.pod.metadata.namespace.as_deref().unwrap_or("default");
    let no_key =
        |kind: &str, key: &str, name: &str| EnvError(format!("couldn't find key {key} in {kind} {namespace}/{name}"));
    if let Some(reference) = &source.config_map_key_ref {
        let map = input.lookups.config_maps.get(&reference.name).and_then(Option::as_ref);
        let value = map.and_then(|m| m.data.as_ref()?.get(&reference.key).cloned());
        return match (map, value) {
            (_, Some(value)) => Ok(Some(value)),
            _ if reference.optional == Some(true) => Ok(None),
            (None, _) => Err(missing("configmap", &reference.name)),
            (Some(_), None) => Err(no_key("ConfigMap", &reference.key, &reference.name)),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let secret = input.lookups.secrets.get(&reference.name).and_then(Option::as_ref);
        let value = secret.and_then(|s| s.data.as_ref()?.get(&reference.key));
        return match (secret, value) {
            (_, Some(value)) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            _ if reference.optional == Some(true) => Ok(None),
            (None, _) => Err(missing("secret", &reference.name)),
            (Some(_), None) => Err(no_key("Secret", &reference.key, &reference.name)),
        };
    }
    if let Some(reference) = &source.field_ref {
        if matches!(reference.field_path.as_str(), "status.podIP" | "status.podIPs") {
            return Ok(Some(input.address.to_string()));
        }
        return field(input.pod, &reference.field_path)
            .map(Some)
            .ok_or_else(|| EnvError(format!("env {}: unsupported fieldPath: {}", var.name, reference.field_path)));
    }
    if let Some(reference) = &source.resource_field_ref {
        return resource(input.pod, Some(input.container), reference).map(Some).ok_or_else(|| {
            EnvError(format!("env {}: unsupported container resource: {}", var.name, reference.resource))
        });
    }
    Err(EnvError(format!("env {}: valueFrom names no source this node knows", var.name)))
}

#[cfg(test)]
mod tests;
