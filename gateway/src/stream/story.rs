//! What the log tells of one stream: a line when it opens and a line when it closes, both with its
//! id. Streams that are not logged have no story, and cost nothing for it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use sse_contract::Channel;
use tracing::Level;

use crate::stream::close_reason::CloseReason;
use crate::stream::subscription::Begin;

/// The target of these lines: `log.level = "info,sse_gateway::streams=debug"` shows them.
pub const STREAMS: &str = "sse_gateway::streams";

/// How many channels a line names at most.
const NAMED: usize = 10;

/// A stream's story.
#[derive(Debug, Clone)]
pub struct Story {
    client: IpAddr,
    channels: Arc<[Channel]>,
    begin: Begin,
    opened: Instant,
    events: u64,
    bytes: u64,
    /// Whether the opening was told.
    told: bool,
}

/// Names a stream in this process's log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamId {
    /// The worker's number.
    pub worker: u16,
    /// How many streams the worker had opened, with this one.
    pub number: u32,
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.worker, self.number)
    }
}

impl Story {
    /// The story of a stream that opens now; `None` if the log does not take its lines.
    pub fn begin(client: IpAddr, channels: &Arc<[Channel]>, begin: &Begin) -> Option<Self> {
        tracing::enabled!(target: STREAMS, Level::DEBUG).then(|| Story {
            client,
            channels: channels.clone(),
            begin: begin.clone(),
            opened: Instant::now(),
            events: 0,
            bytes: 0,
            told: false,
        })
    }

    /// Counts what was written.
    pub(crate) fn wrote(&mut self, events: u64, bytes: usize) {
        self.events += events;
        self.bytes += bytes as u64;
    }

    /// Events and bytes written.
    pub(crate) fn written(&self) -> (u64, u64) {
        (self.events, self.bytes)
    }

    /// The client was let in.
    pub(crate) fn opened(&mut self, id: StreamId, subject: Option<&str>) {
        tracing::debug!(
            target: STREAMS,
            stream = %id, client = %self.client, subject, channels = %Names(&self.channels),
            from = %From(&self.begin),
            "a stream is open"
        );
        self.told = true;
    }

    /// The stream ended. Nothing is told of one whose client was never let in.
    pub(crate) fn closed(&self, id: StreamId, subject: Option<&str>, reason: CloseReason) {
        if !self.told {
            return;
        }
        tracing::debug!(
            target: STREAMS,
            stream = %id, client = %self.client, subject, channels = %Names(&self.channels),
            close.reason = reason.as_str(), seconds = self.opened.elapsed().as_secs_f64(),
            events = self.events, bytes = self.bytes,
            "a stream is closed"
        );
    }
}

/// The first channels, and how many more there are.
struct Names<'a>(&'a [Channel]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, channel) in self.0.iter().take(NAMED).enumerate() {
            let comma = if n > 0 { "," } else { "" };
            write!(f, "{comma}{channel}")?;
        }
        match self.0.len().checked_sub(NAMED) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, " and {more} more"),
        }
    }
}

/// Where a stream begins.
struct From<'a>(&'a Begin);

impl fmt::Display for From<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Begin::Now => f.write_str("now"),
            Begin::Oldest => f.write_str("oldest"),
            Begin::After(cursor) => cursor.fmt(f),
            // A client wrote it, so it is quoted.
            Begin::Unknown(text) => write!(f, "unknown {text:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_channels_are_named_in_part() {
        let channels: Vec<Channel> =
            (0..12).map(|n| format!("c{n}").parse().expect("a channel")).collect();
        assert_eq!(Names(&channels[..2]).to_string(), "c0,c1");
        assert_eq!(Names(&channels).to_string(), "c0,c1,c2,c3,c4,c5,c6,c7,c8,c9 and 2 more");
        assert_eq!(Names(&channels[..10]).to_string(), "c0,c1,c2,c3,c4,c5,c6,c7,c8,c9");
    }

    #[test]
    fn what_a_client_wrote_cannot_break_a_line() {
        let begin = Begin::Unknown("a\nb".into());
        assert_eq!(From(&begin).to_string(), r#"unknown "a\nb""#);
    }
}
