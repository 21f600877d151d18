//! Parses an event stream (WHATWG HTML §9.2.6) from chunks of any size. Does no I/O, and uses no
//! more memory than its limit allows.
//!
//! `russe` is not used because of its decoder (0.3.1). It keeps a leading byte order mark, fails on
//! invalid UTF-8 where a browser replaces it, and accepts an id with NUL. It cannot tell an event
//! with empty data from a block without data. And at every chunk it searches its buffer, which has
//! no bound, from the start.

use std::time::Duration;

/// One dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEvent {
    /// The last `id:` in the event's own block. `None` for a raw `PUBLISH`, which a client cannot
    /// resume after; [`last_event_id`](EventStream::last_event_id) is then the id of an earlier
    /// event.
    pub id: Option<String>,
    /// The type; empty for an untyped event.
    pub event: String,
    /// The data; lines are joined by LF.
    pub data: String,
}

/// The data of an event and the current line together are longer than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is larger than {0} bytes")]
pub struct TooLarge(pub usize);

/// The parser of one connection's stream.
#[derive(Debug)]
pub struct EventStream {
    limit: usize,
    /// The current line, as far as it has arrived.
    line: Vec<u8>,
    /// The last line ended with CR, so an LF that follows belongs to that line end.
    after_cr: bool,
    first_line: bool,
    data: String,
    has_data: bool,
    event: String,
    own_id: Option<String>,
    id_buffer: String,
    last_event_id: String,
    retry: Option<Duration>,
}

impl EventStream {
    /// Begins a stream. `last_event_id` is the id with which the previous connection ended. A block
    /// without an id keeps it. So do all browsers, although the standard begins each stream with an
    /// empty id.
    pub fn new(last_event_id: &str, limit: usize) -> Self {
        EventStream {
            limit,
            line: Vec::new(),
            after_cr: false,
            first_line: true,
            data: String::new(),
            has_data: false,
            event: String::new(),
            own_id: None,
            id_buffer: last_event_id.to_owned(),
            last_event_id: last_event_id.to_owned(),
            retry: None,
        }
    }

    /// The position to resume after: the last id in the blocks that a blank line has ended. An
    /// unfinished block does not change it, so after a cut the client asks for that event again.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// The last valid `retry:` that arrived.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Parses a chunk and appends the events that it completes.
    pub fn feed(
        &mut self,
        mut chunk: &[u8],
        events: &mut Vec<StreamEvent>,
    ) -> Result<(), TooLarge> {
        while !chunk.is_empty() {
            if std::mem::take(&mut self.after_cr) && chunk[0] == b'\n' {
                chunk = &chunk[1..];
                continue;
            }
            let end = memchr::memchr2(b'\r', b'\n', chunk);
            let part = &chunk[..end.unwrap_or(chunk.len())];
            if self.line.len() + part.len() + self.data.len() > self.limit {
                return Err(TooLarge(self.limit));
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { return Ok(()) };
            self.after_cr = chunk[end] == b'\r';
            chunk = &chunk[end + 1..];
            self.end_line(events);
        }
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<StreamEvent>) {
        let mut bytes = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.first_line) && bytes.starts_with(b"\xEF\xBB\xBF") {
            bytes.drain(..3);
        }
        // A line can be decoded alone, because no multi-byte UTF-8 sequence contains CR or LF.
        let line = String::from_utf8_lossy(&bytes);
        if line.is_empty() {
            self.dispatch(events);
        } else {
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            self.field(field, value.strip_prefix(' ').unwrap_or(value));
        }
        // Keeps the buffer for the next line, unless a huge line has grown it.
        if bytes.capacity() <= 64 * 1024 {
            bytes.clear();
            self.line = bytes;
        }
    }

