//! `coracle why`: what a request would meet, and what is broken. Gathers the picture; `crate::why` judges it.

use crate::cli::{Form, Why};
use crate::commands::get::percent;
use crate::commands::say;
use crate::connect::{Api, is_not_found};
use crate::why::{Facts, Question, Report, Target, Weight, caller, diagnose};
use crate::{colour, exit};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::ExitCode;

/// The exit code where something is broken.
const BROKEN: u8 = 2;
/// How many recent requests are looked at.
const RECORDS: usize = 1_000;
/// Of how many Pods the last line is shown.
const LINES: usize = 3;

pub(crate) async fn run(arguments: Why) -> anyhow::Result<ExitCode> {
    let api = Api::of(&arguments.at.target).await?;
    let facts = facts(&api, &arguments).await?;
    let report = diagnose(&facts);
    match arguments.answer.output {
        Form::Json => say(&serde_json::to_string(&report)?),
        Form::Text => print(&report),
    }
    Ok(if report.is_broken() { ExitCode::from(BROKEN) } else { ExitCode::SUCCESS })
}

async fn facts(api: &Api, arguments: &Why) -> anyhow::Result<Facts> {
    let namespace = &api.namespace(&arguments.at.scope);
    let services = items(api, "/api/v1/services").await?;
    let parsed = Target::parse(&arguments.what, namespace, &services).map_err(exit::bad_input)?;
    let pods = items(api, "/api/v1/pods").await?;
    let page = api.get("/coracle/v1/listeners").await?;
    let listener = listener(&page, &parsed.target, &services);
    let domain = page["trustDomain"].as_str().unwrap_or_default();
    let caller = arguments.from.as_deref().map(|from| caller(from, namespace, &pods, domain));
    let question = listener.as_ref().map(|(id, _)| Question {
        listener: id.clone(),
        host: parsed.host.clone(),
        method: arguments.method.to_ascii_uppercase(),
        path: arguments.path.clone().unwrap_or_else(|| parsed.path.clone()),
        headers: arguments
            .headers
            .iter()
            .filter_map(|h| h.split_once(':'))
            .map(|(n, v)| (n.trim().to_owned(), v.trim().to_owned()))
            .collect(),
    });
    let path = arguments.path.as_deref().unwrap_or(&parsed.path);
    let request = format!("{} {}{path}", arguments.method.to_ascii_uppercase(), parsed.host);
    let mut routes = items(api, "/apis/gateway.networking.k8s.io/v1/httproutes").await?;
    routes.extend(items(api, "/apis/gateway.networking.k8s.io/v1/grpcroutes").await?);
    routes.extend(items(api, "/apis/gateway.networking.k8s.io/v1/tlsroutes").await?);
    let mut gateways = items(api, "/apis/gateway.networking.k8s.io/v1/gateways").await?;
    gateways.extend(items(api, "/apis/gateway.networking.k8s.io/v1/listenersets").await?);
    let mut policies = items(api, "/apis/mesh.coracle.dev/v1alpha1/trafficpolicies").await?;
    policies.extend(items(api, "/apis/mesh.coracle.dev/v1alpha1/accesspolicies").await?);
    policies.extend(items(api, "/apis/gateway.networking.k8s.io/v1/backendtlspolicies").await?);
    policies.extend(items(api, "/apis/dapr.io/v1alpha1/resiliencies").await?);
    let records = api.get(&format!("/coracle/v1/records?last={RECORDS}")).await?;
    Ok(Facts {
        certificates: super::status::certificates(api).await?,
        explanation: match &question {
            Some(question) => explanation(api, question, caller.as_ref()).await?,
            None => None,
        },
        last_lines: last_lines(api, &parsed.target, &services, &pods).await,
        slices: items(api, "/apis/discovery.k8s.io/v1/endpointslices").await?,
        gateways,
        records: serde_json::from_value(records["records"].clone())?,
        target: parsed.target,
        request,
        services,
        pods,
        routes,
        policies,
        listener,
        caller,
    })
}

/// The objects of a collection, each with its kind; none where the API has no such kind.
async fn items(api: &Api, path: &str) -> anyhow::Result<Vec<Value>> {
    let list = match api.get(path).await {
        Err(error) if is_not_found(&error) => return Ok(Vec::new()),
        list => list?,
    };
    let kind = list["kind"].as_str().unwrap_or_default().trim_end_matches("List").to_owned();
    let with_kind = |object: &Value| {
        let mut object = object.clone();
        object["kind"] = kind.as_str().into();
        object
    };
    Ok(list["items"].as_array().into_iter().flatten().map(with_kind).collect())
}

