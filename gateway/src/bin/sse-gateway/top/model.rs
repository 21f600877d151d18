//! What the view shows: the gateways, what changed between two scrapes of each, and their streams.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::top::ask::{Answer, Answered};
use crate::top::scrape::{Histogram, Scrape};

/// How far back quantiles look. Over a shorter time they would jump about.
const WINDOW: Duration = Duration::from_secs(10);
/// How many rates of the past are kept for the curve of events.
const KEPT: usize = 200;

/// Everything that is shown.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// The gateways, in the order in which they were named.
    pub gateways: Vec<Gateway>,
    /// The streams that the gateways listed, in the order that was asked for.
    pub readers: Vec<Reader>,
    /// Why a gateway does not list its streams.
    pub unlisted: Option<String>,
    /// Events to clients in a second, all gateways together, oldest first.
    pub history: VecDeque<f64>,
}

/// One gateway.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Its address.
    pub name: String,
    /// What it answered last; or why it does not answer.
    pub now: Result<Numbers, String>,
    /// Its scrapes, oldest first, at most [`WINDOW`] back. Empty while it does not answer.
    scrapes: VecDeque<(Instant, Scrape)>,
}

/// A number that is unknown before the second scrape.
pub type Rate = Option<f64>;

/// One gateway's numbers.
#[derive(Debug, Clone, Default)]
pub struct Numbers {
    pub streams: f64,
    pub joining: f64,
    pub channels: f64,
    pub opened: Rate,
    pub closed: Rate,
    pub received: Rate,
    pub delivered: Rate,
    pub bytes: Rate,
    pub writes: Rate,
    /// From publication to write.
    pub delay: Histogram,
    pub queued_bytes: f64,
    pub queued_streams: f64,
    pub lags: f64,
    pub lag_rate: Rate,
    /// Gaps told, by reason.
    pub gaps: Vec<(String, f64)>,
    pub dropped: f64,
    pub refused_rate: Rate,
    pub draining: bool,
    /// The broker's kind, and whether it is connected.
    pub broker: Option<(String, bool)>,
    pub answers: Histogram,
    pub sessions: f64,
    pub epochs: f64,
    /// Parts of one core.
    pub cpu: Rate,
    pub memory: f64,
}

/// A stream as its gateway lists it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reader {
    pub gateway: String,
    pub id: String,
    pub client: String,
    pub subject: String,
    pub channels: String,
    pub state: String,
    pub queued: f64,
    pub behind: f64,
    pub stalled: f64,
    pub age: f64,
}

impl Model {
    /// Takes in what the gateways answered at `at`. `sort` is the order of the streams.
    pub fn take(&mut self, answers: Vec<Answered>, sort: &str, at: Instant) {
        let mut before = std::mem::take(&mut self.gateways);
        (self.readers, self.unlisted) = (Vec::new(), None);
        for (name, answer) in answers {
            let known = before.iter().position(|gateway| gateway.name == name);
            let old = known.map(|n| before.swap_remove(n).scrapes).unwrap_or_default();
            let (now, scrapes) = match answer {
                Ok(Answer { metrics, connections }) => {
                    self.list(&name, connections);
                    let (numbers, scrapes) = numbers(Scrape::parse(&metrics), old, at);
                    (Ok(numbers), scrapes)
                }
                Err(why) => (Err(why), VecDeque::new()),
            };
            self.gateways.push(Gateway { name, now, scrapes });
        }
        self.sort(sort);
        if let Some(delivered) = self.rate(|numbers| numbers.delivered) {
            self.history.push_back(delivered);
            while self.history.len() > KEPT {
                self.history.pop_front();
            }
        }
    }

    fn list(&mut self, gateway: &str, connections: Result<Value, String>) {
        match connections {
            Ok(list) => {
                let all = list["connections"].as_array().into_iter().flatten();
                self.readers.extend(all.map(|entry| Reader::of(gateway, entry)));
            }
            Err(why) => self.unlisted = Some(format!("{gateway}: {why}")),
        }
    }

    /// Sorts the streams of all gateways as each gateway has sorted its own.
    fn sort(&mut self, sort: &str) {
        let slowest = |reader: &Reader| (reader.state == "lagging", reader.queued, reader.behind);
        self.readers.sort_by(|a, b| match sort {
            "oldest" => b.age.total_cmp(&a.age),
            "newest" => a.age.total_cmp(&b.age),
            _ => {
                let (a, b) = (slowest(a), slowest(b));
                (b.0.cmp(&a.0)).then(b.1.total_cmp(&a.1)).then(b.2.total_cmp(&a.2))
            }
        });
    }

    /// The numbers of the gateways that answer.
    pub fn answering(&self) -> impl Iterator<Item = &Numbers> {
        self.gateways.iter().filter_map(|gateway| gateway.now.as_ref().ok())
    }

    /// A number, summed over the gateways that answer.
    pub fn sum(&self, of: impl Fn(&Numbers) -> f64) -> f64 {
        self.answering().map(of).sum()
    }

