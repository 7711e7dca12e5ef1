//! Probes: when to ask ([`Schedule`], pure), and asking ([`check`]).
//!
//! Invariant: a program is never judged more harshly than Kubernetes would; it may only be found ready earlier.

mod check;
mod grpc;
mod schedule;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub(crate) use check::{Target, check, get};
pub(crate) use schedule::Schedule;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    /// As Events name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Readiness => "Readiness",
            Kind::Liveness => "Liveness",
        }
    }

    /// The container's probe of this kind.
    pub(crate) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Kind::Startup => container.startup_probe.as_ref(),
            Kind::Readiness => container.readiness_probe.as_ref(),
            Kind::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// How long one attempt may take.
pub(crate) fn timeout(probe: &Probe) -> Duration {
    Duration::from_secs(probe.timeout_seconds.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0).unwrap_or(1))
}

/// The port of the Pod's address that a probe's or hook's port means: container ports by number or name, through the map.
pub(crate) fn port(port: &IntOrString, container: &Container, map: &BTreeMap<u16, u16>) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => u16::try_from(*number).ok()?,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            match named {
                Some(port) => u16::try_from(port.container_port).ok()?,
                None => name.parse().ok()?,
            }
        }
    };
    Some(map.get(&number).copied().unwrap_or(number))
}
