//! A span for each publish request, for a collector that takes OTLP over HTTP.
//!
//! It is in the program only with the feature `otlp`. Without it, the same calls do nothing and
//! compile to nothing, so handlers need not know. A delivery has no span, and its way does not come
//! here.

#[cfg(feature = "otlp")]
mod collector;
#[cfg(not(feature = "otlp"))]
mod off;
#[cfg(feature = "otlp")]
mod spans;

#[cfg(not(feature = "otlp"))]
pub use off::{Span, Telemetry};
#[cfg(feature = "otlp")]
pub use spans::{Span, Telemetry};

/// What a span tells of its request.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The pattern of the path that the handler is for.
    pub route: &'static str,
    /// The path as the client sent it.
    pub path: &'a str,
    /// Whether the request came over TLS to this gateway.
    pub tls: bool,
    /// The `traceparent`, if it is valid: it becomes the span's parent, and its flag decides
    /// whether there is a span.
    pub traceparent: Option<&'a str>,
    /// The `tracestate`.
    pub tracestate: Option<&'a str>,
}

/// Why an event was not published.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    /// The type of problem that the client is told.
    pub kind: &'static str,
    /// Whether the gateway is at fault and not the client.
    pub of_gateway: bool,
}
