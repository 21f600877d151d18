//! What every handler of a gateway shares: configuration, broker, metrics, and whether it is stopping.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sse_contract::Channel;
use tokio::sync::mpsc;

use crate::broker::Broker;
use crate::config::Config;
use crate::inbox::{Inbox, ToHub};
use crate::metrics::Metrics;

/// What every handler of a gateway shares.
#[derive(Debug)]
pub struct App {
    /// The configuration.
    pub config: Config,
    /// The broker.
    pub broker: Broker,
    /// The metrics.
    pub metrics: Metrics,
    draining: AtomicBool,
    max_streams: u64,
    hubs: Mutex<Vec<Arc<Inbox>>>,
}

impl App {
    /// Of a gateway that holds at most `max_streams`.
    pub fn new(config: Config, broker: Broker, metrics: Metrics, max_streams: u64) -> Self {
        let draining = AtomicBool::new(false);
        App { config, broker, metrics, draining, max_streams, hubs: Mutex::default() }
    }

    /// A worker's hub has begun; its inbox.
    pub fn add_hub(&self, inbox: Arc<Inbox>) {
        self.hubs.lock().unwrap_or_else(PoisonError::into_inner).push(inbox);
    }

    /// Waits until every worker of this gateway keeps up with what is published, but no longer than until `end`: what is
    /// published beyond that may send streams to history.
    pub async fn room(&self, end: Instant) {
        let behind = || {
            let hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
            hubs.iter().find(|hub| !hub.has_room()).cloned()
        };
        if end <= Instant::now() {
            return;
        }
        let Some(mut first) = behind() else { return };
        self.metrics.broker.with_label_values(&["publishers_waited"]).inc();
        let all = async {
            loop {
                first.room().await;
                match behind() {
                    Some(next) => first = next,
                    None => return,
                }
            }
        };
        // Late or not: the events go on their way.
        let _ = tokio::time::timeout_at(end.into(), all).await;
    }

    /// From now on the gateway is stopping.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the gateway is stopping.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether as many streams are open as there may be.
    pub fn full(&self) -> bool {
        self.metrics.sum(|cells| cells.subscribers.get()) >= self.max_streams
    }

    /// How many of this gateway's streams listen to a channel.
    pub async fn subscribers(&self, channel: &Channel) -> usize {
        let (answer, mut answers) = mpsc::unbounded_channel();
        for hub in self.hubs.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            hub.send([ToHub::Count(channel.clone(), answer.clone())]);
        }
        drop(answer);
        let mut sum = 0;
        // A hub that is drained has ended, and has no subscribers to tell of.
        let patience = Duration::from_secs(1);
        while let Ok(Some(count)) = tokio::time::timeout(patience, answers.recv()).await {
            sum += count;
        }
        sum
    }

    /// Counts a request for a stream that was refused.
    pub fn reject(&self, reason: &'static str) {
        self.metrics.rejected.with_label_values(&[reason]).inc();
    }
}
