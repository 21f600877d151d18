//! Patterns of channel names: a name in which `*` stands for any text.
//!
//! In a [`Template`], `{claim}` stands for the value of a claim in a token. The value is treated as
//! untrusted data: it can neither act as a wildcard nor extend into the next part of a name.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::Channel;

/// Bytes of the longest pattern: the same as of the longest name.
pub const MAX_LEN: usize = Channel::MAX_LEN;

/// Whether a channel's name may hold this character. Braces are included.
fn may_hold(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.:@/=+~-{}".contains(c)
}

/// One piece of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Piece {
    /// Exactly this text.
    Text(Box<str>),
    /// Any text, including none.
    Any,
    /// One part of a name: at least one character, none of them a separator (`:` or `/`).
    Part,
}

/// A pattern of channel names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(Box<[Piece]>);

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The text is empty, so it would match nothing.
    #[error("a pattern is a channel's name, with * for any text; this one is empty")]
    Empty,
    /// The text is longer than any channel name.
    #[error("a pattern has at most {MAX_LEN} bytes")]
    TooLong,
    /// A character that no channel name holds.
    #[error("no channel's name holds {0:?}; a pattern is a name, with * for any text")]
    Character(char),
    /// Braces that neither enclose a claim's name nor are doubled.
    #[error("braces stand around a claim's name, {{sub}}; a brace itself is written twice")]
    Braces,
    /// A placeholder for a claim where there is no token to take the claim from.
    #[error("{{{0}}} stands for a token's claim, and there is no token here")]
    Claim(String),
    /// A placeholder next to a wildcard or another placeholder. `user:{sub}*` for the subject `4`
    /// would also match `user:42`.
    #[error(
        "{{{0}}} beside * also matches whoever's {0} only begins or ends like it; put a : between them"
    )]
    Beside(String),
}

impl Pattern {
    /// Matches every channel.
    pub fn everything() -> Self {
        Pattern([Piece::Any].into())
    }

    /// Matches this channel only.
    pub fn of_channel(channel: &Channel) -> Self {
        Pattern([Piece::Text(channel.as_str().into())].into())
    }

    /// Parses a name with `*` for any text. Braces are ordinary characters here, not placeholders.
    /// `None` if no channel can match.
    pub fn of_name(text: &str) -> Option<Self> {
        let possible = text.chars().all(|c| may_hold(c) || c == '*');
        let escaped = text.replace('{', "{{").replace('}', "}}");
        possible.then(|| escaped.parse().ok()).flatten()
    }

    /// Parses a topic selector of Mercure (0.x): an exact topic, `*`, or a URI template, in which
    /// each expression stands for one part of a name. `None` if no channel can match.
    pub fn of_mercure(selector: &str) -> Option<Self> {
        if selector == "*" {
            return Some(Pattern::everything());
        }
        let (mut pieces, mut rest) = (Vec::new(), selector);
        while let Some((before, (_, behind))) =
            rest.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
        {
            push_text(&mut pieces, before);
            pieces.push(Piece::Part);
            rest = behind;
        }
        push_text(&mut pieces, rest);
        let texts = pieces.iter().filter_map(|piece| match piece {
            Piece::Text(text) => Some(text),
            _ => None,
        });
        let possible =
            texts.flat_map(|text| text.chars()).all(|c| may_hold(c) && !"{}".contains(c));
        (possible && !pieces.is_empty() && selector.len() <= MAX_LEN)
            .then(|| Pattern(pieces.into()))
    }

    /// Whether a name matches this pattern.
    pub fn matches(&self, name: &str) -> bool {
        matches(&self.0, name)
    }

    /// Writes the pattern for storage by the gateway itself: `*` for any text, `?` for one part of
    /// a name.
    pub fn stored(&self) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.to_string(),
            Piece::Any => "*".to_owned(),
            Piece::Part => "?".to_owned(),
        };
        self.0.iter().map(piece).collect()
    }

    /// Reads what [`Pattern::stored`] wrote. `None` if the text is not of that form.
    pub fn from_stored(text: &str) -> Option<Self> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['*', '?']) {
            push_text(&mut pieces, &rest[..at]);
            pieces.push(if rest[at..].starts_with('*') { Piece::Any } else { Piece::Part });
            rest = &rest[at + 1..];
        }
        push_text(&mut pieces, rest);
        let possible = text.chars().all(|c| may_hold(c) || "*?".contains(c));
        (possible && !pieces.is_empty() && text.len() <= MAX_LEN).then(|| Pattern(pieces.into()))
    }
}

