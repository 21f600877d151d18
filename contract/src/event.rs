//! An event's type, validated once where it enters the program.

use std::fmt;
use std::str::FromStr;

/// Event types that only the gateway writes to a stream. They report missing events, the position
/// of a stream, and that an idle stream is alive.
pub const RESERVED_EVENT_TYPES: [&str; 3] = ["gap", "checkpoint", "alive"];

/// A valid event type: 1 to 200 bytes of UTF-8 without NUL, CR or LF, and not reserved.
///
/// The `event` field of an event stream ends at a line end (WHATWG HTML §9.2.6). So with a CR or LF
/// in a type, a publisher could write other fields.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventType(Box<str>);

/// Why a text is not an event type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventTypeError {
    /// The type is empty.
    #[error("an event type has at least 1 byte; leave it out for an untyped event")]
    Empty,
    /// Longer than [`EventType::MAX_LEN`] bytes.
    #[error("an event type has at most 200 bytes, this one has {0}")]
    TooLong(usize),
    /// It holds NUL, CR or LF.
    #[error("an event type does not hold {0:?}")]
    Character(char),
    /// It is one of [`RESERVED_EVENT_TYPES`].
    #[error("the event type {0:?} is reserved for the gateway")]
    Reserved(String),
}

impl EventType {
    /// Bytes of the longest type.
    pub const MAX_LEN: usize = 200;

    /// The type's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EventType {
    type Err = EventTypeError;

    fn from_str(text: &str) -> Result<Self, EventTypeError> {
        if text.is_empty() {
            return Err(EventTypeError::Empty);
        }
        if text.len() > Self::MAX_LEN {
            return Err(EventTypeError::TooLong(text.len()));
        }
        if let Some(c) = text.chars().find(|c| matches!(c, '\0' | '\r' | '\n')) {
            return Err(EventTypeError::Character(c));
        }
        if RESERVED_EVENT_TYPES.contains(&text) {
            return Err(EventTypeError::Reserved(text.to_owned()));
        }
        Ok(EventType(text.into()))
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_cannot_hold_a_line_end() {
        for text in ["a\nb", "a\rb", "a\0b"] {
            assert!(matches!(text.parse::<EventType>(), Err(EventTypeError::Character(_))));
        }
        for text in RESERVED_EVENT_TYPES {
            assert!(matches!(text.parse::<EventType>(), Err(EventTypeError::Reserved(_))));
        }
        assert!(matches!("".parse::<EventType>(), Err(EventTypeError::Empty)));
        assert_eq!(" tick: ü".parse::<EventType>().unwrap().as_str(), " tick: ü");
    }
}
