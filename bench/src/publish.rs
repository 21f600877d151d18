//! Publishers: threads that send stamped events, at a fixed rate or as fast as they are answered.
//!
//! **Rate.** Each publisher keeps an absolute schedule: event k is due at start + k/rate, however
//! long earlier events took. A server that slows down is therefore not asked for less (no
//! coordinated omission). [`Published::late`] and [`Published::behind`] say how far the schedule
//! was missed.
//!
//! **Stamp.** [`StampAt::Sent`] is the moment before the send. It measures the server's part alone,
//! and the scenarios use it. [`StampAt::Due`] is the scheduled moment: the time that an event waits
//! because the server is slow then counts as latency too.

mod http;
mod publisher;
mod redis;
mod wrap;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use publisher::Publisher;
pub use wrap::{Text, Wrap};

use crate::clock::{self, SECOND};
use crate::load::{Expected, tls};

/// How events reach the server.
#[derive(Debug, Clone)]
pub enum Route {
    /// One event per request, as the body. `{c}` in the path stands for the channel's name.
    Post {
        /// The path, such as `/channels/{c}` or `/pub?id={c}`.
        path: String,
    },
    /// Like [`Route::Post`], over TLS.
    Secure {
        /// The path.
        path: String,
        /// The TLS settings, which say which certificates to trust.
        tls: tls::Settings,
    },
    /// One event per request, in a body of the server's own format.
    Wrapped(Wrap),
    /// Many events per request, one JSON object per line.
    Ndjson {
        /// The path.
        path: String,
        /// Events per request.
        batch: usize,
    },
    /// Straight to Redis with the function `sse_publish`, pipelined.
    Redis {
        /// The prefix of all keys.
        prefix: String,
        /// Events per round trip.
        batch: usize,
    },
}

impl Route {
    fn batch(&self) -> usize {
        match self {
            Route::Post { .. } | Route::Secure { .. } | Route::Wrapped(_) => 1,
            Route::Ndjson { batch, .. } | Route::Redis { batch, .. } => (*batch).max(1),
        }
    }
}

/// How fast to publish.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Events per second, all publishers together.
    Rate(f64),
    /// Each publisher sends the next request once the last is answered.
    Saturate,
}

/// Which channels to publish to, and how events are numbered.
#[derive(Debug, Clone)]
pub enum Channels {
    /// One channel; each publisher numbers its own events.
    One(String),
    /// Many channels. Each belongs to one publisher, which numbers its events.
    Each {
        /// The channels' name, in which `{n}` stands for 0, 1, …
        name: String,
        /// The number of channels.
        count: u32,
    },
}

/// The moment that an event's stamp contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StampAt {
    /// Just before the event is sent.
    Sent,
    /// When the event was due.
    Due,
}

/// What to publish.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The address of the server, or of Redis.
    pub addr: SocketAddr,
    /// How events reach it.
    pub route: Route,
    /// The number of publishers, each a thread with a connection.
    pub publishers: u32,
    /// How fast to publish.
    pub pace: Pace,
    /// Where to publish.
    pub channels: Channels,
    /// Bytes of data per event.
    pub size: usize,
    /// The moment that stamps contain.
    pub stamp: StampAt,
    /// How many batches each publisher sends; `None`: it publishes until it is stopped.
    pub batches: Option<u64>,
}

/// The result of publishing.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// Events that the server accepted.
    pub events: u64,
    /// Events that the server refused or did not answer.
    pub failed: u64,
    /// The error of a batch that failed as a whole.
    pub error: Option<String>,
    /// Events sent more than 10 ms after they were due.
    pub late: u64,
    /// How far a publisher was behind its schedule at most, in seconds.
    pub behind: f64,
    /// How many seconds publishing took.
    pub seconds: f64,
    /// Each stream of numbers with its last number.
    pub last: Vec<(u32, u64)>,
}

impl Published {
    /// What subscribers of all channels should have received.
    pub fn expected(&self) -> Expected {
        Expected::All(self.last.iter().copied().filter(|(_, last)| *last > 0).collect())
    }

    /// What subscribers should have received if the n-th is subscribed to the n-th channel alone.
    pub fn expected_of_own(&self) -> Expected {
        Expected::Own(self.last.clone())
    }
}

/// Running publishers. Dropping them stops them.
#[derive(Debug)]
pub struct Publishers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Published>>,
    began: u64,
}

impl Publishers {
    /// Starts the publishers.
    pub fn start(plan: &Plan) -> Publishers {
        let stop = Arc::new(AtomicBool::new(false));
        let began = clock::now();
        let spawn = |number| {
            let (plan, stop) = (plan.clone(), stop.clone());
            std::thread::spawn(move || Publisher::new(plan, number).run(began, &stop))
        };
        Publishers { threads: (0..plan.publishers).map(spawn).collect(), stop, began }
    }

    /// Stops the publishers. Each still waits for the answer to its last request.
    pub fn stop(self) -> Published {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }

    /// Waits until each publisher has sent all its batches.
    pub fn finish(mut self) -> Published {
        let mut all = Published::default();
        for thread in self.threads.drain(..) {
            let Ok(one) = thread.join() else {
                all.error.get_or_insert("a publisher panicked".to_owned());
                continue;
            };
            all.events += one.events;
            all.failed += one.failed;
            all.error = all.error.or(one.error);
            all.late += one.late;
            all.behind = all.behind.max(one.behind);
            all.last.extend(one.last);
        }
        all.last.sort_unstable();
        all.seconds = (clock::now() - self.began) as f64 / SECOND as f64;
        all
    }
}

impl Drop for Publishers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Why a batch failed.
#[derive(Debug)]
enum Failure {
    /// The connection failed. The events may have been published nevertheless.
    Broken(String),
    /// The server refused the events.
    Refused(String),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Failure::Broken(text)
    }
}

/// An event to send.
#[derive(Debug)]
struct Item<'a> {
    channel: &'a str,
    data: &'a [u8],
}

/// A publisher's connection, with what each [`Route`] needs.
#[derive(Debug)]
enum Wire {
    Post(http::Client, String),
    Wrapped(http::Client, Wrap),
    Ndjson(http::Client, String),
    Redis(redis::Client),
}

impl Wire {
    fn open(plan: &Plan) -> Result<Wire, Failure> {
        let http = || http::Client::connect(plan.addr);
        Ok(match &plan.route {
            Route::Post { path } => Wire::Post(http()?, path.clone()),
            Route::Secure { path, tls } => {
                Wire::Post(http::Client::secure(plan.addr, tls)?, path.clone())
            }
            Route::Wrapped(wrap) => Wire::Wrapped(http::Client::connect(wrap.addr)?, wrap.clone()),
            Route::Ndjson { path, .. } => Wire::Ndjson(http()?, path.clone()),
            Route::Redis { prefix, .. } => Wire::Redis(redis::Client::connect(plan.addr, prefix)?),
        })
    }

    /// Sends events, waits for the answer, and returns how many were accepted.
    fn send(&mut self, items: &[Item<'_>]) -> Result<usize, Failure> {
        match self {
            Wire::Post(client, path) => client.post(path, items),
            Wire::Wrapped(client, wrap) => client.wrapped(wrap, items),
            Wire::Ndjson(client, path) => client.ndjson(path, items),
            Wire::Redis(client) => client.publish(items),
        }
    }
}
