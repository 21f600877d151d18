//! Publishers: threads that send stamped events at a fixed rate, or as fast as they are answered.
//!
//! **Rate.** Each publisher keeps an absolute schedule: event k is due at start + k/rate, however long
//! the ones before took. A server that slows down is therefore not asked less of (no coordinated
//! omission), and [`Published::late`] and [`Published::behind`] say when the schedule was not kept.
//!
//! **Stamp.** [`StampAt::Sent`] stamps the moment just before the send and so measures the server's part
//! alone; it is what the steady fan-out uses. [`StampAt::Due`] stamps the scheduled moment: then the wait
//! of events that a slow server held up counts as latency, too.

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
    /// One event a request, its body; `{c}` in the path is the channel's name.
    Post {
        /// The path, `/channels/{c}` or `/pub?id={c}`.
        path: String,
    },
    /// The same over TLS.
    Secure {
        /// The path.
        path: String,
        /// Whom to trust.
        tls: tls::Settings,
    },
    /// One event a request, inside a text of the server's own.
    Wrapped(Wrap),
    /// Many events a request, one JSON object a line.
    Ndjson {
        /// The path.
        path: String,
        /// Events a request.
        batch: usize,
    },
    /// Straight to Redis by the function `sse_publish`, pipelined.
    Redis {
        /// What every key begins with.
        prefix: String,
        /// Events a round trip.
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

/// How fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Events a second, all publishers together.
    Rate(f64),
    /// The next as soon as the last was answered.
    Saturate,
}

/// Which channels, and how events are numbered.
#[derive(Debug, Clone)]
pub enum Channels {
    /// One channel; each publisher numbers its own events.
    One(String),
    /// Many, `{n}` in the name being 0, 1, …; each channel is numbered by the one publisher it has.
    Each {
        /// The names.
        name: String,
        /// How many.
        count: u32,
    },
}

/// Which moment an event is stamped with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StampAt {
    /// Just before it is sent.
    Sent,
    /// When it was due.
    Due,
}

/// What to publish.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The server, or Redis.
    pub addr: SocketAddr,
    /// How events get there.
    pub route: Route,
    /// Connections, each with a thread.
    pub publishers: u32,
    /// How fast.
    pub pace: Pace,
    /// Where to.
    pub channels: Channels,
    /// Bytes of one event's data.
    pub size: usize,
    /// What the stamp says.
    pub stamp: StampAt,
    /// How many batches each publisher sends; `None`: until it is stopped.
    pub batches: Option<u64>,
}

/// How publishing went.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// Events the server took.
    pub events: u64,
    /// Events it did not take, or whose answer never came.
    pub failed: u64,
    /// Why the first of them was not.
    pub error: Option<String>,
    /// Events sent more than 10 ms after they were due.
    pub late: u64,
    /// The furthest behind its schedule that a publisher was, in seconds.
    pub behind: f64,
    /// How long it took.
    pub seconds: f64,
    /// The last number of each stream of numbers.
    pub last: Vec<(u32, u64)>,
}

impl Published {
    /// What a subscriber of all channels should have.
    pub fn expected(&self) -> Expected {
        Expected::All(self.last.iter().copied().filter(|(_, last)| *last > 0).collect())
    }

    /// What subscribers should have of which each is on the channel of its own number.
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
    /// Starts them.
    pub fn start(plan: &Plan) -> Publishers {
        let stop = Arc::new(AtomicBool::new(false));
        let began = clock::now();
        let spawn = |number| {
            let (plan, stop) = (plan.clone(), stop.clone());
            std::thread::spawn(move || Publisher::new(plan, number).run(began, &stop))
        };
        Publishers { threads: (0..plan.publishers).map(spawn).collect(), stop, began }
    }

    /// Stops them, each after the answer it waits for.
    pub fn stop(self) -> Published {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }

    /// Waits until each has sent all that it was to send.
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
    /// The connection broke: it may have been published or not.
    Broken(String),
    /// The server said no.
    Refused(String),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Failure::Broken(text)
    }
}

/// One event, on its way.
#[derive(Debug)]
struct Item<'a> {
    channel: &'a str,
    data: &'a [u8],
}

/// A publisher's connection, and how it is used.
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

    /// Sends and waits for the answer; how many were taken.
    fn send(&mut self, items: &[Item<'_>]) -> Result<usize, Failure> {
        match self {
            Wire::Post(client, path) => client.post(path, items),
            Wire::Wrapped(client, wrap) => client.wrapped(wrap, items),
            Wire::Ndjson(client, path) => client.ndjson(path, items),
            Wire::Redis(client) => client.publish(items),
        }
    }
}
