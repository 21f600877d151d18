//! Cursors: `Last-Event-ID` in the header and in the query. A valid id is used exactly as sent, and
//! an invalid one is reported as unknown. Neither is taken for the beginning or the end.
//!
//! Input: the header, 0xFF, the parameter.

use actix_web::http::header::HeaderValue;
use actix_web::test::TestRequest;
use sse_contract::{Cursor, EventId, Positions};
use sse_gateway::http::request::subscription;
use sse_gateway::stream::subscription::Begin;

use crate::parts;

/// Reads header and parameter of one request.
pub fn run(data: &[u8]) {
    let [header, parameter] = parts(data);
    let encoded: String = parameter.iter().map(|byte| format!("%{byte:02X}")).collect();
    let mut request = TestRequest::get().uri(&format!("/events?channel=a&last_event_id={encoded}"));
    let header = HeaderValue::from_bytes(header).ok();
    if let Some(value) = &header {
        request = request.insert_header(("Last-Event-ID", value.clone()));
    }
    let read = subscription(&request.to_http_request(), 1);
    let in_utf8 = std::str::from_utf8(parameter).is_ok();
    assert_eq!(read.is_ok(), in_utf8, "only a parameter that is no UTF-8 is refused");
    let Ok(read) = read else { return };
    let raw = header.as_ref().map(HeaderValue::as_bytes).filter(|header| !header.is_empty());
    is_meant(raw.unwrap_or(parameter), &read.begin);
}

/// Checks that a start is what these bytes mean.
pub fn is_meant(raw: &[u8], begin: &Begin) {
    match begin {
        Begin::Now => assert!(raw.is_empty(), "{raw:?}"),
        Begin::Oldest => assert_eq!(raw, b"0"),
        Begin::After(Cursor::One(id)) => {
            assert_eq!(id_of(raw), Some(*id), "{raw:?}");
            assert!(*id <= EventId::MAX);
            assert_eq!(id.to_string().parse(), Ok(*id));
            assert!(id.next(0) > *id && id.next(0).epoch() == id.epoch());
            // No event has an id in the first millisecond.
            assert!(id.ms == 0 || (id.before() < *id && id.before().epoch() == id.epoch()));
        }
        Begin::After(Cursor::Several(positions)) => {
            // The only text of these positions.
            let text = Cursor::Several(positions.clone()).to_string();
            assert!(text.as_bytes() == raw && text.len() <= 1024, "{raw:?}");
            let named = (0..=u16::MAX).filter(|partition| positions.of(*partition).is_some());
            assert!((1..=Positions::MOST).contains(&named.count()));
        }
        Begin::Unknown(text) => {
            assert!(!raw.is_empty() && raw != b"0" && id_of(raw).is_none(), "{raw:?}");
            assert!(text.chars().count() <= 64, "no more than so much is repeated");
            assert!(raw.len() > 1024 || String::from_utf8_lossy(raw).starts_with(&**text));
        }
    }
}

/// Two numbers with a hyphen between them, of at most 14 digits each.
fn id_of(raw: &[u8]) -> Option<EventId> {
    let hyphen = raw.iter().position(|byte| *byte == b'-')?;
    let number = |digits: &[u8]| {
        if digits.is_empty() || digits.len() > 14 || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        Some(digits.iter().fold(0_u64, |n, digit| 10 * n + u64::from(digit - b'0')))
    };
    let (ms, seq) = (number(&raw[..hyphen])?, number(&raw[hyphen + 1..])?);
    (ms < 99_000_000_000_000 && seq < 1 << 44).then_some(EventId { ms, seq })
}
