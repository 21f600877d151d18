//! The form of a line that `tail --format` asks for.

use std::fmt::Write;
use std::str::FromStr;

/// What stands for a part of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Id,
    Time,
    Channel,
    Type,
    Data,
    Raw,
    Json,
}

const PARTS: [(&str, Part); 7] = [
    ("id", Part::Id),
    ("time", Part::Time),
    ("channel", Part::Channel),
    ("type", Part::Type),
    ("data", Part::Data),
    ("raw", Part::Raw),
    ("json", Part::Json),
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Part(Part),
}

/// A text with names in braces that stand for parts of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

/// The parts of an event, as they are printed.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The id.
    pub id: &'a str,
    /// When it was published.
    pub time: &'a str,
    /// The channel.
    pub channel: &'a str,
    /// The type.
    pub kind: &'a str,
    /// The data on one line.
    pub data: &'a str,
    /// The data unchanged.
    pub raw: &'a str,
    /// The data as a JSON value.
    pub json: &'a str,
}

impl Template {
    /// Whether the channel of each event is needed.
    pub fn needs_channel(&self) -> bool {
        self.0.contains(&Piece::Part(Part::Channel))
    }

    /// The text for an event.
    pub fn fill(&self, parts: &Parts<'_>) -> String {
        let mut line = String::new();
        for piece in &self.0 {
            line.push_str(match piece {
                Piece::Text(text) => text,
                Piece::Part(Part::Id) => parts.id,
                Piece::Part(Part::Time) => parts.time,
                Piece::Part(Part::Channel) => parts.channel,
                Piece::Part(Part::Type) => parts.kind,
                Piece::Part(Part::Data) => parts.data,
                Piece::Part(Part::Raw) => parts.raw,
                Piece::Part(Part::Json) => parts.json,
            });
        }
        line
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut pieces, mut plain) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let behind = &rest[c.len_utf8()..];
            rest = match (c, behind.chars().next()) {
                ('{', Some('{')) | ('}', Some('}')) => {
                    plain.push(c);
                    &behind[1..]
                }
                ('{', _) => {
                    let (name, behind) =
                        behind.split_once('}').ok_or("a { needs a }; {{ is a brace")?;
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    pieces.push(Piece::Part(part(name)?));
                    behind
                }
                ('\\', Some(escape @ ('t' | 'n' | '\\'))) => {
                    plain.push(match escape {
                        't' => '\t',
                        'n' => '\n',
                        _ => '\\',
                    });
                    &behind[1..]
                }
                _ => {
                    plain.push(c);
                    behind
                }
            };
        }
        pieces.push(Piece::Text(plain));
        Ok(Template(pieces))
    }
}

fn part(name: &str) -> Result<Part, String> {
    let known = PARTS.iter().find(|(known, _)| *known == name).map(|(_, part)| *part);
    known.ok_or_else(|| {
        let mut why = format!("{{{name}}} stands for nothing; there are");
        for (known, _) in PARTS {
            write!(why, " {{{known}}}").ok();
        }
        why
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_braces_stand_for_parts() {
        let parts =
            Parts { id: "1-0", time: "T", channel: "c", kind: "t", data: "d", raw: "r", json: "j" };
        let fill = |text: &str| text.parse::<Template>().unwrap().fill(&parts);
        assert_eq!(fill("{time} {channel} {type} {data}"), "T c t d");
        assert_eq!(fill("{id}\\t{raw}{json}\\n{{x}} \\\\ \\q ü"), "1-0\trj\n{x} \\ \\q ü");
        assert_eq!(fill(""), "");
        assert!("{time".parse::<Template>().is_err());
        let error = "{what}".parse::<Template>().unwrap_err();
        assert!(error.contains("{what} stands for nothing; there are {id} {time}"), "{error}");
        assert!("{channel}".parse::<Template>().unwrap().needs_channel());
        assert!(!"channel {id}".parse::<Template>().unwrap().needs_channel());
    }
}
