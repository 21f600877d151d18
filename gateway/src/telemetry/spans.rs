//! Spans of publish requests, with the attributes of OpenTelemetry's semantic conventions for HTTP
//! servers and for messaging.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span as _, SpanKind, Status, Tracer, TracerProvider};
use opentelemetry::{Context, Key, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{self, Sampler, SdkTracer, SdkTracerProvider};
use sse_contract::EventId;

use crate::config::TelemetryConfig;
use crate::metrics::Metrics;
use crate::telemetry::collector::{Bounded, Exporter, Tally};
use crate::telemetry::{Asked, Failure};

/// The longest path that a span holds, in characters. A channel's name fits, also with each of its
/// 200 bytes escaped.
const LONGEST_PATH: usize = 1024;
/// The longest `tracestate` that a span takes over. All of the standard's limit fits (§3.3.1.5).
const LONGEST_STATE: usize = 512;

/// Begins a span for each publish request, and sends the spans to the collector.
pub struct Telemetry(Option<Spans>);

struct Spans {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
    tally: Arc<Tally>,
}

/// The span of a publish request; none if the request is not sampled or there is no collector. A
/// span that is dropped without an end is exported without a status: its client left before the
/// answer.
#[derive(Debug)]
pub struct Span(Option<Box<Recording>>);

/// A span, and what became of the request's events so far.
#[derive(Debug)]
struct Recording {
    span: trace::Span,
    events: i64,
    failed: i64,
    bytes: i64,
    /// The channel of all events; none if there are several.
    channel: Option<String>,
    id: Option<EventId>,
    /// What the gateway failed at first.
    failure: Option<&'static str>,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the exporter, whose headers hold credentials.
        f.write_str("Telemetry")
    }
}

impl Telemetry {
    /// Starts the thread that exports, if the configuration names a collector.
    ///
    /// # Errors
    ///
    /// The process can have no further descriptors.
    pub fn start(config: &TelemetryConfig, metrics: &Metrics) -> Result<Self, String> {
        let Some(url) = &config.otlp else { return Ok(Telemetry(None)) };
        let tally = Arc::new(Tally::new(metrics.spans.clone()));
        let processor = Bounded::new(Exporter::new(url, tally.clone())?, tally.clone());
        let root = Sampler::TraceIdRatioBased(config.sample_ratio);
        let provider = SdkTracerProvider::builder()
            .with_resource(resource())
            .with_sampler(Sampler::ParentBased(Box::new(root)))
            .with_span_processor(processor)
            .build();
        let tracer = provider.tracer("sse-gateway");
        Ok(Telemetry(Some(Spans { tracer, provider, tally })))
    }

    /// Begins the span of a request.
    pub fn begin<'a>(&self, asked: impl FnOnce() -> Asked<'a>) -> Span {
        let Some(Spans { tracer, .. }) = &self.0 else { return Span(None) };
        let asked = asked();
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &asked);
        let builder = tracer.span_builder(asked.route).with_kind(SpanKind::Server);
        let mut span = builder.start_with_context(tracer, &parent);
        if !span.is_recording() {
            return Span(None);
        }
        span.update_name(format!("POST {}", asked.route));
        let path: String = asked.path.chars().take(LONGEST_PATH).collect();
        span.set_attributes([
            KeyValue::new("http.request.method", "POST"),
            KeyValue::new("http.route", asked.route),
            KeyValue::new("url.path", path),
            KeyValue::new("url.scheme", if asked.tls { "https" } else { "http" }),
            KeyValue::new("messaging.system", "sse-gateway"),
            KeyValue::new("messaging.operation.name", "publish"),
            KeyValue::new("messaging.operation.type", "send"),
        ]);
        let (channel, id, failure) = (None, None, None);
        Span(Some(Box::new(Recording {
            span,
            events: 0,
            failed: 0,
            bytes: 0,
            channel,
            id,
            failure,
        })))
    }

    /// Exports the last spans, within `bound`. There are no spans afterwards.
    pub async fn finish(&self, bound: Duration) {
        let Some(Spans { provider, tally, .. }) = &self.0 else { return };
        let provider = provider.clone();
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(bound));
        if !matches!(ended.await, Ok(Ok(()))) {
            let lost = tally.waiting();
            tracing::warn!(
                spans.lost = lost,
                ?bound,
                "the collector did not take the last spans in time"
            );
        }
    }
}

impl Drop for Spans {
    fn drop(&mut self) {
        // Otherwise the library waits five seconds for the collector, where the gateway ends
        // without a drain. It does nothing after `Telemetry::finish`.
        let _ = self.provider.shutdown_with_timeout(Duration::ZERO);
    }
}

/// What all spans tell of the gateway. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win.
fn resource() -> Resource {
    let given = Resource::builder().build();
    let service = given.get_ref(&Key::new("service.name"));
    let named = service.is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let mut resource = Resource::builder();
    if !named {
        resource = resource.with_service_name("sse-gateway");
    }
    if given.get_ref(&Key::new("service.version")).is_none() {
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        resource = resource.with_attribute(version);
    }
    resource.build()
}

impl Extractor for Asked<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.traceparent,
            "tracestate" => self.tracestate.filter(|state| state.len() <= LONGEST_STATE),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

impl Span {
    /// Whether the request has a span. If not, nothing need be told.
    pub fn is_recording(&self) -> bool {
        self.0.is_some()
    }

    /// Tells what became of an event with `bytes` of data.
    pub fn event(&mut self, channel: &str, bytes: usize, result: Result<EventId, Failure>) {
        let Some(recording) = &mut self.0 else { return };
        if recording.events == 0 {
            recording.channel = Some(channel.to_owned());
        } else if recording.channel.as_deref() != Some(channel) {
            recording.channel = None;
        }
        recording.events += 1;
        recording.bytes += bytes as i64;
        match result {
            Ok(id) => recording.id = Some(id),
            Err(failure) => {
                recording.failed += 1;
                if failure.of_gateway {
                    recording.failure = recording.failure.or(Some(failure.kind));
                }
            }
        }
    }

    /// Ends the span with the answer's status, and the type of its problem if it is one.
    pub fn end(self, status: u16, problem: Option<&'static str>) {
        let Some(mut recording) = self.0 else { return };
        let code = KeyValue::new("http.response.status_code", i64::from(status));
        recording.span.set_attribute(code);
        // An error of the client is none of the server's (semantic conventions of HTTP spans).
        if status >= 500 {
            recording.failure = problem.or(recording.failure).or(Some("internal"));
        }
    }
}

impl Drop for Recording {
    /// Tells of the events. The library ends and exports the span when it is dropped, behind this.
    fn drop(&mut self) {
        let span = &mut self.span;
        if let Some(channel) = self.channel.take() {
            span.set_attribute(KeyValue::new("messaging.destination.name", channel));
        }
        if self.events == 1 {
            span.set_attribute(KeyValue::new("messaging.message.body.size", self.bytes));
            if let Some(id) = self.id {
                span.set_attribute(KeyValue::new("messaging.message.id", id.to_string()));
            }
        } else if self.events > 1 {
            span.set_attributes([
                KeyValue::new("messaging.batch.message_count", self.events),
                KeyValue::new("sse.batch.bytes", self.bytes),
                KeyValue::new("sse.batch.failed", self.failed),
            ]);
        }
        if let Some(failure) = self.failure {
            span.set_attribute(KeyValue::new("error.type", failure));
            span.set_status(Status::error(failure));
        }
    }
}
