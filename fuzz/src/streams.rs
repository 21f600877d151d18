//! The event stream parser of `sse-publish`: it reads what a browser reads, however the stream is
//! split.
//!
//! Input: a byte for the size of the pieces, then the stream.

use sse_publish::event_stream::EventStream;

use crate::event_source;

/// Reads the stream in pieces and whole, and compares.
pub fn run(data: &[u8]) {
    let Some((size, stream)) = data.split_first() else { return };
    let mut reader = EventStream::new("", usize::MAX);
    let mut read = Vec::new();
    for piece in stream.chunks(usize::from(*size) + 1) {
        reader.feed(piece, &mut read).expect("there is no limit");
    }
    let (events, last) = event_source::read(stream);
    assert_eq!(read.len(), events.len());
    for (read, event) in read.iter().zip(&events) {
        let kind = if read.event.is_empty() { "message" } else { &read.event };
        assert_eq!((kind, &read.data), (event.kind.as_str(), &event.data));
        assert!(read.id.as_ref().is_none_or(|id| *id == event.id), "{read:?} is {event:?}");
    }
    assert_eq!(reader.last_event_id(), last);
    // A reader with a limit fails before it buffers more.
    let mut bounded = EventStream::new("", 64);
    let mut held = Vec::new();
    let ended = stream
        .chunks(usize::from(*size) + 1)
        .find_map(|piece| bounded.feed(piece, &mut held).err());
    // Each invalid byte is replaced by U+FFFD, which takes three bytes.
    assert!(held.iter().all(|event| event.data.len() <= 3 * 65), "{ended:?}");
}