/// The listener that a request to the target comes in by, where the proxy has one.
fn listener(page: &Value, target: &Target, services: &[Value]) -> Option<(String, Result<String, String>)> {
    let all = page["listeners"].as_array().cloned().unwrap_or_default();
    let wanted = |listener: &&Value| match target {
        Target::Service { namespace, name, port } => {
            let Some(number) = number(services, namespace, name, port.as_deref()) else { return false };
            listener["id"] == format!("service/{namespace}/{name}:{number}")
        }
        Target::Gateway { port, .. } => {
            let own = listener["address"].as_str().is_some_and(|address| address.ends_with(&format!(":{port}")));
            listener["gateway"] == true && (own || listener["id"] == format!("gateway/{port}"))
        }
    };
    all.iter().find(wanted).map(|listener| {
        let text = |field: &str| listener[field].as_str().map(str::to_owned);
        (text("id").unwrap_or_default(), text("address").ok_or_else(|| text("error").unwrap_or_default()))
    })
}

/// The number of a Service's port.
fn number(services: &[Value], namespace: &str, name: &str, port: Option<&str>) -> Option<u64> {
    let own = |service: &&Value| service["metadata"]["namespace"] == namespace && service["metadata"]["name"] == name;
    let ports = services.iter().find(own)?["spec"]["ports"].as_array()?;
    let wanted = |candidate: &&Value| {
        port.is_none_or(|port| {
            candidate["port"].as_u64().is_some_and(|number| port.parse() == Ok(number)) || candidate["name"] == port
        })
    };
    ports.iter().find(wanted)?["port"].as_u64()
}

async fn explanation(
    api: &Api,
    question: &Question,
    caller: Option<&Result<crate::why::Caller, String>>,
) -> anyhow::Result<Option<Value>> {
    let mut query = vec![
        format!("listener={}", percent(&question.listener)),
        format!("host={}", percent(&question.host)),
        format!("method={}", percent(&question.method)),
        format!("path={}", percent(&question.path)),
    ];
    query
        .extend(question.headers.iter().map(|(name, value)| format!("header={}", percent(&format!("{name}:{value}")))));
    if let Some(Ok(crate::why::Caller { workload, identity: Some(identity) })) = caller {
        query.extend([format!("workload={}", percent(workload)), format!("identity={}", percent(identity))]);
    }
    match api.get(&format!("/coracle/v1/explain?{}", query.join("&"))).await {
        Err(error) if is_not_found(&error) => Ok(None),
        explanation => explanation.map(Some),
    }
}

/// The last line that each of the first Pods wrote that are not ready. What cannot be read is left out.
async fn last_lines(api: &Api, target: &Target, services: &[Value], pods: &[Value]) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let Target::Service { namespace, name, .. } = target else { return lines };
    let own = services.iter().find(|service| {
        service["metadata"]["namespace"] == namespace.as_str() && service["metadata"]["name"] == name.as_str()
    });
    let Some(selector) = own.and_then(|service| service["spec"]["selector"].as_object()) else { return lines };
    let selected = pods.iter().filter(|pod| {
        pod["metadata"]["namespace"] == namespace.as_str()
            && selector.iter().all(|(key, value)| &pod["metadata"]["labels"][key] == value)
            && !crate::readiness::is_ready(pod)
    });
    for pod in selected.take(LINES) {
        let pod = pod["metadata"]["name"].as_str().unwrap_or_default();
        for previous in ["", "&previous=true"] {
            let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/log?tailLines=1{previous}");
            let Ok(text) = api.text(&path).await else { continue };
            if let Some(line) = text.lines().last().filter(|line| !line.is_empty()) {
                lines.insert(format!("{namespace}/{pod}"), line.chars().take(300).collect());
                break;
            }
        }
    }
    lines
}

fn print(report: &Report) {
    say(&format!("{:<10}{}", "request", report.request));
    for (what, is) in &report.steps {
        say(&format!("{what:<10}{is}"));
    }
    for finding in &report.findings {
        say("");
        let word = match finding.weight {
            Weight::Broken => colour::by_name("broken", "broken:", false),
            Weight::Doubtful => "note:".to_owned(),
        };
        say(&format!("{word} {}", finding.problem));
        finding.evidence.iter().for_each(|evidence| say(&format!("  {evidence}")));
        finding.next.iter().for_each(|next| say(&format!("  next: {next}")));
    }
    if !report.is_broken() {
        say("");
        say("nothing is broken on this way");
    }
}
