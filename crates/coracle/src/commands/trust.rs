//! `coracle trust`: whom this instance trusts, and who trusts it.
//!
//! Everything is ConfigMaps of one namespace, so that it can be looked at, written and taken back with kubectl too.

use crate::cli::{BundleForm, EndpointProfile, Trust, TrustAdd, TrustCommand};
use crate::commands::say;
use crate::connect::Api;
use crate::exit;
use anyhow::Context;
use mesh::identity::federation::{ENDPOINT_ID_KEY, ENDPOINT_KEY, PROFILE_KEY};
use mesh::identity::{
    BUNDLE_KEY, BUNDLE_LABEL, Bundle, DOMAIN_KEY, OWN_BUNDLE, STATUS_KEY, SYSTEM_NAMESPACE, SpiffeId, TrustDomain,
};
use serde_json::{Value, json};
use std::io::Read;
use std::process::ExitCode;

/// The longest bundle that is read, bytes.
const LONGEST: u64 = 1024 * 1024;

pub(crate) async fn run(arguments: Trust) -> anyhow::Result<ExitCode> {
    let api = Api::of(&arguments.target).await?;
    match arguments.command {
        TrustCommand::Bundle { output } => bundle(&api, output).await?,
        TrustCommand::Add(add) => self::add(&api, &add).await?,
        TrustCommand::Remove { trust_domain } => remove(&api, &trust_domain).await?,
        TrustCommand::Status { answer } => status(&api, answer.output == crate::cli::Form::Json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn maps(name: &str) -> String {
    format!("/api/v1/namespaces/{SYSTEM_NAMESPACE}/configmaps/{name}")
}

async fn own(api: &Api) -> anyhow::Result<(TrustDomain, Bundle, Value)> {
    let map = api.get(&maps(OWN_BUNDLE)).await.context("the trust bundle of this instance is not there (yet)")?;
    let field = |key: &str| map["data"][key].as_str().unwrap_or_default();
    let status = serde_json::from_str(field(STATUS_KEY)).unwrap_or_default();
    Ok((field(DOMAIN_KEY).parse()?, Bundle::read(field(BUNDLE_KEY).as_bytes())?, status))
}

async fn bundle(api: &Api, form: BundleForm) -> anyhow::Result<()> {
    let (_, bundle, _) = own(api).await?;
    match form {
        BundleForm::Pem => say(bundle.to_pem().trim_end()),
        BundleForm::Spiffe => say(&serde_json::to_string_pretty(&bundle.to_spiffe())?),
    }
    Ok(())
}

fn read(file: &std::path::Path) -> anyhow::Result<Vec<u8>> {
    let mut content = Vec::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().take(LONGEST + 1).read_to_end(&mut content)
    } else {
        std::fs::File::open(file).and_then(|opened| opened.take(LONGEST + 1).read_to_end(&mut content))
    };
    read.map_err(|error| exit::bad_input(format!("cannot read {}: {error}", file.display())))?;
    if content.len() as u64 > LONGEST {
        return Err(exit::bad_input(format!("{} is longer than 1 MiB; that is no trust bundle", file.display())));
    }
    Ok(content)
}

/// The name of the ConfigMap with a domain's bundle. Underscores may be in a trust domain, but in no object's name.
fn name(domain: &TrustDomain) -> String {
    format!("trust-{}", domain.as_str().replace('_', "-"))
}

async fn add(api: &Api, add: &TrustAdd) -> anyhow::Result<()> {
    let bad = |error: &dyn std::fmt::Display| exit::bad_input(format!("{}: {error}", add.file.display()));
    let bundle = Bundle::read(&read(&add.file)?).map_err(|error| bad(&error))?;
    let domain: TrustDomain = add.trust_domain.parse().map_err(|error| exit::bad_input(format!("{error}")))?;
    let (ours, _, _) = own(api).await?;
    if domain == ours && !add.same_domain {
        return Err(exit::bad_input(format!(
            "{domain} is this instance's own trust domain: whoever has these roots could then be any workload of it. \
             Start the other one with another --trust-domain, or say --same-domain if that is meant"
        )));
    }
    let mut data = json!({ DOMAIN_KEY: domain.as_str(), BUNDLE_KEY: bundle.to_spiffe().to_string() });
    if let Some(endpoint) = &add.endpoint {
        if !endpoint.starts_with("https://") {
            return Err(exit::bad_input(format!("--endpoint {endpoint}: bundles are fetched by https only")));
        }
        data[ENDPOINT_KEY] = endpoint.as_str().into();
        data[PROFILE_KEY] = match add.endpoint_profile {
            EndpointProfile::Spiffe => "https_spiffe".into(),
            EndpointProfile::Web => "https_web".into(),
        };
        if let Some(id) = &add.endpoint_spiffe_id {
            let id: SpiffeId = id.parse().map_err(|error| exit::bad_input(format!("{error}")))?;
            data[ENDPOINT_ID_KEY] = id.as_str().into();
        }
    }
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name(&domain), "labels": { BUNDLE_LABEL: "foreign" } },
        "data": data,
    });
    api.apply(&maps(&name(&domain)), &map, true, false).await?;
    let count = bundle.roots().len();
    say(&format!("trusted: {domain} ({count} root{})", if count == 1 { "" } else { "s" }));
    Ok(())
}

async fn remove(api: &Api, domain: &str) -> anyhow::Result<()> {
    let domain: TrustDomain = domain.parse().map_err(|error| exit::bad_input(format!("{error}")))?;
    api.delete(&maps(&name(&domain)), &json!({})).await?;
    say(&format!("no longer trusted: {domain}"));
    Ok(())
}

async fn status(api: &Api, json: bool) -> anyhow::Result<()> {
    let (domain, _, status) = own(api).await?;
    let path = format!(
        "/api/v1/namespaces/{SYSTEM_NAMESPACE}/configmaps?labelSelector={}%3Dforeign",
        BUNDLE_LABEL.replace('/', "%2F")
    );
    let list = api.get(&path).await?;
    let foreign = list["items"].as_array().into_iter().flatten();
    let foreign: Vec<&str> = foreign.filter_map(|map| map["data"][DOMAIN_KEY].as_str()).collect();
    if json {
        say(&json!({ "trustDomain": domain.as_str(), "trusted": foreign, "status": status }).to_string());
        return Ok(());
    }
    let level = ["quiet", "no certificates can be issued", "expired certificates are used in their grace", "lost"];
    let alarm = status["alarm"].as_u64().and_then(|alarm| usize::try_from(alarm).ok());
    say(&format!("trust domain   {domain}"));
    say(&format!("also trusted   {}", if foreign.is_empty() { "nobody".to_owned() } else { foreign.join(", ") }));
    say(&format!("certificates   {}", status["certificates"]));
    say(&format!("first expiry   {}", status["firstExpiry"].as_str().unwrap_or("none")));
    say(&format!("alarm          {}", alarm.and_then(|alarm| level.get(alarm)).unwrap_or(&"unknown")));
    if let Some(endpoint) = status["bundleEndpoint"].as_str() {
        say(&format!("served at      {endpoint}"));
    }
    if let Some(trouble) = status["trouble"].as_str() {
        say(&format!("trouble        {trouble}"));
    }
    Ok(())
}
