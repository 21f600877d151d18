//! The encoder of events. It does no I/O, and no other file writes event-stream syntax.
//!
//! The syntax is WHATWG HTML §9.2.5 ("Parsing an event stream"). Nothing that a publisher writes
//! can become another field or another event: data is split at every line end that a parser knows
//! (CR, LF, CRLF), and each value follows a colon and one space.

use std::fmt::Write;
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

/// A shared event with another position than its id. A stream of several partitions has a position in
/// each of them, so every event carries all of these.
#[derive(Debug)]
pub struct Placed {
    frame: SharedFrame,
    /// The beginning of the chunk, with the annotation, if there is any.
    lead: Box<[u8]>,
    /// Where the frame's own position begins.
    end: usize,
    /// The position, and the end of the block and of the chunk.
    tail: Box<[u8]>,
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

/// How a stream is sent its events: its framing, and whether each event's first line of data is the
/// name of its channel. One number, because a delivery selects bytes by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// In chunks.
    Chunked,
    /// Without chunks.
    Plain,
    /// In chunks, with channels.
    AnnotatedChunked,
    /// Without chunks, with channels.
    AnnotatedPlain,
}

impl Form {
    /// Every form, in the order of their numbers.
    pub const ALL: [Form; 4] =
        [Form::Chunked, Form::Plain, Form::AnnotatedChunked, Form::AnnotatedPlain];

    /// The form of a stream.
    pub fn new(framing: Framing, annotated: bool) -> Self {
        match (framing, annotated) {
            (Framing::Chunked, false) => Form::Chunked,
            (Framing::Plain, false) => Form::Plain,
            (Framing::Chunked, true) => Form::AnnotatedChunked,
            (Framing::Plain, true) => Form::AnnotatedPlain,
        }
    }

    /// How the client learns where the stream's bytes end.
    pub fn framing(self) -> Framing {
        match self {
            Form::Chunked | Form::AnnotatedChunked => Framing::Chunked,
            Form::Plain | Form::AnnotatedPlain => Framing::Plain,
        }
    }

    /// Whether each event's first line of data is the name of its channel.
    pub fn annotated(self) -> bool {
        matches!(self, Form::AnnotatedChunked | Form::AnnotatedPlain)
    }
}

/// Content, with the framing of one chunk around it.
#[derive(Debug)]
struct Chunk {
    /// The size line ends at `HEAD`, so the content begins at the same index in every chunk. Behind
    /// the chunk stands an event's annotation.
    bytes: Box<[u8]>,
    start: u8,
    annotation: Annotation,
}

/// What an annotated stream is sent in place of an event's size line: the size line of the longer
/// chunk, and a line of data with the channel's name. The content itself is shared by all forms.
#[derive(Debug, Clone, Copy)]
struct Annotation {
    /// Bytes of both lines. 0 for a block that is no event.
    length: u8,
    /// Bytes of the line of data.
    line: u8,
}

// The longest annotation fits.
const _: () = assert!(Chunk::HEAD + DATA.len() + Channel::MAX_LEN < 256);

/// The beginnings of lines.
const DATA: &[u8] = b"data: ";
const EVENT: &[u8] = b"event: ";

impl Chunk {
    /// Room for the size line: as many hexadecimal digits as a `usize` has, and CRLF.
    const HEAD: usize = 2 * size_of::<usize>() + 2;

    /// Makes a chunk of the content that `write` appends, which has `expected` bytes: with another
    /// number the buffer is allocated twice. An event's chunk has a channel.
    fn of(channel: Option<&Channel>, expected: usize, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut head = [0; Self::HEAD];
        let line = channel.map_or(0, |channel| DATA.len() + channel.as_str().len() + 1);
        let annotation = match line {
            0 => 0,
            line => Self::HEAD - size_line(expected + line, &mut head) + line,
        };
        let mut bytes = Vec::with_capacity(Self::HEAD + expected + 2 + annotation);
        bytes.resize(Self::HEAD, 0);
        write(&mut bytes);
        let size = bytes.len() - Self::HEAD;
        let start = size_line(size, &mut head);
        bytes[start..Self::HEAD].copy_from_slice(&head[start..]);
        bytes.extend_from_slice(b"\r\n");
        let end = bytes.len();
        if let Some(channel) = channel {
            let start = size_line(size + line, &mut head);
            bytes.extend_from_slice(&head[start..]);
            bytes.extend_from_slice(DATA);
            bytes.extend_from_slice(channel.as_str().as_bytes());
            bytes.push(b'\n');
        }
        let annotation = Annotation { length: (bytes.len() - end) as u8, line: line as u8 };
        Chunk { bytes: bytes.into_boxed_slice(), start: start as u8, annotation }
    }

