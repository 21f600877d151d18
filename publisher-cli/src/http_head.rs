//! Interprets the head of an answer and the problem document that follows it. Does no I/O.

use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER};
use serde::Deserialize;

use crate::attempt::Reason;

/// The members of a problem document (RFC 9457) that this program uses.
#[derive(Debug, Default, Deserialize)]
pub struct Problem {
    /// The type of the problem.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// A text that describes the type.
    pub title: Option<String>,
    /// The HTTP status.
    pub status: Option<u16>,
    /// A text about this occurrence.
    pub detail: Option<String>,
}

impl Problem {
    /// The most specific text in the document, with advice if a credential is missing or
    /// insufficient.
    pub fn into_reason(self, status: StatusCode) -> Reason {
        let mut text = self.detail.or(self.title).unwrap_or_else(|| format!("HTTP {status}"));
        // A 403 that is not the gateway's may have any cause, so advice could be wrong.
        let ours = self.kind.as_deref().is_some_and(|kind| DENIED.contains(&kind));
        if let Some(advice) = advice(status).filter(|_| ours || status != StatusCode::FORBIDDEN) {
            text += &format!("; {advice}");
        }
        Reason { kind: self.kind, text }
    }
}

/// The types of problems with which a gateway denies a request.
const DENIED: [&str; 2] = ["urn:sse-gateway:publish-denied", "urn:sse-gateway:subscribe-denied"];

/// What to do about a credential that the gateway does not accept.
pub fn advice(status: StatusCode) -> Option<&'static str> {
    match status {
        StatusCode::UNAUTHORIZED => Some(
            "give a --token or --key that the gateway takes (SSE_TOKEN, SSE_KEY); \
             sse-publish token check says what is wrong with a token",
        ),
        StatusCode::FORBIDDEN => Some(
            "which channels are allowed is said by the token's claims, or by the key's line in the gateway's \
             auth.keys, and by the rights of the gateway's own user in Redis",
        ),
        _ => None,
    }
}

/// The reason for a status: from the problem document, from the target of a redirect, or else the
/// status itself.
pub fn reason(status: StatusCode, headers: &HeaderMap, document: &[u8]) -> Reason {
    if status.is_redirection()
        && let Some(to) = headers.get(LOCATION).and_then(|to| to.to_str().ok())
    {
        return Reason::new(format!("HTTP {status}, to {to}; use that address"));
    }
    serde_json::from_slice::<Problem>(document).unwrap_or_default().into_reason(status)
}

/// The value of `Retry-After`, which is a number of seconds or a date.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// The media type in lower case, without parameters; empty if there is none.
pub fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, want) in [
            ("7", Some(7)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            assert_eq!(retry_after(&headers, now), want.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn who_is_not_let_in_is_told_what_to_do() {
        let of = |status, document: &[u8]| reason(status, &HeaderMap::new(), document).text;
        let expired =
            br#"{"type":"urn:sse-gateway:invalid-token","detail":"the token has expired"}"#;
        let text = of(StatusCode::UNAUTHORIZED, expired);
        assert!(text.starts_with("the token has expired; give a --token or --key"), "{text}");
        assert!(of(StatusCode::UNAUTHORIZED, b"").contains("--token or --key"));
        let denied = br#"{"type":"urn:sse-gateway:publish-denied","detail":"not orders"}"#;
        let text = of(StatusCode::FORBIDDEN, denied);
        assert!(text.starts_with("not orders; which channels are allowed"), "{text}");
        let foreign = br#"{"type":"urn:sse-gateway:foreign-origin","detail":"no"}"#;
        assert_eq!(of(StatusCode::FORBIDDEN, foreign), "no");
        assert_eq!(of(StatusCode::FORBIDDEN, b"<html>"), "HTTP 403 Forbidden");
    }

    #[test]
    fn a_reason_is_the_most_particular_text() {
        let headers = HeaderMap::new();
        let problem = br#"{"type":"urn:x","title":"Bad","status":400,"detail":"channel: no"}"#;
        let want = Reason { kind: Some("urn:x".into()), text: "channel: no".into() };
        assert_eq!(reason(StatusCode::BAD_REQUEST, &headers, problem), want);
        assert_eq!(
            reason(StatusCode::BAD_GATEWAY, &headers, b"<html>").text,
            "HTTP 502 Bad Gateway"
        );
    }
}
