//! Claims, and the grants and revocations that Redis stores. Arbitrary bytes are either refused or
//! mean what they say.
//!
//! Input: JSON, which is read as a grant and as claims, or the line of a revocation.

use serde_json::{Map, Value};
use sse_contract::Channel;
use sse_contract::pattern::{Pattern, Template};
use sse_gateway::access::grant::Grant;
use sse_gateway::access::revocations::Revocation;
use sse_token::Right;

use crate::naive;

const NAMES: [&str; 8] = [
    "a",
    "orders",
    "user:42",
    "user:42:mail",
    "user:43:mail",
    "a/b",
    "https://example.com/books/1",
    "{42}",
];

/// Reads the input as all three.
pub fn run(data: &[u8]) {
    if let Some(grant) = Grant::from_stored(data) {
        let stored = grant.stored();
        let again = Grant::from_stored(stored.as_bytes()).expect("what is stored is read");
        assert_eq!(format!("{again:?}"), format!("{grant:?}"));
        assert!(!grant.of_anybody, "a grant that is kept is somebody's");
        for name in NAMES {
            let channel: Channel = name.parse().expect("a name");
            let meant = |patterns: &[Pattern]| {
                patterns
                    .iter()
                    .any(|pattern| naive::matches(&naive::of_stored(&pattern.stored()), name))
            };
            assert_eq!(grant.may_subscribe(&channel), meant(&grant.subscribe));
            assert_eq!(grant.may_publish(&channel), meant(&grant.publish));
        }
    }
    if let Ok(line) = std::str::from_utf8(data)
        && let Some(revocation) = Revocation::read(line)
    {
        assert_eq!(Revocation::read(&revocation.to_string()), Some(revocation));
    }
    if let Ok(Value::Object(claims)) = serde_json::from_slice(data) {
        for right in [Right::Subscribe, Right::Publish] {
            claimed(right, &claims);
        }
    }
}

/// Claims allow exactly what their patterns match. One invalid pattern refuses all claims.
fn claimed(right: Right, claims: &Map<String, Value>) {
    let own = claims.get(right.name()).cloned().unwrap_or_default();
    let own = match own {
        Value::Null => Vec::new(),
        Value::Array(values) => values,
        value => vec![value],
    };
    let good = |value: &Value| value.as_str().is_some_and(|text| text.parse::<Template>().is_ok());
    let allowed = right.of(claims);
    assert_eq!(allowed.is_ok(), own.iter().all(good), "{own:?}");
    let Ok(allowed) = allowed else { return };
    let topics = claims.get("mercure").and_then(|mercure| mercure.get(right.name()));
    let topics = topics.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let topics: Vec<&str> = topics.collect();
    for name in NAMES {
        let by_own = own.iter().filter_map(Value::as_str).any(|text| {
            naive::of_template(text, claims).is_some_and(|pieces| naive::matches(&pieces, name))
        });
        let by_topic = topics.iter().any(|topic| topic_matches(topic, name));
        let allows = allowed.iter().any(|pattern| pattern.matches(name));
        assert_eq!(allows, by_own || by_topic, "{name} of {claims:?}");
    }
}

/// Mercure's selectors: a name, `*`, or a template in which each expression is one part of a name.
fn topic_matches(topic: &str, name: &str) -> bool {
    if topic == "*" {
        return true;
    }
    let (mut pieces, mut rest) = (Vec::new(), topic);
    while let Some(start) = rest.find('{') {
        let Some(end) = rest[start..].find('}') else { break };
        pieces.extend(rest[..start].chars().map(naive::Piece::Char));
        pieces.push(naive::Piece::Part);
        rest = &rest[start + end + 1..];
    }
    pieces.extend(rest.chars().map(naive::Piece::Char));
    let possible = pieces.iter().all(|piece| match piece {
        naive::Piece::Char(c) => c.is_ascii_alphanumeric() || "_.:@/=+~-".contains(*c),
        _ => true,
    });
    possible && !pieces.is_empty() && topic.len() <= 200 && naive::matches(&pieces, name)
}
