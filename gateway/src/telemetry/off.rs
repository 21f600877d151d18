//! The telemetry of a program without the feature `otlp`: none.

use std::time::Duration;

use sse_contract::EventId;

use crate::config::TelemetryConfig;
use crate::metrics::Metrics;
use crate::telemetry::{Asked, Failure};

/// Begins no spans.
#[derive(Debug)]
pub struct Telemetry(());

/// No span.
#[derive(Debug)]
pub struct Span(());

impl Telemetry {
    /// Starts nothing. A configuration that names a collector was refused before.
    pub fn start(_: &TelemetryConfig, _: &Metrics) -> Result<Self, String> {
        Ok(Telemetry(()))
    }

    /// Begins nothing, and does not look at the request.
    pub fn begin<'a>(&self, _: impl FnOnce() -> Asked<'a>) -> Span {
        Span(())
    }

    /// Has nothing to wait for.
    pub async fn finish(&self, _: Duration) {}
}

impl Span {
    /// False: nothing need be told.
    pub fn is_recording(&self) -> bool {
        false
    }

    /// Tells nobody.
    pub fn event(&mut self, _: &str, _: usize, _: Result<EventId, Failure>) {}

    /// Ends nothing.
    pub fn end(self, _: u16, _: Option<&'static str>) {}
}
