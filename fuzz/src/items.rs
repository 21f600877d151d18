//! JSON bodies and NDJSON lines of `POST /publish`: whatever the form of the JSON, what is
//! published is what the client sent, and a browser reads exactly that.

use serde_json::Value;
use sse_gateway::feed::frame::{Frame, Framing};
use sse_gateway::http::publish_item::{Entry, read_body, read_item};

use crate::event_source::{normal, read};

/// The most events of one body or line.
const MOST: usize = 16;

/// Reads the input as a JSON body, and each of its lines as NDJSON.
pub fn run(data: &[u8]) {
    if let Ok(entries) = read_body(data, MOST) {
        assert!(entries.len() <= MOST);
        let value = serde_json::from_slice::<Value>(data).ok();
        let items = match value {
            Some(Value::Array(items)) => Some(items),
            other => other.map(|item| vec![item]),
        };
        for entry in &entries {
            let item = items.as_ref().map(|items| &items[entry.number as usize]);
            published(entry, item);
        }
        // Each item gives at least one entry and no more than one per channel.
        if let Some(items) = &items {
            for (number, item) in items.iter().enumerate() {
                let own = entries.iter().filter(|entry| entry.number == number as u64);
                let channels = item["channels"].as_array().map_or(1, Vec::len);
                assert!((1..=channels.max(1)).contains(&own.count()));
            }
        }
    }
    for line in data.split(|byte| *byte == b'\n') {
        let mut entries = Vec::new();
        read_item(7, line, MOST, &mut entries);
        assert!(
            (1..=MOST).contains(&entries.len()) && entries.iter().all(|entry| entry.number == 7)
        );
        let item = serde_json::from_slice::<Value>(line).ok();
        for entry in &entries {
            published(entry, item.as_ref());
        }
    }
}

fn published(entry: &Entry, item: Option<&Value>) {
    let Ok(publication) = &entry.publication else { return };
    let channel = publication.channel.as_str();
    assert_eq!(entry.channel.as_deref(), Some(channel));
    let kind = publication.event.as_ref().map_or("", |event| event.as_str());
    let id = sse_contract::EventId { ms: 5, seq: 6 };
    let frame = Frame::event(&publication.channel, id, kind, &publication.data);
    let (events, _) = read(frame.bytes(Framing::Plain));
    let [event] = &events[..] else { panic!("{} events", events.len()) };
    assert_eq!(event.data, normal(&publication.data));
    assert_eq!(event.kind, if kind.is_empty() { "message" } else { kind });
    // The gateway accepts JSON that is nested deeper than serde_json's `Value` takes.
    let Some(item) = item else { return };
    let named =
        [&item["channel"]].into_iter().chain(item["channels"].as_array().into_iter().flatten());
    assert!(named.into_iter().any(|name| name == channel), "{channel} is one of the item's");
    assert_eq!(item["event"].as_str().unwrap_or_default(), kind);
    assert_eq!(item["idempotency_key"].as_str(), publication.idempotency_key.as_deref());
    match &item["data"] {
        Value::String(text) => assert_eq!(**text, *publication.data, "a string is verbatim"),
        other => {
            let again: Value = serde_json::from_str(&publication.data).expect("JSON stays JSON");
            assert_eq!(again, *other);
            // The JSON is compact: there is no white space outside of strings.
            assert!(!publication.data.contains(['\n', '\r', '\t']));
        }
    }
}
