//! A channel's name, validated once where it enters the program.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A valid channel name: 1 to 200 bytes of `[A-Za-z0-9_.:@/=+~-]`, not beginning with a colon, and
/// with at most one hash tag, `{tag}`, of one or more bytes of the same set.
///
/// These bytes need no escaping in a Redis key, a log line or JSON. A leading colon is refused to
/// keep `<prefix>::…` free for other names. `|` is refused because it separates a channel from an
/// idempotency key. Channels with the same tag share a partition, which keeps the channels of one
/// stream together. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

/// Why a text is not a channel name. The message names the rule and, where possible, the culprit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The name has no bytes.
    #[error("a channel name has at least 1 byte")]
    Empty,
    /// The name is longer than [`Channel::MAX_LEN`] bytes.
    #[error("a channel name has at most 200 bytes, this one has {0}")]
    TooLong(usize),
    /// A character outside the allowed set.
    #[error("a channel name holds only A-Z a-z 0-9 and _ . : @ / = + ~ -, not {0:?}")]
    Character(char),
    /// Braces that do not form exactly one hash tag.
    #[error(
        "braces in a channel name are one hash tag, {{tag}}, with at least 1 byte between them"
    )]
    Braces,
    /// The first character is a colon.
    #[error("a channel name does not begin with a colon")]
    LeadingColon,
}

impl Channel {
    /// Bytes of the longest name.
    pub const MAX_LEN: usize = 200;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part of a name that decides on its partition: the hash tag if there is one, else the
    /// whole name.
    pub(crate) fn hashed(name: &str) -> &str {
        match name.split_once('{').and_then(|(_, rest)| rest.split_once('}')) {
            Some((tag, _)) if !tag.is_empty() => tag,
            _ => name,
        }
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
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:@/=+~-{}".contains(c);
        if let Some(c) = text.chars().find(|&c| !allowed(c)) {
            return Err(ChannelError::Character(c));
        }
        if text.starts_with(':') {
            return Err(ChannelError::LeadingColon);
        }
        if text.contains(['{', '}']) && !has_one_tag(text) {
            return Err(ChannelError::Braces);
        }
        Ok(Channel(text.into()))
    }
}

fn has_one_tag(text: &str) -> bool {
    let Some((before, (tag, behind))) =
        text.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    else {
        return false;
    };
    !tag.is_empty() && ![before, tag, behind].iter().any(|part| part.contains(['{', '}']))
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
            assert_eq!(Channel::hashed(name), name);
        }
        for name in ["{42}", "user:{42}", "{42}:mail", "a{42}b"] {
            assert_eq!(name.parse::<Channel>().unwrap().as_str(), name);
            assert_eq!(Channel::hashed(name), "42");
        }
    }

    #[test]
    fn the_culprit_is_named() {
        assert_eq!("".parse::<Channel>(), Err(ChannelError::Empty));
        assert_eq!("x".repeat(201).parse::<Channel>(), Err(ChannelError::TooLong(201)));
        assert_eq!(":a".parse::<Channel>(), Err(ChannelError::LeadingColon));
        for (name, culprit) in [("a b", ' '), ("a|b", '|'), ("ü", 'ü'), ("a\0", '\0'), ("a*", '*')]
        {
            assert_eq!(name.parse::<Channel>(), Err(ChannelError::Character(culprit)));
        }
        for name in
            ["{", "}", "{}", "a{}b", "}a{", "a{b", "a}b", "{a}{b}", "{{a}}", "{a}}", "{a{b}"]
        {
            assert_eq!(name.parse::<Channel>(), Err(ChannelError::Braces), "{name}");
        }
        assert!(ChannelError::Braces.to_string().contains("{tag}"));
    }
}
