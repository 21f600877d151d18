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
    /// Its block, blank line included, as one chunk.
    chunk: Chunk,
}

/// How a client is told where a stream's bytes end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// In chunks (RFC 9112 §7.1). Without them, HTTP clients that fill buffers of their own before they hand anything
    /// on, such as Python's requests, would hold events back. The last chunk is never sent: a client that reads with
    /// `fetch` takes a finished body for the end of the story, and an unfinished one for a reason to come back.
    Chunked,
    /// By the end of the connection: for HTTP/1.0, and for bodies that actix frames itself.
    Plain,
}

/// Bytes with a chunk's framing around them.
#[derive(Debug)]
struct Chunk {
    /// The size line is written from its end, so the content's place is the same in all.
    bytes: Box<[u8]>,
    start: u8,
}

impl Chunk {
    /// Room for the size line: as many digits as a length has, and its end.
    const HEAD: usize = 2 * size_of::<usize>() + 2;

    /// A chunk of what `write` appends.
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

/// A block of a connection's own, in its framing.
pub fn framed(block: &[u8], framing: Framing) -> Box<[u8]> {
    match framing {
        Framing::Plain => block.into(),
        Framing::Chunked => {
            let chunk = Chunk::of(block.len(), |bytes| bytes.extend_from_slice(block));
            chunk.framed(framing).into()
        }
    }
}

/// A frame by reference. Cloning costs a counter, not a copy.
pub type SharedFrame = Arc<Frame>;

impl Frame {
    /// Encodes an event. `event` is empty for an untyped one.
    pub fn event(id: EventId, event: &str, data: &str) -> SharedFrame {
        Arc::new(Frame { id: Some(id), chunk: block(Some(id), event, data) })
    }

    /// Its type and data, read back from its bytes: the data's line ends have become LF, as they do for
    /// every subscriber.
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

    /// Encodes a raw `PUBLISH`: data alone.
    pub fn raw(data: &str) -> SharedFrame {
        Arc::new(Frame { id: None, chunk: block(None, "", data) })
    }

    /// Its bytes on the wire.
    pub fn bytes(&self, framing: Framing) -> &[u8] {
        self.chunk.framed(framing)
    }

    /// About how many bytes it takes, on the wire and in memory.
    pub fn size(&self) -> usize {
        self.chunk.bytes.len()
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
    /// The stream was opened before it had a position, because the broker was away.
    Late,
    /// A slow reader was sent only the newest of the channel, as configured.
    Conflated,
}

impl GapReason {
    /// Every reason, in the order of their declaration.
    pub const ALL: [GapReason; 7] = [
        GapReason::Trimmed,
        GapReason::Expired,
        GapReason::Reset,
        GapReason::UnknownId,
        GapReason::NoHistory,
        GapReason::Late,
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
            GapReason::Late => "late",
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
    let data = data.to_string();
    block(Some(position), "gap", &data).framed(Framing::Plain).into()
}

/// A `checkpoint` event: moves the client's cursor and fires no `onmessage`.
///
/// An `id:`-only block would do by the standard, but Firefox and WebKit ignore it.
pub fn checkpoint(position: EventId) -> Box<[u8]> {
    block(Some(position), "checkpoint", "").framed(Framing::Plain).into()
}

/// Where a stream begins, as its opening checkpoint says. A page compares it with what it asked for: a service worker
/// in between may have dropped its `Last-Event-ID`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Began {
    /// With what is published from now on.
    Now,
    /// After the position.
    After,
}

/// A stream's first checkpoint: `{"from":"now"}`, or `{"from":"<position>"}`.
pub fn first_checkpoint(position: EventId, began: Began) -> Box<[u8]> {
    let data = match began {
        Began::Now => r#"{"from":"now"}"#.to_owned(),
        Began::After => format!(r#"{{"from":"{position}"}}"#),
    };
    block(Some(position), "checkpoint", &data).framed(Framing::Plain).into()
}

/// The sign of life of an idle stream that cannot have a checkpoint, because the broker is away or its replay is not
/// over. A script sees it, which it does not see a comment; it moves no cursor.
pub const ALIVE: &[u8] = b"event: alive\ndata: \n\n";

/// When to come back: the first line of a stream, and the last of one that we end. There is no blank line behind it: a
/// parser takes the field at once, and clients that treat every block as a message see none.
pub fn retry(retry_ms: u64) -> Box<[u8]> {
    format!("retry: {retry_ms}\n").into_bytes().into()
}

/// A heartbeat that says nothing: a comment, without the blank line that some clients take for a message.
pub const COMMENT: &[u8] = b":\n";

fn block(id: Option<EventId>, event: &str, data: &str) -> Chunk {
    Chunk::of(data.len() + event.len() + 64, |out| write_block(out, id, event, data))
}

/// The id is a block's last line. Some clients take the cursor when they read that line: cut off behind it, inside a
/// large event, they would resume after an event that they never had.
fn write_block(out: &mut Vec<u8>, id: Option<EventId>, event: &str, data: &str) {
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
    if let Some(id) = id {
        out.extend_from_slice(format!("id: {id}\n").as_bytes());
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
