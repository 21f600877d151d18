//! The items of `POST /publish`, read from JSON: pure.

use std::sync::Arc;

use serde_json::value::RawValue;
use sse_contract::{EventType, Item};

use crate::broker::Publication;
use crate::problem::{Kind, Problem};
use crate::request;

/// One channel of one item: what is to be published, or why it cannot be.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The item's index, or its line.
    pub number: u64,
    /// The channel as the client wrote it, if it could be read that far.
    pub channel: Option<String>,
    /// What is to be published.
    pub publication: Result<Publication, Problem>,
}

impl Entry {
    /// An item that could not be read.
    pub fn failed(number: u64, problem: Problem) -> Self {
        Entry { number, channel: None, publication: Err(problem) }
    }
}

/// The entries of a whole body: an item, or an array of items. Broken JSON refuses all of it.
pub fn read_body(body: &[u8]) -> Result<Vec<Entry>, Problem> {
    let raw: Vec<&RawValue> = if body.trim_ascii_start().starts_with(b"[") {
        serde_json::from_slice(body).map_err(|error| invalid(&error))?
    } else {
        vec![serde_json::from_slice(body).map_err(|error| invalid(&error))?]
    };
    let mut entries = Vec::with_capacity(raw.len());
    for (number, item) in raw.into_iter().enumerate() {
        read_item(number as u64, item.get().as_bytes(), &mut entries);
    }
    Ok(entries)
}

/// Adds the entries of one item: one for each of its channels.
pub fn read_item(number: u64, json: &[u8], entries: &mut Vec<Entry>) {
    let item: Item<'_> = match serde_json::from_slice(json) {
        Ok(item) => item,
        Err(error) => return entries.push(Entry::failed(number, invalid(&error))),
    };
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
        // The JSON itself was read before, so nothing else can be wrong with it.
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
        read_item(1, json.as_bytes(), &mut entries);
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
        let entries = read_body(body).unwrap();
        let numbers: Vec<_> = entries.iter().map(|e| (e.number, e.publication.is_ok())).collect();
        assert_eq!(numbers, [(0, true), (0, false), (1, true)]);
        assert!(read_body(b"[{]").is_err());
    }
}
