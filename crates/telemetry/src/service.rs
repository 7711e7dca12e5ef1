//! The running telemetry: takes records in, in batches, and gives each to whoever wants it. It owns every task.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::access_log::Writer;
use crate::config::{BATCH, EXPORT_QUEUE, QUEUE, RECENT, Settings};
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
    let handle = Handle { queue, recent: Arc::clone(&recent), counters: Arc::clone(&counters) };
    Ok((Telemetry { given, recent, counters, writer, exporter }, handle))
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
