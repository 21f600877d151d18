//! The bytes of a live event on a Redis pub/sub channel.

use std::borrow::Cow;

use crate::EventId;

/// The first byte of a frame. No UTF-8 text holds it, so a raw `PUBLISH` of text cannot be mistaken
/// for a frame.
const MARK: u8 = 0xFF;
const VERSION: u8 = 1;

/// A message that arrived on a live channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiveMessage<'a> {
    /// An event that `sse_publish` or `sse_publish_batch` wrote.
    Event {
        /// Its id.
        id: EventId,
        /// Its type; empty for an untyped event.
        event: Cow<'a, str>,
        /// Its data. Invalid UTF-8 is replaced by U+FFFD, as it would be in a browser.
        data: Cow<'a, str>,
    },
    /// The text of a raw `PUBLISH`. It has no id and is only delivered live.
    Text(Cow<'a, str>),
    /// A frame that this version cannot read. Its event must be read from the history.
    Unknown,
}

/// Writes a frame: `0xFF 0x01 <id> LF <event type> LF <data>`.
pub fn encode_live(id: EventId, event: &str, data: &[u8]) -> Vec<u8> {
    let mut frame = vec![MARK, VERSION];
    frame.extend_from_slice(format!("{id}\n{event}\n").as_bytes());
    frame.extend_from_slice(data);
    frame
}

/// Decodes a message of a live channel. It never fails, because every message needs a reaction.
pub fn decode_live(bytes: &[u8]) -> LiveMessage<'_> {
    match bytes {
        [MARK, VERSION, rest @ ..] => decode_event(rest).unwrap_or(LiveMessage::Unknown),
        [MARK, ..] => LiveMessage::Unknown,
        text => LiveMessage::Text(String::from_utf8_lossy(text)),
    }
}

fn decode_event(rest: &[u8]) -> Option<LiveMessage<'_>> {
    let (id, rest) = split_line(rest)?;
    let (event, data) = split_line(rest)?;
    // The script refuses a type with NUL or CR, so such a frame is forged.
    if memchr::memchr2(b'\r', b'\0', event).is_some() {
        return None;
    }
    Some(LiveMessage::Event {
        id: std::str::from_utf8(id).ok()?.parse().ok()?,
        event: String::from_utf8_lossy(event),
        data: String::from_utf8_lossy(data),
    })
}

fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b'\n', bytes)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_vectors_of_the_written_contract() {
        let id = EventId { ms: 1700000000000, seq: 65537 };
        let frame = b"\xff\x011700000000000-65537\ntick\nhello\nworld";
        assert_eq!(encode_live(id, "tick", b"hello\nworld"), frame);
        let event = LiveMessage::Event { id, event: "tick".into(), data: "hello\nworld".into() };
        assert_eq!(decode_live(frame), event);
        assert_eq!(decode_live(b"hello"), LiveMessage::Text("hello".into()));
        assert_eq!(decode_live(b""), LiveMessage::Text("".into()));
        assert_eq!(decode_live(b"a\xff"), LiveMessage::Text("a\u{fffd}".into()));
        for broken in [
            &b"\xff"[..],
            b"\xff\x02new",
            b"\xff\x01x-1\n\n",
            b"\xff\x011-1\na",
            b"\xff\x011-1\na\rid: 9\nx",
        ] {
            assert_eq!(decode_live(broken), LiveMessage::Unknown, "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>) {
            decode_live(&bytes);
        }

        #[test]
        fn a_frame_comes_back(ms in 1u64..1 << 42, seq in 0u64..1 << 44, event in "[^\r\n\0]{0,20}", data: String) {
            let id = EventId { ms, seq };
            let frame = encode_live(id, &event, data.as_bytes());
            let back = LiveMessage::Event { id, event: event.into(), data: data.into() };
            prop_assert_eq!(decode_live(&frame), back);
        }
    }
}
