//! What one grant may have its bearer take: words in lines of keys, members in answers of `auth.forward.url`.

use serde::{Deserialize, Serialize};

use crate::config::words::Words;

/// What a grant's bearer may take; the gateway's own limits hold where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Streams open at once, of this subject, on this gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<u32>,
    /// Events published in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_rate: Option<u32>,
}

impl Limits {
    /// The words that [`Limits::of`] reads.
    pub const WORDS: [&str; 2] = ["streams", "rate"];

    /// Those of a line.
    pub fn of(words: &Words<'_>) -> Result<Self, String> {
        Ok(Limits { streams: words.number("streams")?, publish_rate: words.number("rate")? })
    }
}
