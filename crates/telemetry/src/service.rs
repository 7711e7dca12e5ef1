//! The running telemetry: takes records in, in batches, and gives each to whoever wants it. It owns every task.
//!
//! Invariant: it is woken a few times a second however many records there are, as each wake-up is paid for by the thread that gives one,
//! in the middle of a request.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::access_log::Writer;
use crate::config::{BATCH, EXPORT_QUEUE, LINGER, QUEUE, RECENT, Settings};
use crate::error::SettingError;
use crate::export::Exporter;
use crate::handle::{Counters, Handle};
use crate::recent::Recent;
use crate::record::{Record, ToRecord};

/// Telemetry, ready to run.
pub struct Telemetry<T> {
    given: mpsc::Receiver<T>,
    recent: Arc<Recent>,
    counters: Arc<Counters>,
    writer: Option<Writer>,
    exporter: Option<(Exporter, mpsc::Sender<Record>)>,
    now: Arc<Notify>,
    passed: watch::Sender<u64>,
}

/// Opens the access log and makes what runs. Nothing is kept or sent before [`Telemetry::run`].
///
/// # Errors
/// See [`SettingError`].
pub fn build<T: ToRecord>(settings: Settings) -> Result<(Telemetry<T>, Handle<T>), SettingError> {
    let (queue, given) = mpsc::channel(QUEUE);
    let recent = Arc::new(Recent::new(RECENT));
    let counters = Arc::new(Counters::default());
    let writer = settings.access_log.map(Writer::open).transpose()?;
    let exporter = settings.otlp.map(|otlp| {
        let (sender, spans) = mpsc::channel(EXPORT_QUEUE);
        let (exported, dropped) = (Arc::clone(&counters.exported), Arc::clone(&counters.export_dropped));
        (Exporter::new(otlp, spans, exported, dropped), sender)
    });
    let (now, (passed, seen)) = (Arc::new(Notify::new()), watch::channel(0));
    let handle = Handle {
        queue,
        recent: Arc::clone(&recent),
        counters: Arc::clone(&counters),
        now: Arc::clone(&now),
        passed: seen,
    };
    Ok((Telemetry { given, recent, counters, writer, exporter, now, passed }, handle))
}

impl<T: ToRecord> Telemetry<T> {
    /// Takes records until `shutdown`, then what has been given already, and ends once that is written and sent, or some
    /// seconds have passed.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        let sender = self.exporter.take().map(|(exporter, sender)| {
            tasks.spawn(exporter.run(shutdown.clone()));
            sender
        });
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let taken = tokio::select! {
                biased;
                taken = self.given.recv_many(&mut batch, BATCH) => taken,
                () = shutdown.cancelled(), if !self.given.is_closed() => {
                    self.given.close();
                    continue;
                }
            };
            if taken == 0 {
                break;
            }
            let records: Vec<Record> = batch.drain(..).map(ToRecord::to_record).collect();
            self.pass(records, sender.as_ref()).await;
            self.passed.send_modify(|passed| *passed += taken as u64);
            if taken < BATCH {
                // Nothing hears of those that come meanwhile; they are taken together.
                tokio::select! {
                    () = tokio::time::sleep(LINGER) => {}
                    () = self.now.notified() => {}
                    () = shutdown.cancelled() => {}
                }
            }
        }
        // The exporter ends when nobody can give it more.
        drop(sender);
        while tasks.join_next().await.is_some() {}
    }

    async fn pass(&mut self, records: Vec<Record>, exporter: Option<&mpsc::Sender<Record>>) {
        for record in records.iter().filter(|record| record.sampled) {
            if exporter.is_some_and(|exporter| exporter.try_send(record.clone()).is_err()) {
                self.counters.export_dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        let records = match self.writer.take() {
            None => records,
            Some(mut writer) => {
                // Files block.
                let written = tokio::task::spawn_blocking(move || {
                    let lost = writer.write(&records);
                    (writer, records, lost)
                });
                let Ok((writer, records, lost)) = written.await else {
                    tracing::error!("the writer of the access log broke; none is written any more");
                    return;
                };
                self.writer = Some(writer);
                self.counters.lines_lost.fetch_add(lost as u64, Ordering::Relaxed);
                records
            }
        };
        self.recent.keep(records);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::record::tests::hop;

    #[tokio::test(start_paused = true)]
    async fn records_one_by_one_are_looked_at_a_few_times_a_second() {
        let (telemetry, handle) = build::<Record>(Settings::default()).expect("good settings");
        let mut looks = telemetry.passed.subscribe();
        let stop = CancellationToken::new();
        let running = tokio::spawn(telemetry.run(stop.clone()));
        let counting = tokio::spawn(async move {
            let mut count = 0;
            while looks.changed().await.is_ok() {
                count += 1;
            }
            count
        });
        for span in 0..1_000 {
            handle.give(hop(span, None, ["a", "b"], [0, 1]));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        handle.settle().await;
        assert_eq!(handle.last(2_000).len(), 1_000);
        stop.cancel();
        running.await.expect("it ends");
        let looks = counting.await.expect("a count");
        assert!((2..=12).contains(&looks), "{looks}");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_lost_where_many_come_at_once() {
        let (telemetry, handle) = build::<Record>(Settings::default()).expect("good settings");
        let stop = CancellationToken::new();
        let running = tokio::spawn(telemetry.run(stop.clone()));
        handle.give(hop(0, None, ["a", "b"], [0, 1]));
        handle.settle().await;
        let began = tokio::time::Instant::now();
        for span in 0..20_000 {
            handle.give(hop(span, None, ["a", "b"], [0, 1]));
            if span % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(handle.counts().dropped, 0);
        assert_eq!(began.elapsed(), Duration::ZERO, "those who look did not wait for time to pass");
        stop.cancel();
        running.await.expect("it ends");
    }
}
