//! Says errors of the system and of JSON in plain words: of JSON the position, what was found there,
//! and what was expected. Also reads the members of an object without looking at their values.

use std::borrow::Cow;
use std::{fmt, io};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// serde_json's words for what is wrong, and ours. Its errors have no other form than their text.
const WORDS: [(&str, &str); 18] = [
    ("EOF while parsing a list", "the text ends inside a list"),
    ("EOF while parsing an object", "the text ends inside an object"),
    ("EOF while parsing a string", "the text ends inside a string, before its closing quote"),
    ("EOF while parsing a value", "the text ends where a value is expected"),
    ("expected `:`", "expected a colon behind a member's name"),
    ("expected `,` or `]`", "expected a comma or ]"),
    ("expected `,` or `}`", "expected a comma or }"),
    ("expected ident", "expected true, false or null"),
    (
        "expected value",
        "expected a value: a string in double quotes, a number, true, false, null, [ or {",
    ),
    ("key must be a string", "expected a member's name in double quotes"),
    ("trailing comma", "expected another element behind the comma"),
    ("trailing characters", "expected nothing more behind the value"),
    ("invalid escape", "expected one of \" \\ / b f n r t u behind a backslash"),
    ("invalid number", "expected a number's digits"),
    ("control character", "a string holds a control character; write \\n, \\t or \\u00XX"),
    ("lone leading surrogate", "a \\u escape is half of a pair, and the other half is missing"),
    (
        "unexpected end of hex escape",
        "a \\u escape is half of a pair, and the other half is missing",
    ),
    ("recursion limit exceeded", "lists and objects are nested too deeply"),
];

/// The text of an error of the system, without its number. It stands behind a file's or a server's
/// name, so it begins with a small letter.
pub fn of_system(error: &io::Error) -> String {
    without_number(&error.to_string())
}

/// The text of an error that quotes an error of the system, without the number in it.
pub fn without_number(text: &str) -> String {
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| first.to_lowercase().chain(rest).collect())
}

/// What is wrong with a text that is not JSON.
pub fn what_is_wrong(text: &str, error: &serde_json::Error) -> String {
    let words = error.to_string();
    let known = WORDS.iter().find(|(theirs, _)| words.starts_with(theirs));
    let what = known.map_or("this is not JSON", |(_, ours)| ours);
    let line = text.split('\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    // serde_json counts bytes; people count characters.
    let column = error.column().saturating_sub(1);
    let before = line.get(..column).unwrap_or(line).chars().count();
    let found = line.get(column..).and_then(|rest| rest.chars().next());
    let mut place = format!("column {}", before + 1);
    if text.trim_end().contains('\n') {
        place = format!("line {}, {place}", error.line());
    }
    match found.filter(|_| what.starts_with("expected")) {
        Some(found) => format!("{place}: {what}; found {}", named(found)),
        None => format!("{place}: {what}"),
    }
}

fn named(c: char) -> String {
    match c {
        ' ' => "a space".to_owned(),
        '\t' => "a tab".to_owned(),
        c if c.is_control() => format!("U+{:04X}", u32::from(c)),
        c => c.to_string(),
    }
}

/// What kind of value a valid JSON text is, with its article.
pub fn kind(json: &str) -> &'static str {
    match json.trim_start().bytes().next() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// The members of a JSON object, in order.
#[derive(Debug)]
pub struct Members<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads an object. The error says what is wrong with the text.
    pub fn read(text: &'a str) -> Result<Self, String> {
        // A text that is no JSON at all is told so before one that is JSON of another kind.
        let value: &RawValue =
            serde_json::from_str(text).map_err(|error| what_is_wrong(text, &error))?;
        if !value.get().starts_with('{') {
            return Err(format!("expected an object {{…}}; this is {}", kind(value.get())));
        }
        let members: Self =
            serde_json::from_str(text).map_err(|error| what_is_wrong(text, &error))?;
        for (at, (name, _)) in members.0.iter().enumerate() {
            if members.0[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(format!("the member {name:?} is given twice"));
            }
        }
        Ok(members)
    }

    /// The value of a member.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// A member's name, borrowed unless it holds an escape.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also fails if a new serde_json words its errors in another way.
    #[test]
    fn what_is_wrong_is_said_in_plain_words() {
        for (text, want) in [
            ("{\"a\":1 x}", "column 8: expected a comma or }; found x"),
            ("[1 2]", "column 4: expected a comma or ]; found 2"),
            ("{\"a\" 1}", "column 6: expected a colon behind a member's name; found 1"),
            ("{a:1}", "column 2: expected a member's name in double quotes; found a"),
            ("{'a':1}", "column 2: expected a member's name in double quotes; found '"),
            ("hello", "column 1: expected a value: a string in double quotes"),
            ("nul", "column 3: the text ends where a value is expected"),
            ("nuts", "column 3: expected true, false or null; found t"),
            ("{\"a\":1,}", "column 8: expected another element behind the comma; found }"),
            ("{} {}", "column 4: expected nothing more behind the value; found {"),
            (
                "\"ü\\x\"",
                "column 4: expected one of \" \\ / b f n r t u behind a backslash; found x",
            ),
            ("\"a", "column 2: the text ends inside a string"),
            ("[1,", "column 3: the text ends where a value is expected"),
            ("[1", "column 2: the text ends inside a list"),
            ("{\"a\":1", "column 6: the text ends inside an object"),
            ("\"a\tb\"", "column 3: a string holds a control character"),
            ("-", "column 1: the text ends where a value is expected"),
            ("1.x", "column 3: expected a number's digits; found x"),
            ("{\n \"a\": }\n", "line 2, column 7: expected a value: "),
            ("\"\\ud800\"", "column 8: a \\u escape is half of a pair"),
        ] {
            let error = serde_json::from_str::<serde_json::Value>(text).unwrap_err();
            let told = what_is_wrong(text, &error);
            assert!(told.starts_with(want), "{text}: {told}; serde_json: {error}");
        }
        let deep = "[".repeat(200);
        let error = serde_json::from_str::<serde_json::Value>(&deep).unwrap_err();
        assert!(what_is_wrong(&deep, &error).ends_with("nested too deeply"));
    }

    #[test]
    fn members_keep_their_order_and_a_repeated_one_is_refused() {
        let members = Members::read(r#" {"b": [1], "\u0061": "x"} "#).unwrap();
        let names: Vec<_> = members.0.iter().map(|(name, _)| name.as_ref()).collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!(members.get("b").unwrap().get(), "[1]");
        assert!(Members::read(r#"{"a":1,"a":2}"#).unwrap_err().contains("given twice"));
        assert!(Members::read("[1]").unwrap_err().contains("this is a list"));
        assert!(Members::read("{").unwrap_err().contains("ends inside an object"));
    }
}
