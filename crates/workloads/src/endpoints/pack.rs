//! How a Service's targets are spread over EndpointSlices.
//!
//! Invariants: a slice has one address family, one set of ports and at most 100 endpoints; what is in a slice stays there while it may, so that a
//! change of one Pod is a change of one slice; a slice that would go is made into the one that is missing, in one write; there is always at
//! least one slice, if an empty one.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::api::ObjectMeta;
use resources::names::SERVICE_NAME_LABEL;

use super::targets::{self, Family, Port, Target};
use crate::owners;

pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(crate) const MANAGER: &str = "endpointslice-controller.k8s.io";
const MOST: usize = 100;

/// One change to a slice.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    Create(Box<EndpointSlice>),
    /// From the slice as it was read, to what it should be.
    Update(Box<EndpointSlice>, Box<EndpointSlice>),
    Delete {
        name: String,
        uid: String,
    },
}

type Group = (Family, Vec<Port>);

fn port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()),
        protocol: Some(port.protocol.clone()),
        port: Some(port.port),
        app_protocol: port.app_protocol.clone(),
    }
}

fn group_of(slice: &EndpointSlice) -> Group {
    let family = if slice.address_type == "IPv6" { Family::V6 } else { Family::V4 };
    let mut ports: Vec<Port> = slice
        .ports
        .iter()
        .flatten()
        .map(|port| Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: port.port.unwrap_or(0),
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    ports.sort();
    (family, ports)
}

fn endpoint(service: &Service, target: &Target<'_>) -> Endpoint {
    let meta = &target.pod.metadata;
    Endpoint {
        addresses: vec![target.address.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(target.ready),
            serving: Some(target.serving),
            terminating: Some(target.terminating),
        }),
        hostname: targets::hostname(service, target.pod),
        node_name: target.pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

/// What stays the same about an endpoint while its conditions change.
fn identity(endpoint: &Endpoint) -> (String, String) {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()).unwrap_or_default();
    (uid, endpoint.addresses.first().cloned().unwrap_or_default())
}

struct Packer<'a> {
    service: &'a Service,
    labels: BTreeMap<String, String>,
    changes: Vec<Change>,
    /// Slices with nothing in them any more.
    spare: Vec<&'a EndpointSlice>,
    kept: usize,
}

/// The changes that make the slices say what the targets are.
pub(crate) fn pack(service: &Service, targets: &[Target<'_>], existing: &[&EndpointSlice]) -> Vec<Change> {
    let mut labels = targets::labels(service);
    labels.insert(SERVICE_NAME_LABEL.to_owned(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut wanted: BTreeMap<Group, BTreeMap<(String, String), Endpoint>> = BTreeMap::new();
    for target in targets {
        let endpoint = endpoint(service, target);
        let group = (target.family, target.ports.clone());
        wanted.entry(group).or_default().insert(identity(&endpoint), endpoint);
    }
    let mut packer = Packer { service, labels, changes: Vec::new(), spare: Vec::new(), kept: 0 };
    let mut slices: BTreeMap<Group, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in existing.iter().filter(|slice| slice.metadata.deletion_timestamp.is_none()) {
        slices.entry(group_of(slice)).or_default().push(slice);
    }
    for (group, slices) in &slices {
        if !wanted.contains_key(group) {
            packer.spare.extend(slices);
        }
    }
    let mut missing = Vec::new();
    for (group, endpoints) in wanted {
        let present = slices.remove(&group).unwrap_or_default();
        let left = packer.fill(&present, endpoints);
        missing.extend(left.chunks(MOST).map(|chunk| (group.clone(), chunk.to_vec())));
    }
    for (group, endpoints) in missing {
        packer.add(&group, endpoints);
    }
    packer.finish()
}

impl<'a> Packer<'a> {
    /// Puts endpoints into the slices of their group; returns those that found no room.
    fn fill(
        &mut self,
        present: &[&'a EndpointSlice],
        mut endpoints: BTreeMap<(String, String), Endpoint>,
    ) -> Vec<Endpoint> {
        let mut contents: Vec<(&EndpointSlice, Vec<Endpoint>)> = present
            .iter()
            .map(|slice| {
                let stay = slice.endpoints.iter().filter_map(|known| endpoints.remove(&identity(known)));
                (*slice, stay.take(MOST).collect())
            })
            .collect();
        let mut rest = endpoints.into_values();
        // The fullest first, so that the others may become empty one day.
        contents.sort_by_key(|(_, content)| std::cmp::Reverse(content.len()));
        for (_, content) in &mut contents {
            let room = MOST.saturating_sub(content.len());
            content.extend(rest.by_ref().take(room));
        }
        for (slice, content) in contents {
            if content.is_empty() {
                self.spare.push(slice);
            } else {
                self.kept += 1;
                self.update(slice, slice.ports.clone(), content);
            }
        }
        rest.collect()
    }

    fn update(&mut self, slice: &EndpointSlice, ports: Option<Vec<EndpointPort>>, endpoints: Vec<Endpoint>) {
        let mut new = slice.clone();
        new.metadata.labels = Some(self.labels.clone());
        new.ports = ports;
        new.endpoints = endpoints;
        if new != *slice {
            self.changes.push(Change::Update(Box::new(slice.clone()), Box::new(new)));
        }
    }

    /// A slice for endpoints that have none: a spare one, or a new one.
    fn add(&mut self, group: &Group, endpoints: Vec<Endpoint>) {
        self.kept += 1;
        let ports = Some(group.1.iter().map(port).collect::<Vec<_>>());
        let spare = self.spare.iter().position(|slice| slice.address_type == group.0.name());
        match spare {
            Some(at) => {
                let slice = self.spare.remove(at);
                self.update(slice, ports, endpoints);
            }
            None => self.changes.push(Change::Create(Box::new(self.slice(group.0, ports, endpoints)))),
        }
    }

    fn slice(&self, family: Family, ports: Option<Vec<EndpointPort>>, endpoints: Vec<Endpoint>) -> EndpointSlice {
        let name = self.service.metadata.name.as_deref().unwrap_or("");
        EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{name}-")),
                namespace: self.service.metadata.namespace.clone(),
                labels: Some(self.labels.clone()),
                owner_references: Some(vec![owners::reference(self.service)]),
                ..ObjectMeta::default()
            },
            address_type: family.name().to_owned(),
            ports,
            endpoints,
        }
    }

    fn finish(mut self) -> Vec<Change> {
        if self.kept == 0 {
            let family = targets::families(self.service).first().copied().unwrap_or(Family::V4);
            match self.spare.iter().position(|slice| slice.address_type == family.name()) {
                Some(at) => {
                    let slice = self.spare.remove(at);
                    let ports = slice.ports.clone();
                    self.update(slice, ports, Vec::new());
                }
                None => self.changes.push(Change::Create(Box::new(self.slice(family, None, Vec::new())))),
            }
        }
        for slice in &self.spare {
            self.changes.push(Change::Delete {
                name: slice.metadata.name.clone().unwrap_or_default(),
                uid: slice.metadata.uid.clone().unwrap_or_default(),
            });
        }
        self.changes
    }
}
