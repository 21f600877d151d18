//! The encoder of events. It does no I/O, and no other file writes event-stream syntax.
//!
//! The syntax is WHATWG HTML §9.2.5 ("Parsing an event stream"). Nothing that a publisher writes
//! can become another field or another event: data is split at every line end that a parser knows
//! (CR, LF, CRLF), and each value follows a colon and one space.

use std::sync::Arc;

use sse_contract::{Channel, Cursor, EventId};

use crate::feed::gap::Gap;

/// One event, encoded once and shared by every connection that is sent it.
#[derive(Debug)]
pub struct Frame {
    /// The event's id. `None` for a raw `PUBLISH`, which is live only.
    pub id: Option<EventId>,
    /// The event's block with its blank line, as one chunk.
    chunk: Chunk,
}

/// How the client learns where the stream's bytes end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// In chunks (RFC 9112 §7.1). Without chunks, HTTP clients that fill a buffer before they hand
    /// data on, such as Python's requests, would delay events. The last chunk is never sent when
    /// the client should reconnect: a client that reads with `fetch` treats a finished body as
    /// final, and reconnects after an unfinished one.
    Chunked,
    /// The end of the connection ends the body. For HTTP/1.0, and for bodies that actix frames
    /// itself.
    Plain,
}

/// Content, with the framing of one chunk around it.
#[derive(Debug)]
struct Chunk {
    /// The size line ends at `HEAD`, so the content begins at the same index in every chunk.
    bytes: Box<[u8]>,
    start: u8,
}

impl Chunk {
    /// Room for the size line: as many hexadecimal digits as a `usize` has, and CRLF.
    const HEAD: usize = 2 * size_of::<usize>() + 2;

    /// Makes a chunk of the content that `write` appends.
    fn of(capacity: usize, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = Vec::with_capacity(Self::HEAD + capacity + 2);
        bytes.resize(Self::HEAD, 0);
        write(&mut bytes);
        let size = format!("{:x}\r\n", bytes.len() - Self::HEAD);
        let start = Self::HEAD - size.len();
        bytes[start..Self::HEAD].copy_from_slice(size.as_bytes());
        bytes.extend_from_slice(b"\r\n");
        Chunk { bytes: bytes.into_boxed_slice(), start: start as u8 }
    }

    fn framed(&self, framing: Framing) -> &[u8] {
        match framing {
            Framing::Chunked => &self.bytes[usize::from(self.start)..],
            Framing::Plain => &self.bytes[Self::HEAD..self.bytes.len() - 2],
        }
    }
}

/// Frames a block that belongs to one connection.
pub fn framed(block: &[u8], framing: Framing) -> Box<[u8]> {
    match framing {
        Framing::Plain => block.into(),
        Framing::Chunked => {
            let chunk = Chunk::of(block.len(), |bytes| bytes.extend_from_slice(block));
            chunk.framed(framing).into()
        }
    }
}

/// A shared frame. Cloning increments a counter and copies no bytes.
pub type SharedFrame = Arc<Frame>;

impl Frame {
    /// Encodes an event. `event` is its type, empty if it has none.
    pub fn event(id: EventId, event: &str, data: &str) -> SharedFrame {
        Arc::new(Frame { id: Some(id), chunk: block(Some(id.into()), event, data) })
    }

    /// Returns the event's type and data, decoded from its bytes. Line ends in the data are LF, as
    /// every subscriber sees them.
    pub fn parts(&self) -> (String, String) {
        let (mut event, mut data) = (String::new(), Vec::new());
        for line in String::from_utf8_lossy(self.bytes(Framing::Plain)).split('\n') {
            if let Some(text) = line.strip_prefix("data: ") {
                data.push(text.to_owned());
            } else if let Some(text) = line.strip_prefix("event: ") {
                text.clone_into(&mut event);
            }
        }
        (event, data.join("\n"))
    }

    /// Encodes a raw `PUBLISH`: data without type or id.
    pub fn raw(data: &str) -> SharedFrame {
        Arc::new(Frame { id: None, chunk: block(None, "", data) })
    }

    /// The event's bytes on the wire.
    pub fn bytes(&self, framing: Framing) -> &[u8] {
        self.chunk.framed(framing)
    }

    /// The approximate size in bytes, on the wire and in memory.
    pub fn size(&self) -> usize {
        self.chunk.bytes.len()
    }
}

