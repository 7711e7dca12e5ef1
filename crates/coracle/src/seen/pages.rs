//! The pages about traffic that the API server serves: `/metrics` and `/coracle/v1/...`.

use super::records::Raw;
use super::{edges, explain, metrics};
use apiserver::{Page, PageError, PageRequest};
use futures::future::BoxFuture;
use serde_json::json;
use std::sync::{Arc, OnceLock};
use telemetry::exposition::{Format, render};
use telemetry::process;

/// What pages are made from.
struct Sources {
    proxy: proxy::Handle,
    api: apiserver::Handle,
    telemetry: telemetry::Handle<Raw>,
    identities: mesh::identity::Handle,
}

/// Makes the pages. Its sources are built after the API server, so it is told of them later.
#[derive(Clone, Default)]
pub(crate) struct TrafficPages {
    sources: Arc<OnceLock<Sources>>,
    drifts: Arc<OnceLock<Arc<delivery::drift::board::Board>>>,
}

impl TrafficPages {
    /// Says where drift is counted; only the first word counts.
    pub(crate) fn count_drift(&self, board: Arc<delivery::drift::board::Board>) {
        let _ = self.drifts.set(board);
    }

    /// Says where the numbers are to be had; only the first word counts.
    pub(crate) fn connect(
        &self,
        proxy: proxy::Handle,
        api: apiserver::Handle,
        telemetry: telemetry::Handle<Raw>,
        identities: mesh::identity::Handle,
    ) {
        let _ = self.sources.set(Sources { proxy, api, telemetry, identities });
    }
}

impl apiserver::Pages for TrafficPages {
    fn page(&self, request: PageRequest) -> BoxFuture<'static, Result<Page, PageError>> {
        let this = self.clone();
        Box::pin(async move {
            let starting = || PageError::Unavailable("the data plane is still starting; try again".to_owned());
            let sources = this.sources.get().ok_or_else(starting)?;
            match request.path.as_str() {
                "metrics" => Ok(metrics_page(sources, this.drifts.get(), request.accept.as_deref())),
                "coracle/v1/edges" => Ok(edges_page(sources)),
                "coracle/v1/listeners" => {
                    Ok(json_page(&explain::listeners(&sources.proxy, sources.identities.domain().as_str())))
                }
                "coracle/v1/explain" => {
                    explain::explain(&sources.proxy, &request.query).await.map(|page| json_page(&page))
                }
                "coracle/v1/records" => records_page(sources, &request.query).await,
                _ => Err(PageError::NotFound),
            }
        })
    }
}

fn metrics_page(sources: &Sources, drifts: Option<&Arc<delivery::drift::board::Board>>, accept: Option<&str>) -> Page {
    let format = Format::accepted(accept);
    let stats = sources.proxy.stats();
    let mut families = metrics::traffic(&stats, &edges::of(&stats));
    families.extend(metrics::api(sources.api.load()));
    families.extend(metrics::records(sources.telemetry.counts()));
    families.extend(metrics::identities(sources.identities.gauges()));
    families.extend(drifts.map(|board| metrics::drift(board)));
    families.extend(process::families());
    families.push(metrics::build());
    Page { media: format.media(), body: render(&families, format).into() }
}

fn edges_page(sources: &Sources) -> Page {
    let stats = sources.proxy.stats();
    let page = json!({ "connections": stats.connections, "inFlight": stats.in_flight, "edges": edges::of(&stats) });
    json_page(&page)
}

/// The most records on one page.
const RECORDS: usize = 1_000;

/// Records by the id of a request or trace (`id=`), or the last ones (`last=`), newest first.
async fn records_page(sources: &Sources, query: &[(String, String)]) -> Result<Page, PageError> {
    let value = |wanted: &str| query.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let wrong = |why: &str| PageError::BadRequest(why.to_owned());
    sources.telemetry.settle().await;
    let records = match (value("id"), value("last")) {
        (Some(id), None) if !id.is_empty() => sources.telemetry.find(id),
        (None, Some(last)) => {
            let last: usize = last.parse().map_err(|_| wrong("last is a number of records"))?;
            sources.telemetry.last(last.min(RECORDS))
        }
        _ => return Err(wrong("say which records: id=REQUEST-OR-TRACE-ID, or last=NUMBER")),
    };
    Ok(json_page(&json!({ "records": records })))
}

fn json_page(page: &serde_json::Value) -> Page {
    Page { media: "application/json", body: page.to_string().into() }
}
