//! What `bench --publish` sends: stamped events on an absolute schedule, each by a request of its own.
//!
//! Event k is due at start + k/rate, however long the ones before took: a server that slows down is
//! not asked less of. A number whose event was surely not taken is used again, so that only what the
//! server may have taken can be missing at a reader.

use std::time::Duration;

use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use sse_bench::clock;
use sse_bench::stamp::Stamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::address::BaseUrl;
use crate::http_client::{HttpClient, read_document};
use crate::http_head;

/// How many events a second one connection is asked to carry, answers awaited.
const RATE_OF_ONE: f64 = 200.0;
const MOST_PUBLISHERS: u32 = 16;
/// How long to wait for a connection or an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a failure: a server that is gone is not asked a thousand times a second.
const PAUSE: Duration = Duration::from_millis(10);

/// What to publish.
#[derive(Debug, Clone)]
pub struct PublishPlan {
    /// Whose `/channels/…`.
    pub origin: BaseUrl,
    /// With every request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Path of the channel.
    pub path: String,
    /// Events a second.
    pub rate: f64,
    /// Bytes of one event's data.
    pub size: usize,
}

/// How it went.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// Events that the server took.
    pub events: u64,
    /// Events that it surely did not take.
    pub failed: u64,
    /// Events without a clear answer; if it did not take them, readers miss their numbers.
    pub in_doubt: u64,
    /// Why the first of those was not taken.
    pub error: Option<String>,
    /// The furthest behind its schedule that a publisher was, in seconds.
    pub behind: f64,
    /// How long it took.
    pub seconds: f64,
    /// The last number of each stream of numbers.
    pub last: Vec<(u32, u64)>,
}

/// Publishers that run.
pub struct Publishers {
    began: Instant,
    stop: watch::Sender<bool>,
    tasks: JoinSet<Published>,
}

impl Publishers {
    /// Starts them.
    pub fn start(plan: &PublishPlan) -> Result<Publishers, String> {
        let count = ((plan.rate / RATE_OF_ONE).ceil() as u32).clamp(1, MOST_PUBLISHERS);
        let (stop, stopped) = watch::channel(false);
        let (began, mut tasks) = (Instant::now(), JoinSet::new());
        for number in 0..count {
            let (origin, headers) = (plan.origin.clone(), plan.headers.clone());
            let publisher = Publisher {
                client: HttpClient::new(origin, headers, PATIENCE, PATIENCE)?,
                path: plan.path.clone(),
                size: plan.size,
                // Another run's events, if the server replays them, must not pass for this one's.
                stream: std::process::id().wrapping_mul(MOST_PUBLISHERS).wrapping_add(number),
                sequence: 0,
                done: Published::default(),
            };
            let first = began + Duration::from_secs_f64(f64::from(number) / plan.rate);
            let interval = f64::from(count) / plan.rate;
            tasks.spawn(publisher.run(first, interval, stopped.clone()));
        }
        Ok(Publishers { began, stop, tasks })
    }

    /// Stops them, each after the answer it waits for.
    pub async fn stop(mut self) -> Published {
        self.stop.send(true).ok();
        let mut all = Published::default();
        while let Some(one) = self.tasks.join_next().await {
            let one = one.expect("a publisher does not panic");
            all.events += one.events;
            all.failed += one.failed;
            all.in_doubt += one.in_doubt;
            all.error = all.error.or(one.error);
            all.behind = all.behind.max(one.behind);
            all.last.extend(one.last);
        }
        all.seconds = self.began.elapsed().as_secs_f64();
        all
    }
}

/// One connection, and the stream of numbers that it alone writes.
struct Publisher {
    client: HttpClient,
    path: String,
    size: usize,
    stream: u32,
    sequence: u64,
    done: Published,
}

/// Why an event was not taken.
struct NotTaken {
    surely: bool,
    why: String,
}

impl Publisher {
    async fn run(
        mut self,
        first: Instant,
        interval: f64,
        mut stopped: watch::Receiver<bool>,
    ) -> Published {
        for turn in 0_u64.. {
            let due = first + Duration::from_secs_f64(interval * turn as f64);
            tokio::select! {
                () = sleep_until(due) => {}
                // Its sender is dropped only when nobody wants the outcome.
                _ = stopped.wait_for(|stop| *stop) => break,
            }
            if *stopped.borrow() {
                break;
            }
            self.done.behind = self.done.behind.max(due.elapsed().as_secs_f64());
            match self.send().await {
                Ok(()) => self.done.events += 1,
                Err(NotTaken { surely, why }) => {
                    self.done.error.get_or_insert(why);
                    if surely {
                        self.sequence -= 1;
                        self.done.failed += 1;
                    } else {
                        self.done.in_doubt += 1;
                    }
                    sleep(PAUSE).await;
                }
            }
        }
        if self.sequence > 0 {
            self.done.last.push((self.stream, self.sequence));
        }
        self.done
    }

    async fn send(&mut self) -> Result<(), NotTaken> {
        self.sequence += 1;
        // Connecting is no part of a delivery: the stamp is made behind it.
        let unconnected = |why: String| NotTaken { surely: true, why };
        self.client.connect_ahead().await.map_err(|error| unconnected(error.text))?;
        let stamp = Stamp { time: clock::now(), sequence: self.sequence, stream: self.stream };
        let mut data = Vec::with_capacity(self.size);
        stamp.write(self.size, &mut data);
        let headers = [(CONTENT_TYPE, HeaderValue::from_static("text/plain"))];
        let sent = self.client.send(Method::POST, &self.path, &headers, data).await;
        let mut answer =
            sent.map_err(|error| NotTaken { surely: !error.connected, why: error.text })?;
        let status = answer.status();
        let document = read_document(answer.body_mut(), PATIENCE).await;
        if status.is_success() {
            return Ok(());
        }
        let document = document.unwrap_or_default();
        let reason = http_head::reason(status, answer.headers(), &document).text;
        let why =
            if reason.starts_with("HTTP") { reason } else { format!("HTTP {status}: {reason}") };
        let surely = status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT;
        Err(NotTaken { surely, why })
    }
}
