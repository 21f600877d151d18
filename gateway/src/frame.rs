//! An event's bytes on the wire: pure, and the only place that writes an event stream's syntax.
//!
//! The syntax is WHATWG HTML §9.2.5 ("Parsing an event stream"). Nothing a publisher writes can become
//! another field or another event: data is split wherever a parser would end a line (CR, LF, CRLF), and
//! a value always stands behind a colon and one space.

use std::sync::Arc;

use sse_contract::{Channel, EventId};

/// One event, encoded once and shared by every connection that is sent it.
#[derive(Debug)]
pub struct Frame {
    /// The event's id; none for a raw `PUBLISH`, which is live only.
    pub id: Option<EventId>,
    /// The bytes of its block, blank line included.
    pub bytes: Box<[u8]>,
}

/// A frame by reference. Cloning costs a counter, not a copy.
pub type SharedFrame = Arc<Frame>;

impl Frame {
    /// Encodes an event. `event` is empty for an untyped one.
    pub fn event(id: EventId, event: &str, data: &str) -> SharedFrame {
        Arc::new(Frame { id: Some(id), bytes: encode(Some(id), event, data) })
    }

    /// Its type and data, read back from its bytes: the data's line ends have become LF, as they do for
    /// every subscriber.
    pub fn parts(&self) -> (String, String) {
        let (mut event, mut data) = (String::new(), Vec::new());
        for line in String::from_utf8_lossy(&self.bytes).split('\n') {
            if let Some(text) = line.strip_prefix("data: ") {
                data.push(text.to_owned());
            } else if let Some(text) = line.strip_prefix("event: ") {
                text.clone_into(&mut event);
            }
        }
        (event, data.join("\n"))
    }

    /// Encodes a raw `PUBLISH`: data alone.
    pub fn raw(data: &str) -> SharedFrame {
        Arc::new(Frame { id: None, bytes: encode(None, "", data) })
    }
}

/// Why events after a position may be missing (the `reason` of a `gap` event).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapReason {
    /// The history was cut to its length limit.
    Trimmed,
    /// The events were older than the history keeps them.
    Expired,
    /// Redis may have lost acknowledged writes: the position is of another epoch.
    Reset,
    /// The position is not one this system gave out.
    UnknownId,
    /// History is switched off.
    NoHistory,
    /// A slow reader was sent only the newest of the channel, as configured.
    Conflated,
}

impl GapReason {
    /// Every reason, in the order of their declaration.
    pub const ALL: [GapReason; 6] = [
        GapReason::Trimmed,
        GapReason::Expired,
        GapReason::Reset,
        GapReason::UnknownId,
        GapReason::NoHistory,
        GapReason::Conflated,
    ];

    /// The word on the wire and in the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            GapReason::Trimmed => "trimmed",
            GapReason::Expired => "expired",
            GapReason::Reset => "reset",
            GapReason::UnknownId => "unknown_id",
            GapReason::NoHistory => "no_history",
            GapReason::Conflated => "conflated",
        }
    }
}

/// A `gap` event. `position` is what the client resumes from if it reconnects now.
pub fn gap(
    position: EventId,
    channel: Option<&Channel>,
    reason: GapReason,
    after: &str,
    oldest: Option<EventId>,
) -> Box<[u8]> {
    let mut data = serde_json::json!({
        "channel": channel.map_or("*", Channel::as_str),
        "reason": reason.as_str(),
        "after": after,
    });
    if let Some(oldest) = oldest {
        data["oldest"] = oldest.to_string().into();
    }
    encode(Some(position), "gap", &data.to_string())
}

/// A `checkpoint` event: moves the client's cursor and fires no `onmessage`.
///
/// An `id:`-only block would do by the standard, but Firefox and WebKit ignore it.
pub fn checkpoint(position: EventId) -> Box<[u8]> {
    encode(Some(position), "checkpoint", "")
}

/// The first line of a stream. There is no blank line behind it: a parser takes the field at once, and
/// clients that treat every block as a message see none.
pub fn opening(retry_ms: u64) -> Box<[u8]> {
    format!("retry: {retry_ms}\n").into_bytes().into()
}

/// The last words of a stream that ends by our will: when to come back.
pub fn closing(retry_ms: u64) -> Box<[u8]> {
    format!("retry: {retry_ms}\n\n").into_bytes().into()
}

/// A heartbeat that says nothing: a comment, without the blank line that some clients take for a message.
pub const COMMENT: &[u8] = b":\n";

fn encode(id: Option<EventId>, event: &str, data: &str) -> Box<[u8]> {
    let mut out = Vec::with_capacity(data.len() + event.len() + 64);
    if let Some(id) = id {
        out.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    if !event.is_empty() {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(event.as_bytes());
        out.push(b'\n');
    }
    let mut rest = data.as_bytes();
    loop {
        out.extend_from_slice(b"data: ");
        let Some(end) = memchr::memchr2(b'\r', b'\n', rest) else {
            out.extend_from_slice(rest);
            out.push(b'\n');
            break;
        };
        out.extend_from_slice(&rest[..end]);
        out.push(b'\n');
        let line_end = if rest[end..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = &rest[end + line_end..];
    }
    out.push(b'\n');
    out.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: EventId = EventId { ms: 5, seq: 65536 };

    fn text(frame: &Frame) -> &str {
        std::str::from_utf8(&frame.bytes).unwrap()
    }

    #[test]
    fn every_line_end_begins_a_data_line() {
        let frame = Frame::event(ID, "tick", "a\nb\rc\r\nd\n");
        assert_eq!(
            text(&frame),
            "id: 5-65536\nevent: tick\ndata: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"
        );
        assert_eq!(text(&Frame::event(ID, "", "")), "id: 5-65536\ndata: \n\n");
        assert_eq!(
            text(&Frame::raw("id: 9\r\revent: x")),
            "data: id: 9\ndata: \ndata: event: x\n\n"
        );
    }

    proptest! {
        /// The standard's own algorithm, written as plainly as it stands there, reads back what went in.
        #[test]
        fn what_is_read_is_what_was_written(event in "[^\r\n\0]{0,12}", data in "[a\r\n:\u{feff}\u{1F600} data]{0,40}") {
            let frame = Frame::event(ID, &event, &data);
            let normal = text(&frame).replace("\r\n", "\n").replace('\r', "\n");
            let (mut id, mut kind, mut read) = (None, None, String::new());
            let block = normal.strip_suffix("\n\n").expect("a block ends with a blank line");
            prop_assert!(!block.contains("\n\n"), "one block");
            for line in block.split('\n') {
                match line.split_once(": ") {
                    None => prop_assert!(false, "no field: {line:?}"),
                    Some(("id", v)) => id = Some(v.to_owned()),
                    Some(("event", v)) => kind = Some(v.to_owned()),
                    Some(("data", v)) => { read.push_str(v); read.push('\n') }
                    Some(_) => prop_assert!(false, "another field: {line:?}"),
                }
            }
            read.pop();
            prop_assert_eq!(frame.parts(), (event.clone(), read.clone()));
            prop_assert_eq!(id.unwrap(), ID.to_string());
            prop_assert_eq!(kind.unwrap_or_default(), event);
            prop_assert_eq!(read, data.replace("\r\n", "\n").replace('\r', "\n"));
        }
    }
}
