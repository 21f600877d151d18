//! Limits of a single grant, from the words of a key line or the answer of `auth.forward.url`.

use serde::{Deserialize, Serialize};

use crate::config::words::Words;

/// The limits of a grant. Where one is none, the configured limit applies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The most streams that the subject may have open. Applies per gateway, and to all gateways
    /// together in place of `limits.cluster_streams_per_subject`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<u32>,
    /// The most events that the subject may publish per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_rate: Option<u32>,
}

impl Limits {
    /// The words that [`Limits::of`] reads.
    pub const WORDS: [&str; 2] = ["streams", "rate"];

    /// Reads the limits from a line's words.
    pub fn of(words: &Words<'_>) -> Result<Self, String> {
        Ok(Limits { streams: words.number("streams")?, publish_rate: words.number("rate")? })
    }
}
