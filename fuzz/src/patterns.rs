//! Channel names and patterns: a pattern matches what its definition says, and the value of a claim
//! matches only part of a name.
//!
//! Input, separated by 0xFF: a pattern, a name, the value of a claim.

use serde_json::{Map, Value};
use sse_contract::Channel;
use sse_contract::pattern::{MAX_LEN, Pattern, Template};

use crate::{naive, parts, text};

/// Compares all forms of patterns.
pub fn run(data: &[u8]) {
    let [pattern, name, value] = parts(data).map(text);
    channel(&name);
    // Also a name made of the pattern's characters: where a client chooses one, it may choose the
    // other.
    let names: Vec<Channel> =
        [name.as_str(), &pattern.replace(['*', '?'], ""), "a", "user:42:mail"]
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
    let claims = claims(&value);
    if let Ok(template) = pattern.parse::<Template>() {
        let filled = template.fill(&claims);
        let meant = naive::of_template(&pattern, &claims);
        assert_eq!(filled.is_some(), meant.is_some(), "{pattern:?} for {claims:?}");
        if let (Some(filled), Some(meant)) = (filled, meant) {
            same(&filled, &meant, &names);
        }
    }
    if let Ok(parsed) = pattern.parse::<Pattern>() {
        let meant = naive::of_template(&pattern, &Map::new()).expect("a pattern has no claims");
        same(&parsed, &meant, &names);
    }
    let mercure = Pattern::of_mercure(&pattern);
    let (named, stored) = (Pattern::of_name(&pattern), Pattern::from_stored(&pattern));
    for pattern in [mercure, named, stored].into_iter().flatten() {
        same(&pattern, &naive::of_stored(&pattern.stored()), &names);
    }
    for name in &names {
        assert!(Pattern::of_channel(name).matches(name.as_str()));
        assert!(Pattern::everything().matches(name.as_str()));
    }
}

/// A name is accepted exactly if it is one of the allowed names.
fn channel(name: &str) {
    let braces = name.matches(['{', '}']).count();
    let tag = || {
        let (open, close) = (name.find('{'), name.find('}'));
        braces == 2 && matches!((open, close), (Some(open), Some(close)) if open + 1 < close)
    };
    let meant = (1..=200).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.:@/=+~-{}".contains(c))
        && !name.starts_with(':')
        && (braces == 0 || tag());
    assert_eq!(name.parse::<Channel>().is_ok(), meant, "{name:?}");
}

/// Claims with `value` as text, as a number and as JSON, as a user might choose them.
fn claims(value: &str) -> Map<String, Value> {
    let number = value.parse::<u64>().map_or(Value::Null, Value::from);
    let any: Value = serde_json::from_str(value).unwrap_or_default();
    [("sub", Value::from(value)), ("n", number), ("any", any)]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn same(pattern: &Pattern, meant: &[naive::Piece], names: &[Channel]) {
    for name in names {
        let name = name.as_str();
        assert_eq!(pattern.matches(name), naive::matches(meant, name), "{pattern} and {name}");
    }
    let stored = pattern.stored();
    if stored.len() <= MAX_LEN {
        assert_eq!(Pattern::from_stored(&stored).as_ref(), Some(pattern), "{stored}");
    }
}