    /// Where the chunk ends and the annotation begins.
    fn end(&self) -> usize {
        self.bytes.len() - usize::from(self.annotation.length)
    }

    fn framed(&self, framing: Framing) -> &[u8] {
        match framing {
            Framing::Chunked => &self.bytes[usize::from(self.start)..self.end()],
            Framing::Plain => &self.bytes[Self::HEAD..self.end() - 2],
        }
    }

    /// The same with the annotation, as two slices in a row.
    fn annotated(&self, framing: Framing) -> [&[u8]; 2] {
        match framing {
            Framing::Chunked => {
                let (chunk, annotation) = self.bytes.split_at(self.end());
                [annotation, &chunk[Self::HEAD..]]
            }
            Framing::Plain => {
                let line = self.bytes.len() - usize::from(self.annotation.line);
                [&self.bytes[line..], self.framed(framing)]
            }
        }
    }
}

/// Writes a chunk's size line (RFC 9112 §7.1) to the end of `head`. Returns where it begins there.
fn size_line(size: usize, head: &mut [u8; Chunk::HEAD]) -> usize {
    let mut start = Chunk::HEAD - 2;
    head[start..].copy_from_slice(b"\r\n");
    let mut rest = size;
    loop {
        start -= 1;
        head[start] = b"0123456789abcdef"[rest % 16];
        rest /= 16;
        if rest == 0 {
            return start;
        }
    }
}

impl Placed {
    /// The event, which must have an id, at this position, in this form.
    pub fn new(frame: SharedFrame, cursor: &Cursor, form: Form) -> Self {
        let content = frame.bytes(Framing::Plain);
        // The last line before the blank one is the id.
        let id = content.len() - 1;
        let end = memchr::memrchr(b'\n', &content[..id - 1]).map_or(0, |end| end + 1);
        let mut tail = format!("id: {cursor}\n\n").into_bytes();
        let annotation = match form.annotated() {
            true => frame.chunk.annotated(Framing::Plain)[0],
            false => &[],
        };
        let mut lead = Vec::new();
        if form.framing() == Framing::Chunked {
            let mut head = [0; Chunk::HEAD];
            let start = size_line(annotation.len() + end + tail.len(), &mut head);
            lead.extend_from_slice(&head[start..]);
            tail.extend_from_slice(b"\r\n");
        }
        lead.extend_from_slice(annotation);
        Placed { frame, lead: lead.into(), end, tail: tail.into() }
    }

    /// The event's bytes on the wire, as three slices in a row.
    pub fn pieces(&self) -> [&[u8]; 3] {
        [&self.lead, &self.frame.bytes(Framing::Plain)[..self.end], &self.tail]
    }
}

/// Frames a block that belongs to one connection.
pub fn framed(block: &[u8], framing: Framing) -> Box<[u8]> {
    match framing {
        Framing::Plain => block.into(),
        Framing::Chunked => {
            let chunk = Chunk::of(None, block.len(), |bytes| bytes.extend_from_slice(block));
            chunk.framed(framing).into()
        }
    }
}

/// A shared frame. Cloning increments a counter and copies no bytes.
pub type SharedFrame = Arc<Frame>;

