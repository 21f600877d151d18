//! The trace that a publisher's request belongs to (W3C Trace Context): carried to the log, and to
//! the request's span.

use actix_web::{HttpRequest, HttpResponse};
use sse_contract::EventId;
use tracing::Level;

use crate::feed::publication::{Publication, PublishError};
use crate::http::app::App;
use crate::http::problem::Problem;
use crate::telemetry::{Asked, Failure, Span};

/// The target of a line for each event that is published through this gateway:
/// `log.level = "info,sse_gateway::publishing=debug"` shows them.
const PUBLISHING: &str = "sse_gateway::publishing";

/// A request's trace. Most requests come without one, and have a span only if they are sampled.
#[derive(Debug)]
pub(crate) struct Trace {
    traceparent: Option<Box<str>>,
    span: Span,
}

impl Trace {
    /// Reads the request's `traceparent`, and begins its span. A malformed value counts as none, as
    /// the standard asks (§3.2.2.3): it must not keep an event from being published. `route` is the
    /// pattern of the handler's path.
    pub(crate) fn begin(request: &HttpRequest, app: &App, route: &'static str) -> Self {
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        let traceparent = header("traceparent").filter(|value| is_traceparent(value));
        let span = app.telemetry.begin(|| Asked {
            route,
            path: request.path(),
            tls: app.config.tls.is_on(),
            traceparent,
            tracestate: header("tracestate"),
        });
        Trace { traceparent: traceparent.map(Box::from), span }
    }

    /// Tells the log and the span what became of each publication.
    pub(crate) fn tell(
        &mut self,
        items: &[Publication],
        results: &[Result<EventId, PublishError>],
    ) {
        if self.span.is_recording() {
            for (item, result) in items.iter().zip(results) {
                let result = result.as_ref().copied().map_err(|error| {
                    let problem = Problem::from(error.clone());
                    let of_gateway = problem.status().is_server_error();
                    Failure { kind: problem.kind().name(), of_gateway }
                });
                self.span.event(item.channel.as_str(), item.data.len(), result);
            }
        }
        if !tracing::enabled!(target: PUBLISHING, Level::DEBUG) {
            return;
        }
        let traceparent = self.traceparent.as_deref();
        for (item, result) in items.iter().zip(results) {
            let (channel, bytes) = (item.channel.as_str(), item.data.len());
            match result {
                Ok(id) => tracing::debug!(
                    target: PUBLISHING, traceparent, channel, %id, bytes, "an event is published"
                ),
                Err(error) => tracing::debug!(
                    target: PUBLISHING, traceparent, channel, %error, bytes,
                    "an event is not published"
                ),
            }
        }
    }

    /// Ends the span with the request's answer.
    pub(crate) fn end(self, answer: &Result<HttpResponse, Problem>) {
        match answer {
            Ok(response) => self.span.end(response.status().as_u16(), None),
            Err(problem) => {
                self.span.end(problem.status().as_u16(), Some(problem.kind().name()));
            }
        }
    }
}

/// Whether the text has the form of a `traceparent`: version, trace id, parent id and flags, in
/// lower-case hexadecimal, where neither id is all zeros (§3.2.2).
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &&str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let [version, trace, parent, flags, ..] = parts[..] else { return false };
    let lengths = [version, trace, parent, flags].map(str::len) == [2, 32, 16, 2];
    let zero = |id: &str| id.bytes().all(|byte| byte == b'0');
    // Later versions may have further parts.
    lengths
        && parts.iter().all(hex)
        && version != "ff"
        && (version != "00" || parts.len() == 4)
        && !zero(trace)
        && !zero(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_has_the_form_of_the_standard() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(is_traceparent(good));
        assert!(is_traceparent(&good.replacen("00", "cc", 1)));
        assert!(is_traceparent(&format!("{}-ab", good.replacen("00", "01", 1))));
        for bad in [
            "",
            "x",
            &good.to_uppercase(),
            &good.replacen("00", "ff", 1),
            &good.replace('-', "_"),
            &good[..54],
            &format!("{good}-00"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319\n-b7ad6b7169203331-01",
        ] {
            assert!(!is_traceparent(bad), "{bad:?}");
        }
    }
}