/// Encodes a `gap` event. A client that reconnects right after it resumes from `cursor`.
pub fn gap(cursor: Cursor, gap: &Gap) -> Box<[u8]> {
    let mut data = serde_json::json!({
        "channel": gap.channel.as_ref().map_or("*", Channel::as_str),
        "reason": gap.reason.as_str(),
        "after": gap.after.to_string(),
    });
    if let Some(oldest) = gap.oldest {
        data["oldest"] = oldest.to_string().into();
    }
    block(Some(cursor), "gap", &data.to_string()).framed(Framing::Plain).into()
}

/// Encodes a `checkpoint` event: it moves the client's cursor and fires no `onmessage`.
///
/// By the standard a block with only an `id:` line would do, but Firefox and WebKit ignore it.
pub fn checkpoint(cursor: Cursor) -> Box<[u8]> {
    block(Some(cursor), "checkpoint", "").framed(Framing::Plain).into()
}

/// Where a stream begins. The opening checkpoint says so, and a page compares it with what it asked
/// for, because a service worker may have dropped its `Last-Event-ID`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Began {
    /// With events published from now on.
    Now,
    /// After a position.
    After,
}

/// Encodes a stream's first checkpoint. Its data is `{"from":"now"}` or `{"from":"<position>"}`.
pub fn first_checkpoint(cursor: Cursor, began: Began) -> Box<[u8]> {
    let data = match began {
        Began::Now => r#"{"from":"now"}"#.to_owned(),
        Began::After => format!(r#"{{"from":"{cursor}"}}"#),
    };
    block(Some(cursor), "checkpoint", &data).framed(Framing::Plain).into()
}

/// The heartbeat of an idle stream that cannot have a checkpoint, because the broker is away or the
/// replay has not ended. Scripts see it, unlike a comment. It has no id, so the cursor stays.
pub const ALIVE: &[u8] = b"event: alive\ndata: \n\n";

/// Encodes the reconnection time in milliseconds: the first line of a stream, and the last line of
/// a stream that the gateway ends. No blank line follows: parsers apply the field at once, and
/// clients that treat every block as a message see none.
pub fn retry(retry_ms: u64) -> Box<[u8]> {
    format!("retry: {retry_ms}\n").into_bytes().into()
}

/// A heartbeat as a comment. It has no blank line, because some clients treat that as a message.
pub const COMMENT: &[u8] = b":\n";

fn block(cursor: Option<Cursor>, event: &str, data: &str) -> Chunk {
    Chunk::of(data.len() + event.len() + 64, |out| write_block(out, cursor, event, data))
}

/// The id is the block's last line, because some clients move the cursor when they read it. A
/// client that is cut off after an earlier id line, inside a large event, would skip that event
/// when it resumes.
fn write_block(out: &mut Vec<u8>, cursor: Option<Cursor>, event: &str, data: &str) {
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
    if let Some(cursor) = cursor {
        out.extend_from_slice(format!("id: {cursor}\n").as_bytes());
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: EventId = EventId { ms: 5, seq: 65536 };

    fn text(frame: &Frame) -> &str {
        std::str::from_utf8(frame.bytes(Framing::Plain)).unwrap()
    }

    #[test]
    fn every_line_end_begins_a_data_line() {
        let frame = Frame::event(ID, "tick", "a\nb\rc\r\nd\n");
        assert_eq!(
            text(&frame),
            "event: tick\ndata: a\ndata: b\ndata: c\ndata: d\ndata: \nid: 5-65536\n\n"
        );
        assert_eq!(text(&Frame::event(ID, "", "")), "data: \nid: 5-65536\n\n");
        assert_eq!(
            text(&Frame::raw("id: 9\r\revent: x")),
            "data: id: 9\ndata: \ndata: event: x\n\n"
        );
    }

    #[test]
    fn a_chunk_is_its_size_and_its_bytes() {
        for size in [0, 1, 15, 16, 4095, 4096, 1 << 20] {
            let frame = Frame::raw(&"x".repeat(size));
            let plain = frame.bytes(Framing::Plain);
            let chunk = [format!("{:x}\r\n", plain.len()).as_bytes(), plain, b"\r\n"].concat();
            assert_eq!(frame.bytes(Framing::Chunked), chunk);
            assert_eq!(*framed(plain, Framing::Chunked), chunk);
            assert_eq!(*framed(plain, Framing::Plain), *plain);
        }
    }

    proptest! {
        /// A parser that follows the standard's algorithm reads back what was encoded.
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
