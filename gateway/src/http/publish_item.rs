//! Reads the items of `POST /publish` from JSON. Does no I/O.

use std::sync::Arc;

use serde::Deserializer;
use serde::de::{Error, SeqAccess, Visitor};
use serde_json::value::RawValue;
use sse_contract::{EventType, Item};

use crate::feed::publication::Publication;
use crate::http::problem::{Kind, Problem};
use crate::http::request;

/// One channel of one item: its publication, or why it cannot be published.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The item's index, counted from 0, or its line in NDJSON, counted from 1.
    pub number: u64,
    /// The channel as the client wrote it; none if the item could not be read that far.
    pub channel: Option<String>,
    /// The publication, or the item's problem.
    pub publication: Result<Publication, Problem>,
}

impl Entry {
    /// The entry of an item that could not be read.
    pub fn failed(number: u64, problem: Problem) -> Self {
        Entry { number, channel: None, publication: Err(problem) }
    }
}

/// Reads a whole body, one item or an array of items, into at most `most` entries. Broken JSON and
/// too many entries are errors of the whole body.
pub fn read_body(body: &[u8], most: usize) -> Result<Vec<Entry>, Problem> {
    let raw: Vec<&RawValue> = if body.trim_ascii_start().starts_with(b"[") {
        let mut reader = serde_json::Deserializer::from_slice(body);
        let items = reader.deserialize_seq(AtMost(most));
        let items = items.and_then(|items| reader.end().map(|()| items));
        match items {
            // Reading stopped at the item too many. Where that was, and whether the rest is valid
            // JSON, does not matter.
            Err(error) if error.to_string().starts_with(TOO_MANY) => return Err(too_many(most)),
            items => items.map_err(|error| invalid(&error))?,
        }
    } else {
        vec![serde_json::from_slice(body).map_err(|error| invalid(&error))?]
    };
    let mut entries = Vec::with_capacity(raw.len());
    for (number, item) in raw.into_iter().enumerate() {
        read_item(number as u64, item.get().as_bytes(), most, &mut entries);
        if entries.len() > most {
            return Err(too_many(most));
        }
    }
    Ok(entries)
}

const TOO_MANY: &str = "too many items";

fn too_many(most: usize) -> Problem {
    let detail =
        format!("at most {most} events are published together, one for each channel of an item");
    Problem::new(Kind::TooLarge, detail).field("body")
}

/// Reads an array, and fails at the first element too many, because an element takes several times
/// its bytes in memory.
struct AtMost(usize);

impl<'de> Visitor<'de> for AtMost {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut read = Vec::new();
        while let Some(item) = items.next_element()? {
            if read.len() == self.0 {
                return Err(A::Error::custom(TOO_MANY));
            }
            read.push(item);
        }
        Ok(read)
    }
}

/// Adds one entry for each channel of an item. More than `most` channels are an error.
pub fn read_item(number: u64, json: &[u8], most: usize, entries: &mut Vec<Entry>) {
    let item: Item<'_> = match serde_json::from_slice(json) {
        Ok(item) => item,
        Err(error) => return entries.push(Entry::failed(number, invalid(&error))),
    };
    if item.channels.as_ref().is_some_and(|channels| channels.len() > most) {
        return entries.push(Entry::failed(number, too_many(most)));
    }
    match read_parts(&item) {
        Ok((event, data, key)) => {
            let names = item.channel.iter().chain(item.channels.iter().flatten());
            entries.extend(names.map(|name| Entry {
                number,
                channel: Some(name.clone()),
                publication: request::channel(name, "channel").map(|channel| Publication {
                    channel,
                    event: event.clone(),
                    data: data.clone(),
                    idempotency_key: key.clone(),
                }),
            }));
        }
        Err(problem) => entries.push(Entry::failed(number, problem)),
    }
}

type Parts = (Option<EventType>, Arc<str>, Option<Arc<str>>);

fn read_parts(item: &Item<'_>) -> Result<Parts, Problem> {
    match (&item.channel, &item.channels) {
        (Some(_), None) => {}
        (None, Some(channels)) if !channels.is_empty() => {}
        _ => {
            let detail = "an item has either \"channel\" or a non-empty \"channels\"";
            return Err(Problem::new(Kind::InvalidJson, detail).field("channel"));
        }
    }
    let event = item.event.as_deref().map(request::event_type).transpose()?.flatten();
    let key = item.idempotency_key.as_deref();
    let key = key.map(|key| request::idempotency_key(key.as_bytes())).transpose()?;
    let data = item.data_text().map_err(|error| {
        // The item was already parsed as JSON, so a lone surrogate is the only possible error.
        let detail = format!("data: a lone surrogate is not Unicode text: {error}");
        Problem::new(Kind::InvalidJson, detail).field("data")
    })?;
    Ok((event, data, key))
}

fn invalid(error: &serde_json::Error) -> Problem {
    Problem::new(Kind::InvalidJson, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(json: &str) -> Entry {
        let mut entries = Vec::new();
        read_item(1, json.as_bytes(), 10, &mut entries);
        entries.pop().unwrap()
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, culprit) in [
            (r#"{"channel":"a"}"#, "data"),
            (r#"{"data":1}"#, "channel"),
            (r#"{"channel":"a","channels":["b"],"data":1}"#, "channel"),
            (r#"{"channels":[],"data":1}"#, "channels"),
            (r#"{"channel":"a b","data":1}"#, "' '"),
            (r#"{"channel":"a","data":1,"evnt":"x"}"#, "evnt"),
            (r#"{"channel":"a","data":1,"event":"a\nb"}"#, "'\\n'"),
            (r#"{"channel":"a","data":1,"event":"gap"}"#, "reserved"),
            (r#"{"channel":"a","data":"\ud800"}"#, "surrogate"),
            (r#"{"channel":"a","data":1,"idempotency_key":"a b"}"#, "idempotency key"),
            (r#"{"channel":"a","data":"#, "EOF"),
        ] {
            let problem = one(json).publication.unwrap_err();
            assert!(problem.to_string().contains(culprit), "{json}: {problem}");
        }
    }

    #[test]
    fn each_channel_of_an_item_is_an_entry() {
        let body = br#"[{"channels":["a","b c"],"data":1},{"channel":"d","data":2}]"#;
        let entries = read_body(body, 3).unwrap();
        let numbers: Vec<_> = entries.iter().map(|e| (e.number, e.publication.is_ok())).collect();
        assert_eq!(numbers, [(0, true), (0, false), (1, true)]);
        assert!(read_body(b"[{]", 3).is_err());
        assert!(read_body(b"[] x", 3).is_err());
    }

    /// The first body has a broken end, which must not be reached.
    #[test]
    fn more_events_than_may_be_published_together_are_refused_as_soon_as_they_are_seen() {
        let item = r#"{"channel":"a","data":1}"#;
        let several = r#"{"channels":["a","b","c"],"data":1}"#;
        for body in [
            format!("[{item},{item},{item},broken"),
            format!("[{item},{},{item}]", several.replace(",\"c\"", "")),
        ] {
            let problem = read_body(body.as_bytes(), 2).unwrap_err();
            assert_eq!(problem.kind(), Kind::TooLarge, "{body}: {problem}");
        }
        let mut entries = Vec::new();
        read_item(1, several.as_bytes(), 2, &mut entries);
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].publication.as_ref().unwrap_err().kind(), Kind::TooLarge);
        assert_eq!(read_body(several.as_bytes(), 3).unwrap().len(), 3);
    }
}
