//! `coracle up DIR`: check, build, start, apply, wait, tell, follow the logs, drain.
//!
//! Everything that can be wrong with the input is found before anything is started or written.

mod follow;
pub(crate) mod signals;
mod wait;

use crate::cli::{Up, UpOutput};
use crate::commands::apply::Applier;
use crate::commands::{say, serve};
use crate::data_dir::DataDir;
use crate::manifests::Manifest;
use crate::platform::{Change, Platform, Settings};
use crate::{colour, exit, manifests, order, readiness};
use node::recipe::Recipes;
use serde_json::Value;
use signals::Signals;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

pub(crate) async fn run(arguments: Up) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let mut signals = Signals::new()?;
    let plan = Plan::read(&arguments.directory)?;
    let settings = Settings::new(&arguments.start, plan.recipes.clone())?;
    let data = DataDir::hold(&serve::data(&arguments.start, &arguments.directory))?;
    let built = serve::build(&plan.recipes, &plan.images, data.path());
    tokio::select! {
        outcome = built => outcome?,
        () = signals.next() => anyhow::bail!("stopped while building; nothing was started"),
    }
    let mut platform = Platform::start(data, settings).await?;
    let mut logs = Box::pin(follow::logs(platform.lines(), arguments.output == UpOutput::Json));
    let outcome = tokio::select! {
        outcome = bring_up(&platform, &plan.manifests, &arguments) => outcome,
        () = signals.next() => Err(anyhow::anyhow!("stopped before all was ready")),
        () = &mut logs => Err(anyhow::anyhow!("the node ended before all was ready")),
    };
    let outcome = match outcome {
        Err(error) => Err(error),
        Ok(()) => stay(&mut platform, &mut signals, logs, &arguments, began).await,
    };
    eprintln!("{}", colour::dim("stopping…"));
    let _impatience = signals.kill_on_the_next();
    platform.stop().await;
    outcome
}

/// What is to be done, known to be sound.
struct Plan {
    manifests: Vec<Manifest>,
    recipes: Recipes,
    images: Vec<String>,
}

impl Plan {
    fn read(directory: &Path) -> anyhow::Result<Self> {
        if !directory.is_dir() {
            return Err(exit::bad_input(format!(
                "{} is not a directory; `up` takes one with Kubernetes manifests",
                directory.display()
            )));
        }
        let kustomization = delivery::kustomize::is_kustomization(directory);
        let mut found =
            if kustomization { manifests::build(directory)? } else { manifests::read(&[directory.to_owned()])? };
        if found.is_empty() {
            return Err(exit::bad_input(format!("there are no manifests in {}", directory.display())));
        }
        manifests::check(&found, manifests::Unknown::Refused)?;
        order::for_apply(&mut found, |manifest| &manifest.object);
        let file = manifests::recipe_file(directory);
        let recipes = file.as_deref().map_or_else(|| Ok(Recipes::empty()), serve::load)?;
        let images = manifests::images(&found);
        let missing: Vec<String> = images
            .iter()
            .filter(|(image, _)| recipes.lookup(image).is_none())
            .map(|(image, user)| format!("  {image}, wanted by {user}"))
            .collect();
        if !missing.is_empty() {
            let file = file.unwrap_or_else(|| directory.join("coracle.yaml"));
            return Err(exit::bad_input(format!(
                "no recipe says how to run these images on this machine, and nothing was changed:\n{}\n\
                 Add each under `images:` in {} with a `command:`, or use the image {} for a program of this host",
                missing.join("\n"),
                file.display(),
                resources::names::HOST_IMAGE
            )));
        }
        Ok(Self { manifests: found, recipes, images: images.into_keys().collect() })
    }
}

async fn bring_up(platform: &Platform, manifests: &[Manifest], arguments: &Up) -> anyhow::Result<()> {
    let api = platform.api();
    let pods = api.get("/api/v1/pods").await?;
    let baseline = readiness::baseline(pods["items"].as_array().into_iter().flatten());
    platform.node_ready().await?;
    let mut applier = Applier::new(api, "default", true).await?;
    applier.rehearse(manifests).await?;
    let mut applied: Vec<Value> = Vec::with_capacity(manifests.len());
    for manifest in manifests {
        applied.push(applier.apply(manifest, false).await?.object);
    }
    let objects = if applied.len() == 1 { "object" } else { "objects" };
    eprintln!("applied {} {objects}; waiting until all is ready", applied.len());
    let limit = Duration::from_secs(arguments.timeout);
    let endpoints = wait::until_ready(api, &applied, &baseline, limit, arguments.keep_going).await?;
    platform.serves_endpoints_of(endpoints).await;
    Ok(())
}

async fn stay(
    platform: &mut Platform,
    signals: &mut Signals,
    logs: impl Future<Output = ()>,
    arguments: &Up,
    began: Instant,
) -> anyhow::Result<ExitCode> {
    // What is ready now is all that will be: an application may have lost a Service since it was up last.
    platform.open_gateways().await;
    platform.announce_gateway()?;
    crate::memory::give_back();
    if arguments.output == UpOutput::Json {
        say(&serve::ready_line(platform, began));
    }
    eprintln!("{} in {:.2} s", colour::good("ready"), began.elapsed().as_secs_f64());
    serve::print_access(platform);
    let mut logs = std::pin::pin!(logs);
    loop {
        let change = tokio::select! {
            () = signals.next() => return Ok(ExitCode::SUCCESS),
            () = &mut logs => return Ok(ExitCode::SUCCESS),
            change = platform.changed() => change,
        };
        match change {
            Change::Broken(error) => return Err(error),
            Change::Gateways => platform.announce_gateway()?,
        }
    }
}
