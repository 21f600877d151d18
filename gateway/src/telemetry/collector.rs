//! The way of spans to the collector: a bounded queue, a thread of the library, and requests over
//! HTTP. A collector that is away or slow costs spans, which are counted, and nothing else.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use opentelemetry::Context;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor,
};
use prometheus::IntCounterVec;
use tokio::runtime::{Builder, Runtime};
use url::Url;

use crate::access::outbound::{Outbound, Question};

/// How many spans may wait, those of the request under way included. A span takes some 2 KB, and
/// 5 KB at most.
const MOST_WAITING: usize = 2048;
/// How long one request may take. The library repeats it for ten seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer of a collector, in bytes.
const MOST_BYTES: usize = 64 * 1024;

/// Counts spans, and tells in the log when their export begins to fail and when it works again.
#[derive(Debug)]
pub(super) struct Tally {
    counted: IntCounterVec,
    /// Spans that have ended, and whose export has not.
    waiting: AtomicUsize,
    failing: AtomicBool,
    /// What the last request failed at; none if it was answered. The library keeps it to itself.
    error: Mutex<Option<String>>,
}

impl Tally {
    pub(super) fn new(counted: IntCounterVec) -> Self {
        let (waiting, failing) = (AtomicUsize::new(0), AtomicBool::new(false));
        Tally { counted, waiting, failing, error: Mutex::new(None) }
    }

    /// How many spans wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether one more span may wait; counts it either way.
    fn admits(&self) -> bool {
        let admitted = self.waiting.fetch_add(1, Ordering::Relaxed) < MOST_WAITING;
        if !admitted {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.count("dropped", 1);
        }
        admitted
    }

    fn settle(&self, spans: usize, result: &OTelSdkResult) {
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        let Err(error) = result else {
            self.count("exported", spans);
            if self.failing.swap(false, Ordering::Relaxed) {
                tracing::info!("spans are exported again");
            }
            return;
        };
        self.count("failed", spans);
        if !self.failing.swap(true, Ordering::Relaxed) {
            let cause = self.error.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let error = cause.unwrap_or_else(|| error.to_string());
            tracing::warn!(%error, "spans cannot be exported and are lost");
        }
    }

    fn count(&self, result: &str, spans: usize) {
        self.counted.with_label_values(&[result]).inc_by(spans as u64);
    }
}

/// Hands spans to the library's queue as long as there is room. The library would drop them
/// without a number that could be asked for.
#[derive(Debug)]
pub(super) struct Bounded {
    queue: BatchSpanProcessor,
    tally: Arc<Tally>,
}

impl Bounded {
    /// Starts the thread that exports.
    pub(super) fn new(exporter: Exporter, tally: Arc<Tally>) -> Self {
        let config = BatchConfigBuilder::default().with_max_queue_size(MOST_WAITING).build();
        Bounded { queue: BatchSpanProcessor::new(exporter, config), tally }
    }
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.queue.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.tally.admits() {
            self.queue.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.queue.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.queue.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.queue.set_resource(resource);
    }
}

/// The library's exporter, with its results counted.
#[derive(Debug)]
pub(super) struct Exporter {
    otlp: opentelemetry_otlp::SpanExporter,
    tally: Arc<Tally>,
}

impl Exporter {
    /// Makes an exporter for the collector at `url`. The library reads the variables `OTEL_…`.
    pub(super) fn new(url: &Url, tally: Arc<Tally>) -> Result<Self, String> {
        let refused = |error: &dyn std::fmt::Display| format!("telemetry.otlp: {error}");
        let client = Client::new(tally.clone()).map_err(|error| refused(&error))?;
        let otlp = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", url.as_str().trim_end_matches('/')))
            .build()
            .map_err(|error| refused(&error))?;
        Ok(Exporter { otlp, tally })
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.otlp.export(batch).await;
        self.tally.settle(spans, &result);
        result
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.otlp.shutdown()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.otlp.set_resource(resource);
    }
}

/// Sends the library's requests, on the library's thread: it blocks, and has a runtime of its own.
#[derive(Debug)]
struct Client {
    outbound: Outbound,
    /// Present until it is dropped.
    runtime: Option<Runtime>,
    tally: Arc<Tally>,
}

impl Client {
    fn new(tally: Arc<Tally>) -> std::io::Result<Self> {
        let runtime = Some(Builder::new_current_thread().enable_all().build()?);
        Ok(Client { outbound: Outbound::new(), runtime, tally })
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let runtime = self.runtime.as_ref().ok_or("the gateway ends")?;
        let (head, body) = request.into_parts();
        let url = Url::parse(&head.uri.to_string())?;
        let question = Question {
            method: head.method,
            url: &url,
            headers: head.headers,
            body,
            timeout: PATIENCE,
            most: MOST_BYTES,
        };
        let answered = runtime.block_on(self.outbound.ask(question));
        let error = answered.as_ref().err().cloned();
        *self.tally.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
        let answered = answered?;
        let mut response = Response::new(answered.body);
        (*response.status_mut(), *response.headers_mut()) = (answered.status, answered.headers);
        Ok(response)
    }
}

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> BoxFuture<'b, Result<Response<Bytes>, HttpError>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move { self.send(request) })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Dropping it would wait for a look-up of the collector's name, however long it takes.
            runtime.shutdown_background();
        }
    }
}
