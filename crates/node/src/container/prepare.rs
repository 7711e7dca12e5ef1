//! Gathers what a run needs and writes it down for the shim.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Service};

use super::{Refused, Setup, launch};
use crate::context::{Context, host_environment};
use crate::env::{self, Input};
use crate::recipe::Lease;
use crate::shim::{Config, Mount, Stdin};
use crate::volumes;

/// The file that holds a Pod's hosts, in its directory.
pub(crate) const HOSTS: &str = "hosts";
/// The file that tells a Pod's resolvers whom to ask, in its directory; none where the machine's own serves.
pub(crate) const RESOLVER: &str = "resolv.conf";
/// Every program of a container has this in its environment, its container's directory, so that what is left behind can be
/// found whatever happened to its shim. Nothing that a manifest says changes it.
pub(crate) const MARK: &str = "CORACLE_CONTAINER_DIR";
/// How long a container waits for the data plane to say on which port a Service really is, where that matters.
const PORTS_KNOWN: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Where a program leaves its last words, on the host.
const LAST_WORDS: &str = "TERMINATION_LOG";
const DEFAULT_LAST_WORDS: &str = "/dev/termination-log";

/// Everything that a run is started with.
pub(super) struct Prepared {
    pub config: Config,
    pub image_id: String,
    pub last_words: PathBuf,
    /// Keeps the program from going while it runs.
    pub lease: Lease,
}

pub(super) async fn prepare(
    context: &Context,
    pod: &Pod,
    container: &Container,
    setup: &Setup,
) -> Result<Prepared, Refused> {
    let recipe = launch::recipe(container, &context.settings.recipes, &context.settings.shelf)?;
    let (recipe, lease) = recipe.unzip();
    let recipe = recipe.as_ref();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let (maps, secrets) = env::references(container);
    let asked = |e: kube::Error| Refused::config(format!("can't look up what the environment refers to: {e}"));
    let lookups = context.lookups(namespace, maps, secrets).await.map_err(asked)?;
    let services = context.services(namespace).await.map_err(asked)?;
    if setup.sandbox.is_none() {
        ports_known(context, namespace, &services).await;
    }
    let directory = setup.directory.join(&container.name);
    let last_words = directory.join("termination-log");
    let made = |what: &Path| {
        let what = what.display().to_string();
        move |e: io::Error| Refused { reason: "CreateContainerError", message: format!("can't make {what}: {e}") }
    };
    std::fs::create_dir_all(&directory).map_err(made(&directory))?;
    std::fs::write(&last_words, "").map_err(made(&last_words))?;
    let mut extra = env::egress(pod, &context.services.state());
    extra.extend(context.settings.environment.clone());
    extra.extend([(MARK.to_owned(), mark(&directory)), (LAST_WORDS.to_owned(), last_words.display().to_string())]);
    let mut env = env::build(&Input {
        pod,
        container,
        recipe,
        lookups: &lookups,
        services: &services,
        // In a network of its own every port is as declared.
        reached: &|address, port| match setup.sandbox {
            Some(_) => None,
            None => context.traffic.service_port(address, port),
        },
        ports: &setup.ports,
        address: setup.address(),
        volumes: &setup.places,
        host: &host_environment(),
        extra: &extra,
    })
    .map_err(|e| Refused::config(e.0))?;
    // Whatever the manifest and the recipe say: by its mark is decided what is killed.
    env.insert(MARK.to_owned(), mark(&directory));
    let mut mounts =
        volumes::mounts(pod, container, &setup.places, &env).map_err(|e| Refused::config(e.to_string()))?;
    mounts.extend(own_mounts(container, setup, &mounts, &last_words));
    let staging = directory.join("root");
    std::fs::create_dir_all(&staging).map_err(made(&staging))?;
    let command = launch::command(container, recipe, &env)?;
    Ok(Prepared {
        config: Config {
            command,
            env: env.into_iter().collect(),
            working_dir: launch::working_dir(container, recipe),
            mounts,
            staging,
            join: None,
            stdin: Stdin::Nothing,
            hostname: setup.sandbox.as_ref().map(|_| hostname(pod)),
            open_files: context.settings.open_files,
            network: setup.sandbox.as_ref().map(|sandbox| sandbox.names()),
        },
        image_id: launch::image_id(recipe),
        last_words,
        lease: lease.unwrap_or_default(),
    })
}

/// What a Pod is called, as far as the kernel takes it.
fn hostname(pod: &Pod) -> String {
    let said = pod.spec.as_ref().and_then(|spec| spec.hostname.clone());
    let name = said.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// The value of [`MARK`]. It ends with a slash, so that none is the beginning of another.
pub(crate) fn mark(directory: &Path) -> String {
    format!("{}/", directory.display())
}

/// Waits a moment for the ports of Services that this user may not bind as declared: a program would be told a port where
/// nothing listens. Where declared ports can be had, nothing waits.
async fn ports_known(context: &Context, namespace: &str, services: &[Service]) {
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first: u16 = first.ok().and_then(|t| t.trim().parse().ok()).unwrap_or(1024);
    if nix::unistd::geteuid().is_root() {
        return;
    }
    let own = services.iter().filter(|s| s.metadata.namespace.as_deref() == Some(namespace));
    let ports = own.filter_map(|s| {
        let address = env::service_address(s)?;
        let ports = s.spec.as_ref()?.ports.iter().flatten();
        Some(ports.filter_map(|p| u16::try_from(p.port).ok()).map(move |p| (address, p)).collect::<Vec<_>>())
    });
    let mut open: Vec<_> = ports.flatten().filter(|(_, port)| *port < first).collect();
    let _ = tokio::time::timeout(PORTS_KNOWN, async {
        loop {
            open.retain(|(address, port)| context.traffic.service_port(*address, *port).is_none());
            if open.is_empty() {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    })
    .await;
}

/// The hosts file, the resolver's, and the place for last words where it can be had without making all of `/dev` anew.
fn own_mounts(container: &Container, setup: &Setup, declared: &[Mount], last_words: &Path) -> Vec<Mount> {
    let mut mounts = Vec::new();
    let free = |target: &Path| !declared.iter().any(|m| m.target == target);
    let hosts = Path::new("/etc/hosts");
    if free(hosts) {
        mounts.push(Mount { source: setup.directory.join(HOSTS), target: hosts.to_owned(), read_only: false });
    }
    let (resolver, own) = (Path::new("/etc/resolv.conf"), setup.directory.join(RESOLVER));
    if free(resolver) && own.exists() {
        mounts.push(Mount { source: own, target: resolver.to_owned(), read_only: false });
    }
    let path = container.termination_message_path.as_deref().unwrap_or(DEFAULT_LAST_WORDS);
    let wanted = path != DEFAULT_LAST_WORDS || Path::new(path).exists();
    if wanted && path.starts_with('/') && free(Path::new(path)) {
        mounts.push(Mount { source: last_words.to_owned(), target: PathBuf::from(path), read_only: false });
    }
    mounts
}
