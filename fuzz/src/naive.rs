//! Pattern matching by definition: a table says which suffix of a pattern matches which suffix of a
//! name.

use serde_json::{Map, Value};

/// A piece of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// This character.
    Char(char),
    /// Any text, possibly empty.
    Any,
    /// Text of at least one character, without `:` and `/`.
    Part,
}

/// An item of a template.
enum Item {
    Piece(Piece),
    Claim(String),
}

/// Whether the pieces match the whole name.
pub fn matches(pieces: &[Piece], name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    // table[p][n]: pieces[p..] matches name[n..].
    let mut table = vec![vec![false; name.len() + 1]; pieces.len() + 1];
    table[pieces.len()][name.len()] = true;
    for p in (0..pieces.len()).rev() {
        for n in (0..=name.len()).rev() {
            let character = name.get(n);
            table[p][n] = match &pieces[p] {
                Piece::Char(c) => character == Some(c) && table[p + 1][n + 1],
                Piece::Any => table[p + 1][n] || character.is_some() && table[p][n + 1],
                Piece::Part => {
                    let inside = character.is_some_and(|c| !":/".contains(*c));
                    inside && (table[p + 1][n + 1] || table[p][n + 1])
                }
            };
        }
    }
    table[0][0]
}

/// Parses what `Pattern::stored` wrote.
pub fn of_stored(text: &str) -> Vec<Piece> {
    let piece = |c| match c {
        '*' => Piece::Any,
        '?' => Piece::Part,
        c => Piece::Char(c),
    };
    text.chars().map(piece).collect()
}

/// Fills a valid template from these claims; none if it then grants nothing.
pub fn of_template(text: &str, claims: &Map<String, Value>) -> Option<Vec<Piece>> {
    let mut items = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c == '*' {
            if !matches!(items.last(), Some(Item::Piece(Piece::Any))) {
                items.push(Item::Piece(Piece::Any));
            }
        } else if (c == '{' || c == '}') && rest.starts_with(c) {
            items.push(Item::Piece(Piece::Char(c)));
            rest = &rest[1..];
        } else if c == '{' {
            let end = rest.find('}').expect("a template's braces are closed");
            items.push(Item::Claim(rest[..end].to_owned()));
            rest = &rest[end + 1..];
        } else {
            items.push(Item::Piece(Piece::Char(c)));
        }
    }
    let beside = |at: Option<usize>| match at.and_then(|at| items.get(at)) {
        Some(Item::Piece(Piece::Char(c))) => Some(*c),
        _ => None,
    };
    let mut pieces = Vec::new();
    for (n, item) in items.iter().enumerate() {
        match item {
            Item::Piece(piece) => pieces.push(piece.clone()),
            Item::Claim(name) => {
                let value = match claims.get(name)? {
                    Value::String(text) => text.clone(),
                    Value::Number(number) => number.as_u64()?.to_string(),
                    _ => return None,
                };
                let around = [beside(n.checked_sub(1)), beside(Some(n + 1))];
                let fits = |c: char| {
                    (c.is_ascii_alphanumeric() || "_.@=+~-".contains(c))
                        && !around.contains(&Some(c))
                };
                if value.is_empty() || !value.chars().all(fits) {
                    return None;
                }
                pieces.extend(value.chars().map(Piece::Char));
            }
        }
    }
    (pieces.len() <= sse_contract::pattern::MAX_LEN).then_some(pieces)
}
