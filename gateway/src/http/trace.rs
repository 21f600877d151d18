//! The trace that a publisher's request belongs to, carried to the log (W3C Trace Context).

use std::sync::Arc;

use actix_web::HttpRequest;
use sse_contract::EventId;
use tracing::Level;

use crate::feed::publication::{Publication, PublishError};

/// The target of a line for each event that is published through this gateway:
/// `log.level = "info,sse_gateway::publishing=debug"` shows them.
const PUBLISHING: &str = "sse_gateway::publishing";

/// A request's trace; most requests have none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace(Option<Arc<str>>);

impl Trace {
    /// The value of the request's `traceparent`. A malformed one counts as none, as the standard
    /// asks (§3.2.2.3): it must not keep an event from being published.
    pub(crate) fn of(request: &HttpRequest) -> Self {
        let value = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
        Trace(value.filter(|value| is_traceparent(value)).map(Arc::from))
    }

    /// Logs what became of each publication.
    pub(crate) fn tell(&self, items: &[Publication], results: &[Result<EventId, PublishError>]) {
        if !tracing::enabled!(target: PUBLISHING, Level::DEBUG) {
            return;
        }
        let traceparent = self.0.as_deref();
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
