//! The bytes of a live event on a Redis pub/sub channel.

use std::borrow::Cow;

use crate::EventId;

/// No UTF-8 text holds this byte, so a raw `PUBLISH` of text cannot be taken for a frame.
const MARK: u8 = 0xFF;
const VERSION: u8 = 1;

/// What arrived on a live channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiveMessage<'a> {
    /// An event that `sse_publish` wrote.
    Event {
        /// Its id.
        id: EventId,
        /// Its type; empty for none.
        event: Cow<'a, str>,
        /// Its data. Invalid UTF-8 became U+FFFD, as it would in a browser.
        data: Cow<'a, str>,
    },
    /// A raw `PUBLISH` by some client: live only, without id.
    Text(Cow<'a, str>),
    /// A frame this version cannot read: its event must be read from history.
    Unknown,
}

/// Writes a frame: `0xFF 0x01 <id> LF <event type> LF <data>`.
pub fn encode_live(id: EventId, event: &str, data: &[u8]) -> Vec<u8> {
    let mut frame = vec![MARK, VERSION];
    frame.extend_from_slice(format!("{id}\n{event}\n").as_bytes());
    frame.extend_from_slice(data);
    frame
}

/// Reads what arrived on a live channel; never fails, because whatever it is must be answered.
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
    // A forged frame could hold a NUL or CR that the script would have refused.
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
