//! How long it takes to compile a large cluster: `bench-compile [ROUTES [ROUNDS]]`.
//!
//! The cluster has a tenth as many Services as routes, three endpoints each, and spreads the routes over as many hosts as
//! Services, behind one Gateway. Prints the fastest and the median of the rounds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh::compile::compile;
use mesh::{Settings, World};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let routes: usize = arguments.next().map_or(Ok(10_000), |count| count.parse())?;
    let rounds: usize = arguments.next().map_or(Ok(10), |count| count.parse())?;
    let world = world(routes)?;
    let mut times: Vec<Duration> = Vec::with_capacity(rounds);
    for _ in 0..rounds.max(1) {
        let start = Instant::now();
        let compiled = compile(&world, &Settings::default());
        times.push(start.elapsed());
        let rules: usize =
            compiled.snapshot.listeners.iter().flat_map(|listener| &listener.hosts).map(|host| host.rules.len()).sum();
        if rules < routes {
            return Err(format!("only {rules} rules came of {routes} routes").into());
        }
    }
    times.sort_unstable();
    let (fastest, median) = (times[0], times[times.len() / 2]);
    println!("{routes} routes: fastest {fastest:.1?}, median {median:.1?} of {} rounds", times.len());
    Ok(())
}

fn world(routes: usize) -> serde_json::Result<World> {
    let services = (routes / 10).max(1);
    let mut world = World { bundle_version: Some(mesh::BUNDLE_VERSION.to_owned()), ..World::default() };
    world.classes.push(Arc::new(mesh::gateway_class()));
    world.gateways.push(read(json!({
        "metadata": {"name": "edge", "namespace": "bench", "generation": 1},
        "spec": {"gatewayClassName": "coracle", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]},
    }))?);
    for service in 0..services {
        let name = format!("service-{service:06}");
        let (high, low) = (service / 250, service % 250 + 1);
        world.services.push(read(json!({
            "metadata": {"name": name, "namespace": "bench"},
            "spec": {"clusterIP": format!("127.97.{high}.{low}"), "ports": [{"port": 80, "name": "http"}]},
        }))?);
        world.slices.push(read(json!({
            "metadata": {"name": name, "namespace": "bench", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
            "endpoints": (1..=3).map(|pod| json!({"addresses": [format!("10.{pod}.{high}.{low}")]})).collect::<Value>(),
        }))?);
    }
    for route in 0..routes {
        let service = route % services;
        world.routes.push(read(json!({
            "metadata": {
                "name": format!("route-{route:06}"), "namespace": "bench", "generation": 1,
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {
                "parentRefs": [{"name": "edge"}],
                "hostnames": [format!("host-{service}.example.com")],
                "rules": [{
                    "matches": [{
                        "path": {"type": "PathPrefix", "value": format!("/api/{route}")},
                        "headers": [{"name": "x-version", "value": "1"}],
                    }],
                    "filters": [{
                        "type": "RequestHeaderModifier",
                        "requestHeaderModifier": {"set": [{"name": "x-route", "value": "bench"}]},
                    }],
                    "backendRefs": [{"name": format!("service-{service:06}"), "port": 80}],
                }],
            },
        }))?);
    }
    Ok(world)
}

fn read<K: serde::de::DeserializeOwned>(value: Value) -> serde_json::Result<Arc<K>> {
    serde_json::from_value(value).map(Arc::new)
}
