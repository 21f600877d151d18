//! A client's position in its stream, as it stands in `id:` and comes back in `Last-Event-ID`.

use std::fmt;
use std::str::FromStr;

use crate::{EventId, EventIdError};

/// A client's position in its stream. The client has everything at or below it, or was told what
/// is missing.
///
/// A stream's channels all belong to one partition, so the cursor is that partition's position,
/// written as an event id: `<ms>-<seq>`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor(EventId);

impl Cursor {
    /// The position in the stream's partition.
    pub fn position(self) -> EventId {
        self.0
    }
}

impl From<EventId> for Cursor {
    fn from(position: EventId) -> Self {
        Cursor(position)
    }
}

impl FromStr for Cursor {
    type Err = EventIdError;

    fn from_str(text: &str) -> Result<Self, EventIdError> {
        text.parse().map(Cursor)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_written_as_its_event_id() {
        let cursor: Cursor = "5-65536".parse().unwrap();
        assert_eq!(cursor.position(), EventId { ms: 5, seq: 65536 });
        assert_eq!(cursor.to_string(), "5-65536");
        assert!("5".parse::<Cursor>().is_err());
    }
}
