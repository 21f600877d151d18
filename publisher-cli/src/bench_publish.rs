//! Publishes for `bench --publish`: stamped events on an absolute schedule, one request for each.
//!
//! Event k is due at start + k/rate, however long earlier events took. So a slow server gets no
//! less load. A number is used again if its event was certainly not published. So every number that
//! readers miss belongs to an event that the server may have taken.

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

/// Events per second that one connection carries, waiting for each answer.
const RATE_OF_ONE: f64 = 200.0;
const MOST_PUBLISHERS: u32 = 16;
/// The longest wait for a connection or an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause after a failure, so that a server that is gone is not flooded with attempts.
const PAUSE: Duration = Duration::from_millis(10);

/// What to publish, and where.
#[derive(Debug, Clone)]
pub struct PublishPlan {
    /// The server.
    pub origin: BaseUrl,
    /// The headers of every request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The path of the channel.
    pub path: String,
    /// Events per second.
    pub rate: f64,
    /// Bytes of an event's data.
    pub size: usize,
}

/// What was published.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// Events that the server took.
    pub events: u64,
    /// Events that the server certainly did not take.
    pub failed: u64,
    /// Events without a clear answer. If the server did not take one, readers miss its number.
    pub in_doubt: u64,
    /// The first error that a publisher met.
    pub error: Option<String>,
    /// The furthest that a publisher was behind its schedule, in seconds.
    pub behind: f64,
    /// How long publishing took, in seconds.
    pub seconds: f64,
    /// Each publisher's stream of numbers and the last number in it.
    pub last: Vec<(u32, u64)>,
}

/// The running publishers.
pub struct Publishers {
    began: Instant,
    stop: watch::Sender<bool>,
    tasks: JoinSet<Published>,
}

impl Publishers {
    /// Starts as many publishers as the rate needs.
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
                // Derived from the process id, so that replayed events of another run are not
                // mistaken for events of this run.
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

    /// Stops the publishers, each after the answer that it waits for. Returns their results
    /// together.
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

/// One connection. Each publisher numbers its own stream.
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
                // The sender is dropped only when nobody wants the result any more.
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
        // The stamp is made after connecting, so that the latency does not include it.
        let origin = self.client.base().clone();
        let named = |why: String| format!("{origin}: {why}");
        let connected = self.client.connect_ahead().await;
        connected.map_err(|error| NotTaken { surely: true, why: named(error.text) })?;
        let stamp = Stamp { time: clock::now(), sequence: self.sequence, stream: self.stream };
        let mut data = Vec::with_capacity(self.size);
        stamp.write(self.size, &mut data);
        let headers = [(CONTENT_TYPE, HeaderValue::from_static("text/plain"))];
        let sent = self.client.send(Method::POST, &self.path, &headers, data).await;
        let mut answer =
            sent.map_err(|error| NotTaken { surely: !error.connected, why: named(error.text) })?;
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
        Err(NotTaken { surely, why: named(why) })
    }
}
