//! What an operator asks a hub about its streams and channels, and what the hub answers.
//!
//! An asker walks through a hub's table in steps. Each message visits [`STEP`] places and is
//! answered at once, and only then the asker sends the next one. So a walk never holds a worker for
//! long, a worker that is behind slows the walk down, and a walk that is given up leaves nothing
//! behind.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sse_contract::{Channel, Cursor, EventId};
use tokio::sync::mpsc;

/// How many places of a table one step visits: so few that the events behind a step wait about a
/// millisecond for it.
pub const STEP: usize = 2048;

/// How many channels of a stream an entry names at most.
pub const NAMED: usize = 10;

/// The order of a list of streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamSort {
    /// The stream that was opened first comes first.
    Oldest,
    /// The stream that was opened last comes first.
    Newest,
    /// Streams that lag come first; then by the bytes that wait, then by the time they are behind.
    Slowest,
}

/// A stream's place in a list. No two streams of a gateway have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamKey {
    /// What the list is sorted by, most significant first, so that the first entry has the lowest.
    pub rank: [u64; 3],
    /// The worker's number.
    pub worker: u16,
    /// How many streams the worker had opened, with this one.
    pub number: u32,
}

/// Which streams a list has. An absent part selects every stream.
#[derive(Debug, Clone, Default)]
pub struct StreamFilter {
    /// Streams of this subject.
    pub subject: Option<Box<str>>,
    /// Streams that listen to this channel.
    pub channel: Option<Channel>,
    /// Streams of clients at this address.
    pub client: Option<IpAddr>,
}

/// One step through a hub's streams.
#[derive(Debug, Clone)]
pub struct StreamsStep {
    /// The first place to visit.
    pub from: usize,
    /// Which streams are listed.
    pub filter: Arc<StreamFilter>,
    /// Their order.
    pub sort: StreamSort,
    /// Only streams behind this place.
    pub after: Option<StreamKey>,
    /// Only streams before this place.
    pub before: Option<StreamKey>,
    /// How many streams at most; the first ones win.
    pub most: usize,
    /// Takes the answer.
    pub answer: mpsc::Sender<StreamsPart>,
}

/// The answer to a [`StreamsStep`].
#[derive(Debug)]
pub struct StreamsPart {
    /// The streams, in no order.
    pub entries: Vec<(StreamKey, StreamEntry)>,
    /// How many streams of this step pass the filter, wherever their place is.
    pub matched: usize,
    /// Where to go on; `None` at the end of the table.
    pub next: Option<usize>,
}

/// What is told of one stream.
#[derive(Debug, Clone)]
pub struct StreamEntry {
    /// Its name in the log.
    pub id: String,
    /// The client's address and the version of HTTP, if the hub was told.
    pub client: Option<(IpAddr, &'static str)>,
    /// The subject by which it can be revoked.
    pub subject: Option<Arc<str>>,
    /// The first of its channels, at most [`NAMED`].
    pub channels: Vec<Channel>,
    /// How many channels it has.
    pub channel_count: usize,
    /// When it was opened.
    pub opened: SystemTime,
    /// How long ago that was.
    pub age: Duration,
    /// Everything at or below this was written or told missing; `None` if the stream has no
    /// position yet.
    pub position: Option<Cursor>,
    /// Whether it is handed live events.
    pub state: StreamState,
    /// How many bytes wait for the socket.
    pub queued_bytes: usize,
    /// How many events wait for the socket.
    pub queued_events: usize,
    /// How far `position` is behind the partition's last one; `None` while the broker is away.
    pub behind: Option<Duration>,
    /// How long the socket has taken no byte although some wait.
    pub stalled: Duration,
    /// Events and bytes written. They are counted only for streams that the log tells of.
    pub written: Option<(u64, u64)>,
}

/// Whether a stream is handed live events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamState {
    /// It is.
    Live,
    /// It has not been live yet: it waits for its channels, or reads history first.
    Joining,
    /// It was live, and reads history again: the reader was too slow, or the broker was away.
    Lagging,
}

impl StreamState {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            StreamState::Live => "live",
            StreamState::Joining => "joining",
            StreamState::Lagging => "lagging",
        }
    }
}

/// One step through a hub's channels.
#[derive(Debug, Clone)]
pub struct ChannelsStep {
    /// The first place to visit.
    pub from: usize,
    /// Only channels whose names begin with this.
    pub prefix: Arc<str>,
    /// Takes the answer.
    pub answer: mpsc::Sender<ChannelsPart>,
}

/// The answer to a [`ChannelsStep`].
#[derive(Debug)]
pub struct ChannelsPart {
    /// The channels, in no order.
    pub entries: Vec<(Channel, ChannelEntry)>,
    /// Where to go on; `None` at the end of the table.
    pub next: Option<usize>,
}

/// What a hub tells of one channel.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChannelEntry {
    /// How many streams of the hub listen to it.
    pub subscribers: usize,
    /// The last event that was handed out while somebody listened; `None` if there was none.
    pub last: Option<EventId>,
}
