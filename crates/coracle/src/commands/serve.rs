//! `coracle serve`: the platform without manifests, until it is told to end.

use crate::cli::{Serve, Start, UpOutput};
use crate::commands::say;
use crate::commands::up::signals::Signals;
use crate::data_dir::{self, DataDir};
use crate::platform::{Change, Platform, Settings};
use crate::{colour, exit};
use node::recipe::Recipes;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

pub(crate) async fn run(arguments: Serve) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let mut signals = Signals::new()?;
    let recipes = recipes(arguments.recipes.as_deref())?;
    let settings = Settings::new(&arguments.start, recipes.clone())?;
    let data = DataDir::hold(&data(&arguments.start, Path::new(".")))?;
    build(&recipes, &[], data.path()).await?;
    let mut platform = Platform::start(data, settings).await?;
    crate::memory::give_back();
    if arguments.output == UpOutput::Json {
        say(&ready_line(&platform, began));
    } else {
        print_access(&platform);
    }
    let outcome = loop {
        let changed = tokio::select! {
            () = signals.next() => break Ok(ExitCode::SUCCESS),
            change = platform.changed() => change,
        };
        match changed {
            Change::Broken(error) => break Err(error),
            Change::Gateways => {
                if let Err(error) = platform.announce_gateway() {
                    tracing::warn!("{error:#}");
                }
            }
        }
    };
    let _impatience = signals.kill_on_the_next();
    platform.stop().await;
    outcome
}

/// The data directory that was asked for, or the default one in a directory.
pub(crate) fn data(start: &Start, directory: &Path) -> PathBuf {
    start.data.clone().unwrap_or_else(|| directory.join(data_dir::DEFAULT))
}

fn recipes(file: Option<&Path>) -> anyhow::Result<Recipes> {
    let here = Path::new("coracle.yaml");
    match file {
        Some(file) => load(file),
        None if here.is_file() => load(here),
        None => Ok(Recipes::empty()),
    }
}

/// Reads a recipe file.
pub(crate) fn load(file: &Path) -> anyhow::Result<Recipes> {
    Recipes::load(file).map_err(|error| exit::bad_input(exit::sentence(&anyhow::Error::new(error))))
}

/// Builds what has to be built, showing each build and its output on stderr.
pub(crate) async fn build(recipes: &Recipes, images: &[String], data: &Path) -> anyhow::Result<()> {
    use node::recipe::BuildProgress as P;
    let show = |progress: P<'_>| match progress {
        P::Started { images, command } => eprintln!("building {}: {}", images.join(", "), colour::dim(command)),
        P::Line { text, .. } => eprintln!("  {}", colour::dim(text)),
        P::Finished { images, elapsed } => eprintln!("built {} in {:.1} s", images.join(", "), elapsed.as_secs_f64()),
        P::Unchanged { .. } => {}
    };
    Ok(recipes.build(images, data, show).await?)
}

/// The line for scripts.
pub(crate) fn ready_line(platform: &Platform, began: Instant) -> String {
    serde_json::json!({
        "ready": true,
        "gateway": platform.gateway_url(),
        "api": platform.api_url(),
        "kubeconfig": platform.kubeconfig(),
        "git": platform.git_url(),
        "elapsed_ms": began.elapsed().as_millis() as u64,
    })
    .to_string()
}

/// Where everything answers, on stderr.
pub(crate) fn print_access(platform: &Platform) {
    if let Some(gateway) = platform.gateway_url() {
        eprintln!("  gateway  {}", colour::good(&gateway));
    }
    eprintln!("  API      {}", platform.api_url());
    eprintln!("  kubectl  export KUBECONFIG={}", platform.kubeconfig().display());
    if let Some(git) = platform.git_url() {
        eprintln!("  Git      coracle git add-remote NAME   ({git}/NAME.git)");
    }
    eprintln!("  stop     Ctrl-C");
}
