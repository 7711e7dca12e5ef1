//! Targets and slices, in tables.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, Pod, PodCondition, PodSpec, PodStatus, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;
use proptest::prelude::*;

use super::legacy;
use super::pack::{Change, pack};
use super::targets::{Target, targets};
use crate::machinery::clock::stamp;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn service(target_port: IntOrString) -> Service {
    Service {
        metadata: ObjectMeta {
            name: Some("shop".into()),
            namespace: Some("ns".into()),
            uid: Some("s".into()),
            labels: Some(map(&[("team", "a")])),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            selector: Some(map(&[("app", "shop")])),
            cluster_ip: Some("127.96.0.2".into()),
            ports: Some(vec![ServicePort {
                name: Some("http".into()),
                port: 80,
                target_port: Some(target_port),
                protocol: Some("TCP".into()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn pod(name: &str, noted: Option<&str>) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some("ns".into()),
            uid: Some(format!("uid-{name}")),
            labels: Some(map(&[("app", "shop")])),
            annotations: noted.map(|noted| map(&[("coracle.dev/ports", noted)])),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            node_name: Some("coracle".into()),
            containers: vec![Container {
                ports: Some(vec![ContainerPort {
                    name: Some("web".into()),
                    container_port: 8080,
                    ..ContainerPort::default()
                }]),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        status: Some(PodStatus {
            phase: Some("Running".into()),
            pod_ip: Some("127.0.0.1".into()),
            conditions: Some(vec![PodCondition {
                type_: "Ready".into(),
                status: "True".into(),
                ..PodCondition::default()
            }]),
            ..PodStatus::default()
        }),
    }
}

fn with(mut pod: Pod, change: impl FnOnce(&mut Pod)) -> Pod {
    change(&mut pod);
    pod
}

fn unready(pod: &mut Pod) {
    pod.status.as_mut().expect("a status").conditions = None;
}

fn going(pod: &mut Pod) {
    pod.metadata.deletion_timestamp = Some(stamp(jiff::Timestamp::UNIX_EPOCH));
}

fn found<'a>(service: &Service, pods: &'a [Pod]) -> Vec<Target<'a>> {
    targets(service, &pods.iter().collect::<Vec<_>>())
}

#[test]
fn target_ports_go_through_what_the_node_noted() {
    let number = |number| IntOrString::Int(number);
    let name = |name: &str| IntOrString::String(name.into());
    let table = [
        ("noted number", number(8080), Some(r#"{"8080":41235}"#), Some(41235)),
        ("noted name", name("web"), Some(r#"{"8080":41235}"#), Some(41235)),
        ("not noted", number(9090), Some(r#"{"8080":41235}"#), Some(9090)),
        ("nothing noted", name("web"), None, Some(8080)),
        ("unknown name", name("nope"), Some(r#"{"8080":41235}"#), None),
        ("unreadable note", number(8080), Some("{"), Some(8080)),
        ("no target port", number(0), Some(r#"{"80":41000}"#), Some(41000)),
    ];
    for (what, target_port, noted, expected) in table {
        let pods = [pod("a", noted)];
        let found = found(&service(target_port), &pods);
        assert_eq!(found[0].ports.first().map(|port| port.port), expected, "{what}");
    }
}

#[test]
fn who_may_get_requests() {
    let table = [
        ("ready", pod("a", None), Some((true, true, false))),
        ("not ready", with(pod("a", None), unready), Some((false, false, false))),
        ("going", with(pod("a", None), going), Some((false, true, true))),
        ("ended", with(pod("a", None), |pod| pod.status.as_mut().expect("s").phase = Some("Failed".into())), None),
        ("no address", with(pod("a", None), |pod| pod.status.as_mut().expect("s").pod_ip = None), None),
        ("other labels", with(pod("a", None), |pod| pod.metadata.labels = Some(map(&[("app", "x")]))), None),
    ];
    for (what, pod, expected) in table {
        let pods = [pod];
        let service = service(IntOrString::Int(8080));
        let all = found(&service, &pods);
        let states: Vec<_> = all.iter().map(|target| (target.ready, target.serving, target.terminating)).collect();
        assert_eq!(states.first().copied(), expected, "{what}");
    }
    let mut publishing = service(IntOrString::Int(8080));
    publishing.spec.as_mut().expect("a spec").publish_not_ready_addresses = Some(true);
    let pods = [with(pod("a", None), unready)];
    assert!(found(&publishing, &pods)[0].ready, "published although not ready");
}

#[test]
fn services_that_are_someone_elses() {
    let pods = [pod("a", None)];
    let mut without = service(IntOrString::Int(80));
    without.spec.as_mut().expect("a spec").selector = None;
    assert!(found(&without, &pods).is_empty());
    let mut external = service(IntOrString::Int(80));
    external.spec.as_mut().expect("a spec").type_ = Some("ExternalName".into());
    assert!(super::selector(&external).is_none());
}

/// Applies changes as the API would.
fn apply(slices: &mut Vec<EndpointSlice>, changes: Vec<Change>, made: &mut usize) {
    for change in changes {
        match change {
            Change::Create(mut slice) => {
                *made += 1;
                slice.metadata.name = Some(format!("shop-{made}"));
                slice.metadata.uid = slice.metadata.name.clone();
                slices.push(*slice);
            }
            Change::Update(old, new) => {
                let at = slices.iter().position(|slice| *slice == *old).expect("the slice as it was read");
                slices[at] = *new;
            }
            Change::Delete { name, .. } => slices.retain(|slice| slice.metadata.name.as_deref() != Some(&name)),
        }
    }
}

fn repack(service: &Service, pods: &[Pod], slices: &mut Vec<EndpointSlice>, made: &mut usize) -> usize {
    let changes = pack(service, &found(service, pods), &slices.iter().collect::<Vec<_>>());
    let count = changes.len();
    apply(slices, changes, made);
    count
}

#[test]
fn slices_follow_their_pods() {
    let service = service(IntOrString::Int(8080));
    let (mut slices, mut made) = (Vec::new(), 0);
    assert_eq!(repack(&service, &[], &mut slices, &mut made), 1, "an empty slice at least");
    let labels = slices[0].metadata.labels.clone().expect("labels");
    assert_eq!(labels["kubernetes.io/service-name"], "shop");
    assert_eq!(labels["endpointslice.kubernetes.io/managed-by"], "endpointslice-controller.k8s.io");
    assert_eq!(labels["team"], "a");
    assert_eq!(slices[0].address_type, "IPv4");

    let first = pod("a", Some(r#"{"8080":41001}"#));
    let second = pod("b", Some(r#"{"8080":41002}"#));
    assert_eq!(repack(&service, std::slice::from_ref(&first), &mut slices, &mut made), 1, "the empty slice is used");
    assert_eq!((slices.len(), made), (1, 1));
    assert_eq!(repack(&service, &[first.clone(), second.clone()], &mut slices, &mut made), 1);
    let ports: Vec<_> = slices.iter().map(|slice| slice.ports.as_ref().expect("ports")[0].port).collect();
    assert_eq!(ports, [Some(41001), Some(41002)], "each Pod has ports of its own");
    let endpoint = &slices[0].endpoints[0];
    assert_eq!(endpoint.node_name.as_deref(), Some("coracle"));
    assert_eq!(endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref()), Some("a"));
    assert_eq!(repack(&service, &[first.clone(), second.clone()], &mut slices, &mut made), 0, "nothing changed");

    let leaving = with(first, going);
    assert_eq!(repack(&service, &[leaving, second.clone()], &mut slices, &mut made), 1);
    assert_eq!(slices[0].endpoints[0].conditions.as_ref().and_then(|c| c.ready), Some(false));
    assert_eq!(repack(&service, &[second], &mut slices, &mut made), 1);
    assert_eq!(slices.len(), 1);
    assert_eq!(repack(&service, &[], &mut slices, &mut made), 1);
    assert_eq!((slices.len(), slices[0].endpoints.len()), (1, 0));
}

#[test]
fn a_slice_holds_a_hundred() {
    let service = service(IntOrString::Int(8080));
    let pods: Vec<Pod> = (0..250).map(|index| pod(&format!("p{index:03}"), None)).collect();
    let (mut slices, mut made) = (Vec::new(), 0);
    assert_eq!(repack(&service, &pods, &mut slices, &mut made), 3);
    let mut sizes: Vec<usize> = slices.iter().map(|slice| slice.endpoints.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 100, 100]);
    assert_eq!(repack(&service, &pods[1..], &mut slices, &mut made), 1, "one Pod less changes one slice");
}

#[test]
fn headless_services_have_slices_too() {
    let mut headless = service(IntOrString::Int(8080));
    let spec = headless.spec.as_mut().expect("a spec");
    spec.cluster_ip = Some("None".into());
    spec.ports = None;
    let named = with(pod("a", None), |pod| {
        let spec = pod.spec.as_mut().expect("a spec");
        (spec.hostname, spec.subdomain) = (Some("a-0".into()), Some("shop".into()));
    });
    let (mut slices, mut made) = (Vec::new(), 0);
    repack(&headless, &[named], &mut slices, &mut made);
    assert_eq!(slices[0].metadata.labels.as_ref().expect("labels")["service.kubernetes.io/headless"], "");
    assert_eq!(slices[0].endpoints[0].hostname.as_deref(), Some("a-0"));
}

#[test]
fn endpoints_for_older_clients() {
    let service = service(IntOrString::Int(8080));
    let pods = [
        pod("a", Some(r#"{"8080":41001}"#)),
        with(pod("b", Some(r#"{"8080":41002}"#)), unready),
        with(pod("c", Some(r#"{"8080":41003}"#)), going),
    ];
    let desired = legacy::desired(&service, &found(&service, &pods), None);
    assert_eq!(desired.metadata.name.as_deref(), Some("shop"));
    let subsets = desired.subsets.clone().expect("subsets");
    assert_eq!(subsets.len(), 2, "{subsets:?}");
    assert_eq!(subsets[0].addresses.as_ref().map(Vec::len), Some(1));
    assert_eq!(subsets[0].ports.as_ref().expect("ports")[0].port, 41001);
    assert_eq!(subsets[1].addresses, None);
    assert_eq!(subsets[1].not_ready_addresses.as_ref().map(Vec::len), Some(1));
    let again = legacy::desired(&service, &found(&service, &pods), Some(&desired));
    assert_eq!(again, desired);
}

proptest! {
    /// However Pods come and go, the slices say what the targets are, and a second look changes nothing.
    #[test]
    fn slices_always_agree(rounds in proptest::collection::vec(proptest::collection::btree_set(0_u16..150, 0..140), 1..6)) {
        let service = service(IntOrString::Int(8080));
        let (mut slices, mut made) = (Vec::new(), 0);
        for round in rounds {
            // Some Pods share ports, some have their own.
            let pods: Vec<Pod> = round
                .iter()
                .map(|index| {
                    let noted = (index % 3 == 0).then(|| format!(r#"{{"8080":{}}}"#, 41000 + index % 9));
                    pod(&format!("p{index}"), noted.as_deref())
                })
                .collect();
            repack(&service, &pods, &mut slices, &mut made);
            prop_assert_eq!(repack(&service, &pods, &mut slices, &mut made), 0);
            let mut said: Vec<(String, i32)> = Vec::new();
            for slice in &slices {
                prop_assert!(slice.endpoints.len() <= 100);
                let port = slice.ports.iter().flatten().next().and_then(|port| port.port).unwrap_or(0);
                for endpoint in &slice.endpoints {
                    let target = endpoint.target_ref.as_ref().and_then(|target| target.name.clone());
                    said.push((target.unwrap_or_default(), port));
                }
            }
            let mut meant: Vec<(String, i32)> = found(&service, &pods)
                .iter()
                .map(|target| (crate::pods::name(target.pod).to_owned(), target.ports[0].port))
                .collect();
            said.sort();
            meant.sort();
            prop_assert_eq!(said, meant);
        }
    }
}
