//! What is to happen after a container's start and before its end.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler};

use super::process::{Ran, exec};
use crate::network::PodNetwork;
use crate::owners::Launcher;
use crate::probe::{Target, check, get, port};
use crate::shim::Config;

/// What a hook or a probe needs to reach its container.
#[derive(Clone)]
pub(super) struct Reach {
    pub launcher: Launcher,
    pub config: Config,
    pub container: Container,
    pub ports: BTreeMap<u16, u16>,
    /// The Pod's address.
    pub address: IpAddr,
    /// The network in which that is, where it is not the machine's.
    pub network: Option<PodNetwork>,
}

impl Reach {
    /// Runs a command beside the program, seeing what it sees.
    pub(super) async fn exec(&self, command: &[String], limit: Duration) -> Ran {
        let config = Config { command: command.to_vec(), mounts: Vec::new(), ..self.config.clone() };
        exec(&self.launcher, &config, limit).await
    }

    /// What an HTTP action asks.
    pub(super) fn http(&self, action: &HTTPGetAction) -> Result<Target, String> {
        let at = port(&action.port, &self.container, &self.ports)
            .ok_or_else(|| format!("the port {:?} is none of container {}", action.port, self.container.name))?;
        Ok(Target::Http {
            secure: action.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
            host: action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| self.address.to_string()),
            port: at,
            path: action.path.clone().unwrap_or_else(|| "/".to_owned()),
            headers: action.http_headers.clone().unwrap_or_default(),
        })
    }

    /// Runs a hook to its end, or for at most `limit`.
    pub(super) async fn hook(&self, handler: &LifecycleHandler, limit: Duration) -> Result<(), String> {
        if let Some(action) = &handler.exec {
            let command = action.command.clone().unwrap_or_default();
            return match self.exec(&command, limit).await {
                Ran::Exited(0, _) => Ok(()),
                Ran::Exited(code, text) => Err(format!("command {command:?} exited with {code}: {text}")),
                Ran::TimedOut => Err(format!("command {command:?} did not end within {}s", limit.as_secs())),
                Ran::Failed(why) => Err(why),
            };
        }
        if let Some(action) = &handler.http_get {
            let target = self.http(action)?;
            return match tokio::time::timeout(limit, get(&target, self.network.as_ref())).await {
                Ok(result) => result,
                Err(_) => check(&target, self.network.as_ref(), Duration::ZERO).await,
            };
        }
        if let Some(action) = &handler.sleep {
            let wanted = Duration::from_secs(u64::try_from(action.seconds).unwrap_or_default());
            tokio::time::sleep(wanted.min(limit)).await;
        }
        Ok(())
    }
}
