//! Keeps one probe of one run going, by its schedule.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use tokio::time::Instant;

use super::hooks::Reach;
use super::process::Ran;
use crate::probe::{Kind, Schedule, Target, check, port, timeout};

/// What an attempt came to, where it counts.
pub(super) struct Attempt {
    pub failure: Option<String>,
    pub verdict: Option<bool>,
}

/// One probe of one run.
pub(super) struct Prober {
    reach: Reach,
    probe: Probe,
    schedule: Schedule,
    began: Instant,
}

impl Prober {
    pub(super) fn new(reach: &Reach, kind: Kind, began: Instant) -> Option<Self> {
        let probe = kind.of(&reach.container)?.clone();
        let schedule = Schedule::new(&probe, kind);
        Some(Prober { reach: reach.clone(), probe, schedule, began })
    }

    /// The next attempt that says something. Not cancel safe in that an attempt under way is given up.
    pub(super) async fn next(&mut self) -> Attempt {
        loop {
            tokio::time::sleep_until(self.began + self.schedule.next()).await;
            let limit = timeout(&self.probe);
            let result = self.attempt(limit).await;
            let (counts, verdict) = self.schedule.observe(self.began.elapsed(), result.is_ok());
            if counts || verdict.is_some() {
                return Attempt { failure: result.err(), verdict };
            }
        }
    }

    async fn attempt(&self, limit: Duration) -> Result<(), String> {
        let probe = &self.probe;
        if let Some(action) = &probe.exec {
            let command = action.command.clone().unwrap_or_default();
            return match self.reach.exec(&command, limit).await {
                Ran::Exited(0, _) => Ok(()),
                Ran::Exited(_, text) => Err(text),
                Ran::TimedOut => Err(format!("command timed out: {command:?} timed out after {}s", limit.as_secs())),
                Ran::Failed(why) => Err(why),
            };
        }
        let target = if let Some(action) = &probe.http_get {
            self.reach.http(action)?
        } else if let Some(action) = &probe.tcp_socket {
            let host = action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| self.reach.address.to_string());
            let at = port(&action.port, &self.reach.container, &self.reach.ports);
            Target::Tcp {
                host,
                port: at.ok_or_else(|| format!("the port {:?} is none of this container", action.port))?,
            }
        } else if let Some(action) = &probe.grpc {
            let number = k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(action.port);
            let at = port(&number, &self.reach.container, &self.reach.ports);
            Target::Grpc {
                host: self.reach.address.to_string(),
                port: at.ok_or_else(|| format!("the port {} is no port", action.port))?,
                service: action.service.clone().unwrap_or_default(),
            }
        } else {
            return Err("missing probe handler".to_owned());
        };
        check(&target, self.reach.network.as_ref(), limit).await
    }
}