/// Takes time proportional to the pattern's length times the name's. A pattern may come from a
/// token, so this must hold for any pattern; backtracking would take for ever with twenty pieces.
fn matches(pieces: &[Piece], name: &str) -> bool {
    // These forms are the most frequent ones, and need no allocation.
    match pieces {
        [Piece::Text(text)] => return **text == *name,
        [Piece::Any] => return true,
        [Piece::Text(text), Piece::Any] => return name.starts_with(&**text),
        _ => {}
    }
    let name = name.as_bytes();
    // The places in the name where the pieces so far can end.
    let mut ends = vec![false; name.len() + 1];
    ends[0] = true;
    for piece in pieces {
        let mut next = vec![false; name.len() + 1];
        let mut open = false;
        for at in 0..=name.len() {
            match piece {
                Piece::Text(text) => {
                    if ends[at] && name[at..].starts_with(text.as_bytes()) {
                        next[at + text.len()] = true;
                    }
                }
                Piece::Any => {
                    open |= ends[at];
                    next[at] = open;
                }
                Piece::Part => {
                    let inside = at > 0 && !matches!(name[at - 1], b':' | b'/');
                    next[at] = open && inside;
                    open = ends[at] || next[at];
                }
            }
        }
        ends = next;
    }
    ends[name.len()]
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.into()));
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => f.write_str(text)?,
                Piece::Any => f.write_str("*")?,
                Piece::Part => f.write_str("{}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let template: Template = text.parse()?;
        match template
            .0
            .iter()
            .find_map(|slot| if let Slot::Claim(name) = slot { Some(name) } else { None })
        {
            Some(name) => Err(PatternError::Claim(name.to_string())),
            None => template.fill(&Map::new()).ok_or(PatternError::Empty),
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|error: PatternError| format!("{text:?}: {error}"))
    }
}

/// One slot of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Slot {
    Piece(Piece),
    /// The value of this claim.
    Claim(Box<str>),
}

/// A pattern with placeholders for claims: `user:{sub}:*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Box<[Slot]>);

impl FromStr for Template {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > MAX_LEN {
            return Err(PatternError::TooLong);
        }
        let (mut slots, mut plain) = (Vec::new(), String::new());
        let mut rest = text;
        let end = |plain: &mut String, slots: &mut Vec<Slot>| {
            if !plain.is_empty() {
                slots.push(Slot::Piece(Piece::Text(std::mem::take(plain).into())));
            }
        };
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match c {
                '*' => {
                    end(&mut plain, &mut slots);
                    // `**` means the same as `*`.
                    if slots.last() != Some(&Slot::Piece(Piece::Any)) {
                        slots.push(Slot::Piece(Piece::Any));
                    }
                }
                '{' | '}' if rest.starts_with(c) => {
                    plain.push(c);
                    rest = &rest[1..];
                }
                '{' => {
                    let (name, behind) = rest.split_once('}').ok_or(PatternError::Braces)?;
                    if name.is_empty() || name.contains('{') {
                        return Err(PatternError::Braces);
                    }
                    end(&mut plain, &mut slots);
                    slots.push(Slot::Claim(name.into()));
                    rest = behind;
                }
                '}' => return Err(PatternError::Braces),
                c if may_hold(c) => plain.push(c),
                c => return Err(PatternError::Character(c)),
            }
        }
        end(&mut plain, &mut slots);
        let open = |slot: &Slot| !matches!(slot, Slot::Piece(Piece::Text(_)));
        let beside = slots.windows(2).find(|pair| pair.iter().all(open));
        if let Some(claim) = beside.into_iter().flatten().find_map(Slot::claim) {
            return Err(PatternError::Beside(claim.to_owned()));
        }
        Ok(Template(slots.into()))
    }
}

impl Slot {
    fn claim(&self) -> Option<&str> {
        if let Slot::Claim(name) = self { Some(name) } else { None }
    }

