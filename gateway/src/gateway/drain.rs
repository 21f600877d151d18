//! The story of a drain in the log: its beginning, every two seconds how many streams are left, and
//! at its end what became of all of them.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use crate::config::DrainConfig;
use crate::http::app::App;
use crate::metrics::Rejection;
use crate::stream::close_reason::CloseReason;

/// The time between two lines about progress.
const PAUSE: Duration = Duration::from_secs(2);

/// A drain that has begun.
pub(super) struct Drain<'a> {
    app: &'a App,
    began: Instant,
    /// How many streams were open then.
    streams: u64,
    before: Counts,
}

/// How many streams were closed by the drain and by anything else, and how many new ones were
/// refused because of the drain.
struct Counts {
    by_drain: u64,
    otherwise: u64,
    refused: u64,
}

impl Counts {
    fn of(app: &App) -> Self {
        let closed = |reason: CloseReason| app.metrics.sum(|c| c.closed[reason as usize].get());
        let by_drain = closed(CloseReason::Drain);
        let all: u64 = CloseReason::ALL.into_iter().map(closed).sum();
        let refused = app.metrics.rejected.with_label_values(&[Rejection::Draining.as_str()]).get();
        Counts { by_drain, otherwise: all - by_drain, refused }
    }
}

impl<'a> Drain<'a> {
    /// Makes the gateway refuse new streams, and logs that it stops.
    pub(super) fn begin(app: &'a App, config: &DrainConfig) -> Self {
        app.begin_drain();
        let (before, streams) = (Counts::of(app), app.open_streams.get());
        tracing::info!(streams, spread = ?config.spread, deadline = ?config.deadline, "draining");
        Drain { app, began: Instant::now(), streams, before }
    }

    /// Logs how far the drain is, again and again.
    pub(super) async fn follow(&self) -> Infallible {
        let mut pauses = tokio::time::interval(PAUSE);
        pauses.tick().await;
        loop {
            pauses.tick().await;
            let (left, seconds) = (self.app.open_streams.get(), self.began.elapsed().as_secs_f64());
            tracing::info!(seconds, streams = self.streams, streams.left = left, "still draining");
        }
    }

    /// Logs what is cut off, because the deadline has passed.
    pub(super) fn late(&self, deadline: Duration) {
        tracing::warn!(
            ?deadline,
            streams.left = self.app.open_streams.get(),
            "the drain's deadline passed; what is left is cut off"
        );
    }

    /// Logs what became of the streams.
    pub(super) fn end(&self) {
        let (now, before) = (Counts::of(self.app), &self.before);
        tracing::info!(
            seconds = self.began.elapsed().as_secs_f64(),
            streams = self.streams,
            closed.drain = now.by_drain - before.by_drain,
            closed.otherwise = now.otherwise - before.otherwise,
            refused = now.refused - before.refused,
            "drained: these streams have ended"
        );
    }
}
