//! The system's clock, and which positions may come from the broker's.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sse_contract::EventId;

/// How far an id's time may be ahead of the last tick's clock plus the time that has passed since.
const AHEAD: Duration = Duration::from_secs(10);

/// The system time in milliseconds since the Unix epoch.
pub(crate) fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_millis() as u64
}

/// Whether `id` can come from a clock that stood at `last` at the time `heard`. An id further in
/// the future was forged, or comes from a clock that jumped. If it were believed, every later event
/// would be below it.
pub(crate) fn believable(last: EventId, heard: Instant, id: EventId) -> bool {
    let since = (heard.elapsed() + AHEAD).as_millis() as u64;
    id.ms <= last.ms.saturating_add(since)
}