    fn field(&mut self, field: &str, value: &str) {
        match field {
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.has_data = true;
                self.data.push_str(value);
            }
            "event" => value.clone_into(&mut self.event),
            "id" if !value.contains('\0') => {
                value.clone_into(&mut self.id_buffer);
                self.own_id = Some(value.to_owned());
            }
            "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                if let Ok(ms) = value.parse() {
                    self.retry = Some(Duration::from_millis(ms));
                }
            }
            // A comment, which has an empty field name, or an unknown field.
            _ => {}
        }
    }

    fn dispatch(&mut self, events: &mut Vec<StreamEvent>) {
        self.last_event_id.clone_from(&self.id_buffer);
        let event = std::mem::take(&mut self.event);
        let data = std::mem::take(&mut self.data);
        let id = self.own_id.take();
        if std::mem::take(&mut self.has_data) {
            events.push(StreamEvent { id, event, data });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(chunks: &[&[u8]]) -> (Vec<StreamEvent>, EventStream) {
        let mut stream = EventStream::new("", 1 << 20);
        let mut events = Vec::new();
        for chunk in chunks {
            stream.feed(chunk, &mut events).unwrap();
        }
        (events, stream)
    }

    fn data(chunks: &[&[u8]]) -> Vec<String> {
        read(chunks).0.into_iter().map(|event| event.data).collect()
    }

    #[test]
    fn the_examples_of_the_standard() {
        assert_eq!(data(&[b"data: YHOO\ndata: +2\ndata: 10\n\n"]), ["YHOO\n+2\n10"]);
        let (events, stream) = read(&[
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        ]);
        let got: Vec<_> = events.iter().map(|e| (e.id.as_deref(), e.data.as_str())).collect();
        let want = [(Some("1"), "first event"), (Some(""), "second event"), (None, " third event")];
        assert_eq!(got, want);
        assert_eq!(stream.last_event_id(), "");
        assert_eq!(data(&[b"data\n\ndata\ndata\n\ndata:"]), ["", "\n"]);
        assert_eq!(data(&[b"data:test\n\ndata: test\n\n"]), ["test", "test"]);
    }

    #[test]
    fn every_line_end_wherever_it_is_cut() {
        assert_eq!(
            data(&[b"data: a\r", b"\ndata: b\r\n", b"\r", b"\ndata: c\r", b"\r"]),
            ["a\nb", "c"]
        );
        assert_eq!(data(&[b"data: a\r\rdata: b\n\r\ndata: c\r\n\n"]), ["a", "b", "c"]);
    }

    #[test]
    fn one_byte_order_mark_is_skipped() {
        assert_eq!(data(&[b"\xEF", b"\xBB\xBFdata: a\n\n\xEF\xBB\xBFdata: b\n\n"]), ["a"]);
    }

    #[test]
    fn an_id_persists_and_one_with_nul_is_ignored() {
        let (events, stream) = read(&[b"id: 7\ndata: a\n\nid: 8\0\ndata: b\n\nid: 9\n\n"]);
        assert_eq!(events[1].id, None);
        assert_eq!((events.len(), stream.last_event_id()), (2, "9"));
    }

    #[test]
    fn an_unfinished_block_moves_nothing() {
        let (events, stream) = read(&[b"id: 1\ndata: a\n\nid: 2\ndata: b\n"]);
        assert_eq!((events.len(), stream.last_event_id()), (1, "1"));
    }

    #[test]
    fn a_type_does_not_outlive_its_block() {
        let (events, _) = read(&[b"event: tick\n\ndata: a\n\nevent: t\nevent: u\ndata\n\n"]);
        assert_eq!((events[0].event.as_str(), events[1].event.as_str()), ("", "u"));
    }

    #[test]
    fn retry_is_digits_only() {
        for (text, ms) in [("retry: 20\n", Some(20)), ("retry: +2\n", None), ("retry\n", None)] {
            assert_eq!(read(&[text.as_bytes()]).1.retry(), ms.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn invalid_utf8_is_replaced() {
        assert_eq!(data(&[b"data: a\xC3", b"\x28\n\n"]), ["a\u{fffd}("]);
    }

    #[test]
    fn what_grows_without_end_is_refused() {
        let mut stream = EventStream::new("", 100);
        let mut events = Vec::new();
        assert_eq!(stream.feed(&[b'x'; 101], &mut events), Err(TooLarge(100)));
        let mut stream = EventStream::new("", 100);
        let endless = "data: 0123456789\n".repeat(20);
        assert_eq!(stream.feed(endless.as_bytes(), &mut events), Err(TooLarge(100)));
    }

    /// A direct transcription of the standard that parses the whole text at once.
    fn model(bytes: &[u8]) -> (Vec<StreamEvent>, String) {
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n").replace('\r', "\n");
        let (mut events, mut last) = (Vec::new(), String::new());
        let (mut data, mut event, mut id, mut own) =
            (String::new(), String::new(), String::new(), None);
        let mut lines: Vec<&str> = text.split('\n').collect();
        lines.pop();
        for line in lines {
            if line.is_empty() {
                last.clone_from(&id);
                if let Some(all) = data.strip_suffix('\n') {
                    let data = all.to_owned();
                    events.push(StreamEvent { id: own.clone(), event: event.clone(), data });
                }
                (data, event, own) = (String::new(), String::new(), None);
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "data" => data += &format!("{value}\n"),
                "event" => event = value.to_owned(),
                "id" if !value.contains('\0') => {
                    (id, own) = (value.to_owned(), Some(value.to_owned()))
                }
                _ => {}
            }
        }
        (events, last)
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let pieces = [
            "data",
            "id",
            "event",
            "retry",
            ":",
            " ",
            "\n",
            "\r",
            "\r\n",
            "\n\n",
            "x",
            "7",
            "\0",
            "ü",
            "data: a\n",
            "id: 5\n",
            "\u{feff}",
        ];
        prop_oneof![
            9 => proptest::sample::select(pieces.to_vec()).prop_map(|p| p.as_bytes().to_vec()),
            1 => proptest::sample::select(vec![vec![0xFF], vec![0xC3], vec![0xE2, 0x82]]),
        ]
    }

    proptest! {
        #[test]
        fn any_stream_in_any_chunks_reads_as_the_standard_says(
            pieces in proptest::collection::vec(piece(), 0..60),
            cuts in proptest::collection::vec(1usize..5, 1..40),
        ) {
            let bytes = pieces.concat();
            let (mut chunks, mut rest, mut at) = (Vec::new(), &bytes[..], 0);
            while !rest.is_empty() {
                let (chunk, left) = rest.split_at(cuts[at % cuts.len()].min(rest.len()));
                chunks.push(chunk);
                (rest, at) = (left, at + 1);
            }
            let (events, stream) = read(&chunks);
            prop_assert_eq!((events, stream.last_event_id().to_owned()), model(&bytes));
        }
    }
}
