//! A channel's name, checked once at the edge.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A valid channel name: 1 to 200 bytes of `[A-Za-z0-9_.:@/=+~-]`, not beginning with a colon.
///
/// The set needs no escaping in a Redis key, a log line or JSON, and leaves `{` and `}` free for the
/// hash tag of a partition. A leading colon is refused so that `<prefix>::…` stays free.
/// Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

/// Why a text is not a channel name. The message names the rule and the culprit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The name has no bytes.
    #[error("a channel name has at least 1 byte")]
    Empty,
    /// The name is longer than [`Channel::MAX_LEN`] bytes.
    #[error("a channel name has at most 200 bytes, this one has {0}")]
    TooLong(usize),
    /// A character outside the set.
    #[error("a channel name holds only A-Z a-z 0-9 and _ . : @ / = + ~ -, not {0:?}")]
    Character(char),
    /// The first character is a colon.
    #[error("a channel name does not begin with a colon")]
    LeadingColon,
}

impl Channel {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 200;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Channel {
    type Err = ChannelError;

    fn from_str(text: &str) -> Result<Self, ChannelError> {
        if text.is_empty() {
            return Err(ChannelError::Empty);
        }
        if text.len() > Self::MAX_LEN {
            return Err(ChannelError::TooLong(text.len()));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:@/=+~-".contains(c);
        if let Some(c) = text.chars().find(|&c| !allowed(c)) {
            return Err(ChannelError::Character(c));
        }
        if text.starts_with(':') {
            return Err(ChannelError::LeadingColon);
        }
        Ok(Channel(text.into()))
    }
}

impl std::borrow::Borrow<str> for Channel {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_set_are_channels() {
        for name in ["a", "orders", "user:42", "a/b@c=d+e~f-g_h.i", &"x".repeat(200)] {
            assert_eq!(name.parse::<Channel>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn the_culprit_is_named() {
        assert_eq!("".parse::<Channel>(), Err(ChannelError::Empty));
        assert_eq!("x".repeat(201).parse::<Channel>(), Err(ChannelError::TooLong(201)));
        assert_eq!(":a".parse::<Channel>(), Err(ChannelError::LeadingColon));
        for (name, culprit) in [("a b", ' '), ("a{b}", '{'), ("ü", 'ü'), ("a\0", '\0'), ("a*", '*')]
        {
            assert_eq!(name.parse::<Channel>(), Err(ChannelError::Character(culprit)));
        }
    }
}
