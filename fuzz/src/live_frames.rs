//! Messages on a live channel of Redis, from anybody who may publish there: text, a frame, or
//! unknown. A browser reads at most one event of any message.

use sse_contract::{LiveMessage, decode_live, encode_live};
use sse_gateway::feed::frame::{Frame, Framing};

use crate::event_source::{Event, normal, read};

/// Decodes the message.
pub fn run(data: &[u8]) {
    let channel = "demo".parse().expect("a channel");
    match decode_live(data) {
        LiveMessage::Text(text) => {
            assert_ne!(data.first(), Some(&0xFF), "a frame is never relayed as text");
            assert_eq!(text, String::from_utf8_lossy(data));
            let frame = Frame::raw(&channel, &text);
            assert_eq!(
                read(frame.bytes(Framing::Plain)),
                (vec![event("", &text, "")], String::new())
            );
        }
        LiveMessage::Unknown => assert_eq!(data.first(), Some(&0xFF), "text is never unknown"),
        LiveMessage::Event { id, event: kind, data: payload } => {
            assert_eq!(data[..2], [0xFF, 1]);
            let frame = Frame::event(&channel, id, &kind, &payload);
            let id_text = id.to_string();
            let read = read(frame.bytes(Framing::Plain));
            assert_eq!(read, (vec![event(&kind, &payload, &id_text)], id_text));
            let again = encode_live(id, &kind, payload.as_bytes());
            assert_eq!(decode_live(&again), LiveMessage::Event { id, event: kind, data: payload });
        }
    }
}

fn event(kind: &str, data: &str, id: &str) -> Event {
    let kind = if kind.is_empty() { "message" } else { kind };
    Event { kind: kind.to_owned(), data: normal(data), id: id.to_owned() }
}
