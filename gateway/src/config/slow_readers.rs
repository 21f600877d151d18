//! `stream.slow_readers`: what becomes of a reader that is too slow for the live events, by channel.

use serde::Deserialize;
use sse_contract::pattern::Pattern;

/// What becomes of a reader that is too slow for the live events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlowReader {
    /// It reads history at its own pace, and misses nothing.
    Replay,
    /// It is sent the newest event of the channel, and told that others were left out.
    Latest,
    /// Its stream is closed.
    Close,
}

/// `<pattern>=<policy>`: `*` in the pattern stands for any text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SlowReaderRule {
    pattern: Pattern,
    /// What becomes of readers of the channels that match.
    pub policy: SlowReader,
}

impl TryFrom<String> for SlowReaderRule {
    type Error = String;

    fn try_from(rule: String) -> Result<Self, String> {
        // A channel's name may hold an equals sign, so the last one counts.
        let (pattern, policy) = rule.rsplit_once('=').unwrap_or((&rule, ""));
        let (pattern, policy) = (pattern.trim(), policy.trim());
        let policy = match policy {
            "replay" => SlowReader::Replay,
            "latest" => SlowReader::Latest,
            "close" => SlowReader::Close,
            _ => {
                return Err(format!(
                    "{rule:?} is not PATTERN=POLICY with a policy of replay, latest or close"
                ));
            }
        };
        let pattern = Pattern::of_name(pattern).ok_or_else(|| {
            format!(
                "{rule:?} matches no channel: a pattern is a channel's name, with * for any text"
            )
        })?;
        Ok(SlowReaderRule { pattern, policy })
    }
}

impl SlowReaderRule {
    /// Whether a channel's name matches the pattern.
    pub fn matches(&self, name: &str) -> bool {
        self.pattern.matches(name)
    }
}