impl Frame {
    /// Encodes an event of a channel. `event` is its type, empty if it has none.
    pub fn event(channel: &Channel, id: EventId, event: &str, data: &str) -> SharedFrame {
        let chunk = block(Some(channel), Some(&id.into()), event, data);
        Arc::new(Frame { id: Some(id), chunk })
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
    pub fn raw(channel: &Channel, data: &str) -> SharedFrame {
        Arc::new(Frame { id: None, chunk: block(Some(channel), None, "", data) })
    }

    /// The event's bytes on the wire, without its channel.
    pub fn bytes(&self, framing: Framing) -> &[u8] {
        self.chunk.framed(framing)
    }

    /// The event's bytes on the wire, as two slices in a row. The first is empty if the form has no
    /// channels.
    pub fn pieces(&self, form: Form) -> [&[u8]; 2] {
        match form.annotated() {
            true => self.chunk.annotated(form.framing()),
            false => [&[], self.bytes(form.framing())],
        }
    }

    /// How many bytes the event has on the wire.
    pub fn length(&self, form: Form) -> usize {
        let [first, second] = self.pieces(form);
        first.len() + second.len()
    }

    /// The approximate size in bytes, on the wire and in memory.
    pub fn size(&self) -> usize {
        self.chunk.bytes.len()
    }
}

/// Encodes a `gap` event. A client that reconnects right after it resumes from `cursor`. `among` is
/// set if the gap is of all channels of one partition, and the stream has others: its channels.
pub fn gap(cursor: &Cursor, gap: &Gap, among: Option<&[Channel]>) -> Box<[u8]> {
    let mut data = serde_json::json!({
        "channel": gap.channel.as_ref().map_or("*", Channel::as_str),
        "reason": gap.reason.as_str(),
        "after": gap.after.to_string(),
    });
    if let Some(oldest) = gap.oldest {
        data["oldest"] = oldest.to_string().into();
    }
    if let (None, Some(channels)) = (&gap.channel, among) {
        data["channels"] = channels.iter().map(Channel::as_str).collect();
    }
    block(None, Some(cursor), "gap", &data.to_string()).framed(Framing::Plain).into()
}

/// Encodes a `checkpoint` event: it moves the client's cursor and fires no `onmessage`.
///
/// By the standard a block with only an `id:` line would do, but Firefox and WebKit ignore it.
pub fn checkpoint(cursor: &Cursor) -> Box<[u8]> {
    block(None, Some(cursor), "checkpoint", "").framed(Framing::Plain).into()
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
pub fn first_checkpoint(cursor: &Cursor, began: Began) -> Box<[u8]> {
    let data = match began {
        Began::Now => r#"{"from":"now"}"#.to_owned(),
        Began::After => format!(r#"{{"from":"{cursor}"}}"#),
    };
    block(None, Some(cursor), "checkpoint", &data).framed(Framing::Plain).into()
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

fn block(channel: Option<&Channel>, cursor: Option<&Cursor>, event: &str, data: &str) -> Chunk {
    let mut tail = String::with_capacity(64);
    if let Some(cursor) = cursor {
        let _ = writeln!(tail, "id: {cursor}");
    }
    tail.push('\n');
    let kind = if event.is_empty() { 0 } else { EVENT.len() + event.len() + 1 };
    // CR and LF together make one line, so this may be too much.
    let lines = 1 + memchr::memchr2_iter(b'\r', b'\n', data.as_bytes()).count();
    let expected = kind + lines * DATA.len() + data.len() + 1 + tail.len();
    Chunk::of(channel, expected, |out| write_block(out, event, data, &tail))
}

/// The id is the block's last line, because some clients move the cursor when they read it. A
/// client that is cut off after an earlier id line, inside a large event, would skip that event
/// when it resumes.
fn write_block(out: &mut Vec<u8>, event: &str, data: &str, tail: &str) {
    if !event.is_empty() {
        out.extend_from_slice(EVENT);
        out.extend_from_slice(event.as_bytes());
        out.push(b'\n');
    }
    let mut rest = data.as_bytes();
    loop {
        out.extend_from_slice(DATA);
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
    out.extend_from_slice(tail.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: EventId = EventId { ms: 5, seq: 65536 };

    fn demo() -> Channel {
        "demo".parse().expect("a channel")
    }

    fn text(frame: &Frame) -> &str {
        std::str::from_utf8(frame.bytes(Framing::Plain)).unwrap()
    }

    #[test]
    fn every_line_end_begins_a_data_line() {
        let frame = Frame::event(&demo(), ID, "tick", "a\nb\rc\r\nd\n");
        assert_eq!(
            text(&frame),
            "event: tick\ndata: a\ndata: b\ndata: c\ndata: d\ndata: \nid: 5-65536\n\n"
        );
        assert_eq!(text(&Frame::event(&demo(), ID, "", "")), "data: \nid: 5-65536\n\n");
        assert_eq!(
            text(&Frame::raw(&demo(), "id: 9\r\revent: x")),
            "data: id: 9\ndata: \ndata: event: x\n\n"
        );
    }

    #[test]
    fn a_chunk_is_its_size_and_its_bytes() {
        for size in [0, 1, 15, 16, 4095, 4096, 1 << 20] {
            let frame = Frame::raw(&demo(), &"x".repeat(size));
            let plain = frame.bytes(Framing::Plain);
            let chunk = [format!("{:x}\r\n", plain.len()).as_bytes(), plain, b"\r\n"].concat();
            assert_eq!(frame.bytes(Framing::Chunked), chunk);
            assert_eq!(*framed(plain, Framing::Chunked), chunk);
            assert_eq!(*framed(plain, Framing::Plain), *plain);
        }
    }

    /// The longest name needs the most room.
    #[test]
    fn an_annotated_event_is_its_channel_and_the_same_block_in_one_chunk() {
        let names = ["a", "b:{c}", &"x".repeat(Channel::MAX_LEN)];
        for channel in names.map(|name| name.parse::<Channel>().expect("a channel")) {
            for size in [0, 1, 4095, 1 << 20] {
                let data = "x".repeat(size);
                let events = [
                    Frame::event(&channel, ID, "tick", &data),
                    Frame::event(&channel, ID, "", &format!("{data}\n")),
                    Frame::raw(&channel, &data),
                ];
                for frame in events {
                    let normal = frame.bytes(Framing::Plain);
                    let plain = [format!("data: {channel}\n").as_bytes(), normal].concat();
                    let chunk = framed(&plain, Framing::Chunked);
                    for (form, expected) in [
                        (Form::Chunked, frame.bytes(Framing::Chunked)),
                        (Form::Plain, normal),
                        (Form::AnnotatedChunked, &*chunk),
                        (Form::AnnotatedPlain, &*plain),
                    ] {
                        assert!(frame.pieces(form).concat() == expected, "{form:?} {size}");
                        assert_eq!(frame.length(form), expected.len());
                    }
                }
            }
        }
    }

    #[test]
    fn a_placed_event_differs_in_its_id_alone() {
        let cursor = Cursor::Several(sse_contract::Positions::new(4, [(1, ID), (3, ID)]));
        for (kind, data) in [("", ""), ("tick", "a\nid: 7\n\n"), ("", &*"x".repeat(5000))] {
            let frame = Frame::event(&demo(), ID, kind, data);
            for form in Form::ALL {
                let pieces = Placed::new(frame.clone(), &cursor, form).pieces().concat();
                let normal = frame.pieces(form).concat();
                let content = |bytes: &[u8]| match form.framing() {
                    Framing::Plain => String::from_utf8(bytes.to_vec()).unwrap(),
                    Framing::Chunked => {
                        let text = std::str::from_utf8(bytes).unwrap();
                        let (size, rest) = text.split_once("\r\n").unwrap();
                        let rest = rest.strip_suffix("\r\n").unwrap();
                        assert_eq!(usize::from_str_radix(size, 16), Ok(rest.len()));
                        rest.to_owned()
                    }
                };
                let normal = content(&normal);
                let before = normal.strip_suffix(&format!("id: {ID}\n\n")).unwrap();
                assert_eq!(content(&pieces), format!("{before}id: {cursor}\n\n"), "{form:?}");
            }
        }
    }

    proptest! {
        /// A parser that follows the standard's algorithm reads back what was encoded.
        #[test]
        fn what_is_read_is_what_was_written(event in "[^\r\n\0]{0,12}", data in "[a\r\n:\u{feff}\u{1F600} data]{0,40}") {
            let frame = Frame::event(&demo(), ID, &event, &data);
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
