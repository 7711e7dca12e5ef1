//! Sends spans to a collector.
//!
//! Invariants: a batch is tried a few times with growing pauses and then dropped; what waits meanwhile is bounded; what the collector
//! refuses for good is not sent again (OTLP 1.x, "Failures"); the end of the program waits only so long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::{BATCH, EXPORT_DELAY, EXPORT_PAUSE, EXPORT_TIMEOUT, EXPORT_TRIES, LAST, Otlp};
use crate::otlp;
use crate::record::Record;

/// The most of a collector's answer that is read.
const ANSWER: usize = 64 * 1024;

/// How a collector took a batch.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Taken,
    /// It may be sent again, not before so long.
    Later(String, Option<Duration>),
    Refused(String),
}

pub(crate) struct Exporter {
    settings: Otlp,
    client: Client<HttpConnector, Full<Bytes>>,
    spans: mpsc::Receiver<Record>,
    exported: Arc<AtomicU64>,
    dropped: Arc<AtomicU64>,
}

impl Exporter {
    pub(crate) fn new(
        settings: Otlp,
        spans: mpsc::Receiver<Record>,
        exported: Arc<AtomicU64>,
        dropped: Arc<AtomicU64>,
    ) -> Self {
        Self { settings, client: Client::builder(TokioExecutor::new()).build_http(), spans, exported, dropped }
    }

    /// Sends until nobody gives spans any more. After `shutdown`, only for a short while.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let sending = self.send_all(&shutdown);
        let last = async {
            shutdown.cancelled().await;
            tokio::time::sleep(LAST).await;
        };
        tokio::select! {
            () = sending => {}
            () = last => tracing::warn!("the collector did not take the last spans in time"),
        }
    }

    async fn send_all(&mut self, shutdown: &CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.spans.recv_many(&mut batch, BATCH).await > 0 {
            // More may follow; once all ends, nothing is waited for.
            let full = async { while batch.len() < BATCH && self.spans.recv_many(&mut batch, BATCH).await > 0 {} };
            tokio::select! {
                () = full => {}
                () = tokio::time::sleep(EXPORT_DELAY) => {}
                () = shutdown.cancelled() => {}
            }
            self.send(&batch).await;
            batch.clear();
        }
    }

    async fn send(&self, batch: &[Record]) {
        let body = Bytes::from(otlp::request(batch).to_string());
        let mut pause = EXPORT_PAUSE;
        for attempt in 1..=EXPORT_TRIES {
            let why = match self.post(body.clone()).await {
                Outcome::Taken => {
                    self.exported.fetch_add(batch.len() as u64, Ordering::Relaxed);
                    return;
                }
                Outcome::Refused(why) => {
                    tracing::warn!(url = %self.settings.url, spans = batch.len(), "the collector refused spans: {why}");
                    break;
                }
                Outcome::Later(why, wish) => {
                    pause = wish.unwrap_or(pause).min(EXPORT_TIMEOUT);
                    why
                }
            };
            if attempt == EXPORT_TRIES {
                tracing::warn!(url = %self.settings.url, spans = batch.len(), "spans are lost, the collector: {why}");
                break;
            }
            tracing::debug!(attempt, "the collector did not take spans: {why}");
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
    }

    async fn post(&self, body: Bytes) -> Outcome {
        let mut request = Request::post(&self.settings.url).header(header::CONTENT_TYPE, "application/json");
        for (name, value) in &self.settings.headers {
            request = request.header(name, value);
        }
        let request = match request.body(Full::new(body)) {
            Ok(request) => request,
            Err(error) => return Outcome::Refused(error.to_string()),
        };
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| error.to_string())?;
            let (head, body) = response.into_parts();
            // Read to its end, so that the connection can be used again.
            let text = Limited::new(body, ANSWER).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            Ok::<_, String>((head, text))
        };
        match tokio::time::timeout(EXPORT_TIMEOUT, exchange).await {
            Ok(Ok((head, text))) => judge(head.status, head.headers.get(header::RETRY_AFTER), &text),
            Ok(Err(error)) => Outcome::Later(error, None),
            Err(_) => Outcome::Later("it did not answer in time".to_owned(), None),
        }
    }
}

fn judge(status: StatusCode, retry_after: Option<&http::HeaderValue>, text: &[u8]) -> Outcome {
    let said = || format!("{status} {}", String::from_utf8_lossy(&text[..text.len().min(300)]));
    match status.as_u16() {
        200..=299 => Outcome::Taken,
        429 | 502 | 503 | 504 => {
            let seconds = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
            Outcome::Later(said(), seconds.map(Duration::from_secs))
        }
        _ => Outcome::Refused(said()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_sent_again_is() {
        let judged = |code: u16| judge(StatusCode::from_u16(code).expect("a code"), None, b"no");
        assert_eq!(judged(200), Outcome::Taken);
        for code in [429, 502, 503, 504] {
            assert!(matches!(judged(code), Outcome::Later(..)), "{code}");
        }
        for code in [400, 404, 500] {
            assert!(matches!(judged(code), Outcome::Refused(why) if why.contains("no")), "{code}");
        }
        let wish = judge(StatusCode::SERVICE_UNAVAILABLE, Some(&http::HeaderValue::from_static("7")), b"");
        assert!(matches!(wish, Outcome::Later(_, Some(pause)) if pause == Duration::from_secs(7)));
    }
}
