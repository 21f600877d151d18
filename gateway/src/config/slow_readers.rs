//! `stream.slow_readers`: how to treat clients that read too slowly, by channel.

use serde::Deserialize;
use sse_contract::pattern::Pattern;

/// How to treat a client that is too slow for the live events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlowReader {
    /// The client reads history at its own pace and misses nothing.
    Replay,
    /// The client is sent the channel's newest event, and a gap that says that others were left
    /// out.
    Latest,
    /// The client's stream is closed.
    Close,
}

/// A rule `<pattern>=<policy>`, where `*` in the pattern stands for any text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SlowReaderRule {
    pattern: Pattern,
    /// The policy for the channels that match.
    pub policy: SlowReader,
}

impl TryFrom<String> for SlowReaderRule {
    type Error = String;

    fn try_from(rule: String) -> Result<Self, String> {
        // A channel's name may contain `=`, so the last one separates the policy.
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
