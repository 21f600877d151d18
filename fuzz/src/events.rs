//! Events on the wire: a browser reads exactly one event, with the publisher's type and data.
//!
//! Input, separated by 0xFF: type, data, id, and the `after` of a `gap`.

use sse_contract::{
    Channel, Cursor, EventId, EventType, EventTypeError, Positions, RESERVED_EVENT_TYPES,
};
use sse_gateway::feed::frame::{self, Began, Form, Frame, Framing, Placed, SharedFrame};
use sse_gateway::feed::gap::{After, Gap, GapReason};

use crate::event_source::{Event, normal, read, unchunked};
use crate::{parts, text};

const CHANNEL: &str = "a:{b}";
const BEFORE: EventId = EventId { ms: 1, seq: 1 };
const BEHIND: EventId = EventId { ms: 99, seq: 65536 };

/// Encodes an event and parses it.
pub fn run(data: &[u8]) {
    let [kind, payload, id, after] = parts(data).map(text);
    let channel: Channel = CHANNEL.parse().expect("a channel");
    let kind = event_type(&kind);
    let kind = kind.as_ref().map_or("", EventType::as_str);
    let id = id.parse().unwrap_or(EventId { ms: 5, seq: 6 });
    let event = Frame::event(&channel, id, kind, &payload);
    assert_eq!(event.parts(), (kind.to_owned(), normal(&payload)), "what a frame says of itself");
    let kind = if kind.is_empty() { "message" } else { kind }.to_owned();
    let read = Event { kind, data: normal(&payload), id: id.to_string() };
    every_form(&event, read.clone());
    placed(&event, read);
    let raw = Frame::raw(&channel, &payload);
    every_form(
        &raw,
        Event { kind: "message".to_owned(), data: normal(&payload), id: BEFORE.to_string() },
    );
    gap(id, &payload, &after);
}

/// A type is refused only if a character would end its line, or for its length, or because it is
/// reserved.
fn event_type(text: &str) -> Option<EventType> {
    let parsed = text.parse::<EventType>();
    let expected = match &parsed {
        Ok(_) => {
            (1..=200).contains(&text.len())
                && !text.contains(['\0', '\r', '\n'])
                && !RESERVED_EVENT_TYPES.contains(&text)
        }
        Err(EventTypeError::Empty) => text.is_empty(),
        Err(EventTypeError::TooLong(length)) => text.len() == *length && *length > 200,
        Err(EventTypeError::Character(c)) => text.contains(*c) && "\0\r\n".contains(*c),
        Err(EventTypeError::Reserved(_)) => RESERVED_EVENT_TYPES.contains(&text),
    };
    assert!(expected, "{text:?} is {parsed:?}");
    parsed.ok()
}

/// With its channel the event differs in one more line of data.
fn every_form(frame: &Frame, event: Event) {
    let bytes = |form| frame.pieces(form).concat();
    let data = format!("{CHANNEL}\n{}", event.data);
    let annotated = Event { data, kind: event.kind.clone(), id: event.id.clone() };
    one(&bytes(Form::Plain), &bytes(Form::Chunked), event);
    one(&bytes(Form::AnnotatedPlain), &bytes(Form::AnnotatedChunked), annotated);
}

/// In a stream of several partitions the event has a position in each of them.
fn placed(frame: &SharedFrame, event: Event) {
    let Some(id) = frame.id else { return };
    let cursor = Cursor::Several(Positions::new(3, [(0, id), (2, BEFORE)]));
    let bytes = |form| Placed::new(frame.clone(), &cursor, form).pieces().concat();
    let event = Event { id: cursor.to_string(), ..event };
    let data = format!("{CHANNEL}\n{}", event.data);
    let annotated = Event { data, kind: event.kind.clone(), id: event.id.clone() };
    one(&bytes(Form::Plain), &bytes(Form::Chunked), event);
    one(&bytes(Form::AnnotatedPlain), &bytes(Form::AnnotatedChunked), annotated);
}

/// In the middle of a stream the block is one event, and its neighbours are unchanged.
fn one(plain: &[u8], chunked: &[u8], event: Event) {
    let opening =
        [&*frame::retry(1000), &*frame::first_checkpoint(&BEFORE.into(), Began::Now)].concat();
    let channel = CHANNEL.parse().expect("a channel");
    let next = Frame::event(&channel, BEHIND, "", "next");
    let around =
        |block: &[u8]| [&opening, frame::COMMENT, block, next.bytes(Framing::Plain)].concat();
    let checkpoint = Event {
        kind: "checkpoint".to_owned(),
        data: r#"{"from":"now"}"#.to_owned(),
        id: BEFORE.to_string(),
    };
    let next =
        Event { kind: "message".to_owned(), data: "next".to_owned(), id: BEHIND.to_string() };
    let (events, last) = read(&around(plain));
    assert_eq!(events, [checkpoint, event, next]);
    assert_eq!(last, BEHIND.to_string());
    assert_eq!(unchunked(chunked).as_deref(), Some(plain), "the chunk is the block");
    assert_eq!(*frame::framed(plain, Framing::Chunked), *chunked);
}

/// The position that a client sent appears in a gap as plain text.
fn gap(position: EventId, name: &str, after: &str) {
    let gap = Gap {
        position,
        channel: name.parse().ok(),
        reason: GapReason::UnknownId,
        after: After::Text(after.into()),
        oldest: Some(BEHIND),
    };
    let block = frame::gap(&position.into(), &gap, None);
    let (events, last) = read(&block);
    assert_eq!(last, position.to_string());
    let [event] = &events[..] else { panic!("a gap is {} events", events.len()) };
    assert_eq!(event.kind, "gap");
    let said: serde_json::Value = serde_json::from_str(&event.data).expect("a gap's data is JSON");
    assert_eq!(said["after"], after);
    assert_eq!(said["channel"], gap.channel.as_ref().map_or("*", Channel::as_str));
    assert_eq!(said["oldest"], BEHIND.to_string());
}