    fn text(&self) -> &str {
        if let Slot::Piece(Piece::Text(text)) = self { text } else { "" }
    }
}

impl Template {
    /// Builds the pattern for a token with these claims. Returns `None`, which grants nothing, if a
    /// claim is missing, if its value could act as more than one part of a name, or if the pattern
    /// would be longer than any name. A value must be a string or a non-negative integer, made of
    /// channel characters other than separators, braces and the characters next to the placeholder.
    pub fn fill(&self, claims: &Map<String, Value>) -> Option<Pattern> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut plain = String::new();
        for (n, slot) in self.0.iter().enumerate() {
            match slot {
                Slot::Piece(Piece::Text(text)) => plain.push_str(text),
                Slot::Piece(piece) => {
                    push_text(&mut pieces, &std::mem::take(&mut plain));
                    pieces.push(piece.clone());
                }
                Slot::Claim(name) => {
                    let value = match claims.get(&**name)? {
                        Value::String(text) => text.clone(),
                        Value::Number(number) if number.is_u64() => number.to_string(),
                        _ => return None,
                    };
                    let before =
                        n.checked_sub(1).and_then(|n| self.0[n].text().chars().next_back());
                    let behind = self.0.get(n + 1).and_then(|slot| slot.text().chars().next());
                    let separates =
                        |c: char| ":/{}".contains(c) || Some(c) == before || Some(c) == behind;
                    if value.is_empty() || value.chars().any(|c| !may_hold(c) || separates(c)) {
                        return None;
                    }
                    plain.push_str(&value);
                }
            }
        }
        push_text(&mut pieces, &plain);
        let length: usize =
            pieces.iter().map(|piece| if let Piece::Text(t) = piece { t.len() } else { 1 }).sum();
        (length <= MAX_LEN).then(|| Pattern(pieces.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn matching(pattern: &str, name: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().matches(name)
    }

    fn filled(template: &str, claims: Value) -> Option<String> {
        let template: Template = template.parse().unwrap();
        template.fill(claims.as_object().unwrap()).map(|pattern| pattern.to_string())
    }

    #[test]
    fn a_star_stands_for_any_text() {
        assert!(matching("orders", "orders") && !matching("orders", "orders2"));
        assert!(matching("*", "anything:at/all") && matching("user:42:*", "user:42:mail"));
        assert!(!matching("user:42:*", "user:421:mail") && !matching("user:42:*", "user:42"));
        assert!(
            matching("a*b*c", "abc") && matching("a*b*c", "a-b-b-c") && !matching("a*b*c", "acb")
        );
        assert!(matching("*:x:*:y", "a:x:b:x:y") && !matching("*:x:*:y", "a:x:y"));
        assert!(matching("cart:{{42}}:*", "cart:{42}:a"));
    }

    #[test]
    fn a_claims_value_is_one_part_of_a_name_or_grants_nothing() {
        assert_eq!(filled("user:{sub}:*", json!({ "sub": "42" })).unwrap(), "user:42:*");
        assert_eq!(filled("user:{sub}:*", json!({ "sub": 42 })).unwrap(), "user:42:*");
        assert_eq!(filled("{sub}", json!({ "sub": "a@b.example" })).unwrap(), "a@b.example");
        assert_eq!(filled("cart:{{{sub}}}", json!({ "sub": "42" })).unwrap(), "cart:{42}");
        assert_eq!(
            filled("{https://a.example/org}", json!({ "https://a.example/org": "x" })).unwrap(),
            "x"
        );
        for sub in [
            json!("*"),
            json!("4*"),
            json!("42:admin"),
            json!("a/b"),
            json!(""),
            json!(null),
            json!(true),
            json!(["42"]),
            json!({ "a": 1 }),
            json!(-4),
            json!(4.5),
            json!("a b"),
            json!("ü"),
            json!("{x}"),
            json!("a\n"),
            json!("x".repeat(300)),
        ] {
            assert_eq!(filled("user:{sub}:*", json!({ "sub": sub })), None, "{sub}");
        }
        // The characters next to a placeholder act as separators, too.
        assert_eq!(filled("user.{sub}.*", json!({ "sub": "42.admin" })), None);
        assert_eq!(filled("user-{sub}", json!({ "sub": "a-b" })), None);
        assert_eq!(filled("user:{sub}", json!({})), None);
    }

    #[test]
    fn what_is_no_pattern_is_refused_by_name() {
        for text in
            ["", "a b", "ü", "{", "}", "{}", "a}b", "{a", "{{a}", "user:{sub}*", "*{sub}", "{a}{b}"]
        {
            assert!(text.parse::<Template>().is_err(), "{text:?}");
        }
        assert!("x".repeat(201).parse::<Template>().is_err());
        let error = "user:{sub}".parse::<Pattern>().unwrap_err().to_string();
        assert!(error.contains("{sub}") && error.contains("no token"), "{error}");
    }

    #[test]
    fn topic_selectors_of_mercure_are_understood_where_a_channel_can_have_such_a_name() {
        let of =
            |selector: &str, name: &str| Pattern::of_mercure(selector).map(|p| p.matches(name));
        assert_eq!(of("*", "a"), Some(true));
        assert_eq!(of("https://example.com/books/{id}", "https://example.com/books/1"), Some(true));
        assert_eq!(
            of("https://example.com/books/{id}", "https://example.com/books/1/x"),
            Some(false)
        );
        assert_eq!(of("https://example.com/books/{id}", "https://example.com/books/"), Some(false));
        assert_eq!(of("/a/{b}/{c}", "/a/b/c"), Some(true));
        assert_eq!(of("a*b", "axb"), None);
        assert_eq!(of("a b", "a b"), None);
        assert_eq!(of("{a", "a"), None);
    }

    /// With backtracking this test would not end.
    #[test]
    fn many_places_that_fit_cost_no_time() {
        let parts = Pattern::of_mercure(&("{a}".repeat(40) + "x")).unwrap();
        let stars: Pattern = format!("{}*b", "*a".repeat(60)).parse().unwrap();
        let (with, without) = ("a".repeat(199) + "x", "a".repeat(200));
        assert!(parts.matches(&with) && !parts.matches(&without) && !stars.matches(&without));
        let mixed = Pattern::from_stored(&("*?".repeat(40) + "x")).unwrap();
        assert!(mixed.matches(&with) && !mixed.matches(&without));
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let one = Pattern::of_mercure("/a/{b}/{c}").unwrap();
        for pattern in
            [one, "user:{{4}}:*".parse().unwrap(), "*".parse().unwrap(), "*a*".parse().unwrap()]
        {
            assert_eq!(Pattern::from_stored(&pattern.stored()).unwrap(), pattern);
        }
        assert_eq!(Pattern::from_stored("a b"), None);
        assert_eq!(Pattern::from_stored(""), None);
    }

    fn by_regex(pattern: &str, name: &str) -> bool {
        // Dynamic programming over pattern and name, as an independent check.
        let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
        let mut row = vec![false; name.len() + 1];
        row[0] = true;
        for p in pattern {
            let mut next = vec![false; name.len() + 1];
            for n in 0..=name.len() {
                next[n] = match p {
                    b'*' => row[n] || (n > 0 && next[n - 1]),
                    c => n > 0 && row[n - 1] && name[n - 1] == *c,
                };
            }
            row = next;
        }
        row[name.len()]
    }

    proptest! {
        #[test]
        fn matching_is_what_it_says(pattern in "[ab:*]{1,8}", name in "[ab:]{0,10}") {
            prop_assert_eq!(matching(&pattern, &name), by_regex(&pattern, &name));
        }

        /// Whatever the claim's value is, a name that matches has as many parts as the template,
        /// with the value in its place.
        #[test]
        fn no_value_reaches_beyond_its_part(value in "\\PC{0,12}|[a-c:/*{}.]{0,6}", name in "[a-c:/.]{1,12}") {
            let template: Template = "u:{sub}:x".parse().unwrap();
            let claims = json!({ "sub": value });
            if let Some(pattern) = template.fill(claims.as_object().unwrap())
                && pattern.matches(&name)
            {
                prop_assert_eq!(&name, &format!("u:{value}:x"));
                prop_assert_eq!(name.split([':', '/']).count(), 3);
            }
        }
    }
}