    /// A rate, summed over the gateways that have one; `None` if none has.
    pub fn rate(&self, of: impl Fn(&Numbers) -> Rate) -> Rate {
        self.answering().filter_map(of).reduce(|a, b| a + b)
    }

    /// What the gateways observed together.
    pub fn together(&self, of: impl Fn(&Numbers) -> &Histogram) -> Histogram {
        self.answering().fold(Histogram::default(), |all, numbers| all.with(of(numbers)))
    }

    /// Gaps told by all gateways together, by reason; those that were told at all.
    pub fn gaps(&self) -> Vec<(String, f64)> {
        let mut all: Vec<(String, f64)> = Vec::new();
        for (reason, count) in self.answering().flat_map(|numbers| &numbers.gaps) {
            match all.iter_mut().find(|(known, _)| known == reason) {
                Some((_, sum)) => *sum += count,
                None => all.push((reason.clone(), *count)),
            }
        }
        all.retain(|(_, count)| *count > 0.0);
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all
    }
}

/// A gateway's numbers by its newest scrape and those before. Returns also the scrapes to keep.
fn numbers(
    new: Scrape,
    mut scrapes: VecDeque<(Instant, Scrape)>,
    at: Instant,
) -> (Numbers, VecDeque<(Instant, Scrape)>) {
    let sum = |name: &str| new.sum(name).unwrap_or_default();
    let rate = |name: &str| {
        let (then, old) = scrapes.back()?;
        let (before, now) = (old.sum(name)?, new.sum(name)?);
        let seconds = at.duration_since(*then).as_secs_f64();
        // A count that falls is that of a gateway that was started anew.
        (now >= before && seconds > 0.0).then(|| (now - before) / seconds)
    };
    let window = |name: &str| {
        let all = new.histogram(name);
        match scrapes.front() {
            Some((_, oldest)) => all.since(&oldest.histogram(name)),
            None => all,
        }
    };
    let broker = new.by_label("sse_broker_connected").first();
    let numbers = Numbers {
        streams: sum("sse_subscribers"),
        joining: new.labelled("sse_subscribers", "joining").unwrap_or_default(),
        channels: sum("sse_channels"),
        opened: rate("sse_streams_opened_total"),
        closed: rate("sse_streams_closed_total"),
        received: rate("sse_received_events_total"),
        delivered: rate("sse_delivered_events_total"),
        bytes: rate("sse_sent_bytes_total"),
        writes: rate("sse_writes_total"),
        delay: window("sse_delivery_delay_seconds"),
        queued_bytes: sum("sse_queued_bytes"),
        queued_streams: sum("sse_queued_streams"),
        lags: sum("sse_lags_total"),
        lag_rate: rate("sse_lags_total"),
        gaps: new.by_label("sse_gaps_total").to_vec(),
        dropped: sum("sse_dropped_events_total"),
        refused_rate: rate("sse_rejected_requests_total"),
        draining: sum("sse_draining") > 0.0,
        broker: broker.map(|(kind, connected)| (kind.clone(), *connected > 0.0)),
        answers: window("sse_broker_answer_seconds"),
        sessions: sum("sse_broker_sessions_total"),
        epochs: sum("sse_epochs_total"),
        cpu: cpu(&new, &scrapes, at),
        memory: sum("process_resident_memory_bytes"),
    };
    scrapes.push_back((at, new));
    while scrapes.len() > 2 && at.duration_since(scrapes[0].0) > WINDOW {
        scrapes.pop_front();
    }
    (numbers, scrapes)
}

/// Parts of one core over the window. Gateways tell whole seconds of it, so a shorter time says
/// nothing.
fn cpu(new: &Scrape, scrapes: &VecDeque<(Instant, Scrape)>, at: Instant) -> Rate {
    let (then, old) = scrapes.front()?;
    let used = |scrape: &Scrape| scrape.sum("process_cpu_seconds_total");
    let (seconds, more) = (at.duration_since(*then).as_secs_f64(), used(new)? - used(old)?);
    (seconds > WINDOW.as_secs_f64() / 2.0 && more >= 0.0).then(|| more / seconds)
}

impl Reader {
    /// Reads an entry of `GET /connections`.
    fn of(gateway: &str, entry: &Value) -> Self {
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| entry[name].as_f64().unwrap_or_default();
        let channels = entry["channels"].as_array().into_iter().flatten();
        let channels: Vec<&str> = channels.filter_map(Value::as_str).collect();
        let first = channels.first().copied().unwrap_or_default();
        let more = entry["channel_count"].as_u64().unwrap_or(1).saturating_sub(1);
        Reader {
            gateway: gateway.to_owned(),
            id: text("id"),
            client: text("client"),
            subject: text("subject"),
            channels: if more == 0 { first.to_owned() } else { format!("{first} +{more}") },
            state: text("state"),
            queued: number("queued_bytes"),
            behind: number("behind_seconds"),
            stalled: number("stalled_seconds"),
            age: number("age_seconds"),
        }
    }
}
