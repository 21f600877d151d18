//! What every handler of a gateway shares: configuration, broker, metrics, and whether it is stopping.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sse_contract::{Channel, ChannelError};
use tokio::sync::mpsc;

use crate::access::Access;
use crate::access::admission::{Admission, Refused, StreamLease};
use crate::access::client::ClientAddr;
use crate::access::cluster_streams::{ClusterStreams, LIFE};
use crate::broker::Broker;
use crate::config::Config;
use crate::feed::inbox::{Inbox, ToHub};
use crate::http::listener;
use crate::http::proxy_protocol;
use crate::metrics::Metrics;

/// What every handler of a gateway shares.
#[derive(Debug)]
pub(crate) struct App {
    /// The configuration.
    pub config: Config,
    /// The broker.
    pub broker: Broker,
    /// The metrics.
    pub metrics: Metrics,
    /// Who may do what.
    pub access: Access,
    /// What one client may have.
    pub admission: Arc<Admission>,
    /// What one subject may have on all gateways together, if that is counted.
    pub cluster_streams: Option<Arc<ClusterStreams>>,
    /// Where the public port is.
    addr: SocketAddr,
    draining: AtomicBool,
    max_streams: u64,
    hubs: Mutex<Vec<Arc<Inbox>>>,
}

impl App {
    /// Of a gateway that serves clients at `addr`, and holds at most `max_streams`.
    pub(crate) fn new(
        config: Config,
        broker: Broker,
        metrics: Metrics,
        access: Access,
        addr: SocketAddr,
        max_streams: u64,
    ) -> Self {
        let draining = AtomicBool::new(false);
        let (mut limits, mut cluster_streams) = (config.limits.clone(), None);
        let most = limits.cluster_streams_per_subject;
        match &broker {
            _ if most == 0 => {}
            Broker::Redis(redis) => cluster_streams = Some(ClusterStreams::new(redis, most, LIFE)),
            // This process is all the gateways there are.
            Broker::Memory(_) if limits.streams_per_subject == 0 => {
                limits.streams_per_subject = most
            }
            Broker::Memory(_) => limits.streams_per_subject = most.min(limits.streams_per_subject),
        }
        let admission = Admission::new(limits);
        App {
            config,
            broker,
            metrics,
            access,
            admission,
            cluster_streams,
            addr,
            draining,
            max_streams,
            hubs: Mutex::default(),
        }
    }

    /// A worker's hub has begun; its inbox.
    pub(crate) fn add_hub(&self, inbox: Arc<Inbox>) {
        self.hubs.lock().unwrap_or_else(PoisonError::into_inner).push(inbox);
    }

    /// Tells every worker's hub.
    pub(crate) fn tell_hubs(&self, what: impl Fn() -> ToHub) {
        let hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
        for hub in hubs.iter() {
            hub.send([what()]);
        }
    }

    /// Waits until every worker of this gateway keeps up with what is published, but no longer than until `end`: what is
    /// published beyond that may send streams to history.
    pub(crate) async fn room(&self, end: Instant) {
        let behind = || {
            let hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
            hubs.iter().find(|hub| !hub.has_room()).cloned()
        };
        if end <= Instant::now() {
            return;
        }
        let Some(mut first) = behind() else { return };
        self.metrics.publishers_waited.inc();
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
    pub(crate) fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the gateway is stopping.
    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// How many streams there may be.
    pub(crate) fn max_streams(&self) -> u64 {
        self.max_streams
    }

    /// Whether as many streams are open as there may be.
    pub(crate) fn full(&self) -> bool {
        self.metrics.sum(|cells| cells.subscribers.get()) >= self.max_streams
    }

    /// Counts a stream of a client among those that it and its subject may have. A grant may have limits of its own: here,
    /// and on all gateways together.
    pub(crate) async fn admit_stream(
        &self,
        client: ClientAddr,
        subject: Option<&str>,
        own_limit: Option<u32>,
    ) -> Result<StreamLease, Refused> {
        let lease = self.admission.stream(client, subject, own_limit)?;
        match (&self.cluster_streams, subject) {
            (Some(all), Some(subject)) => Ok(lease.with(all.take(subject, own_limit).await?)),
            _ => Ok(lease),
        }
    }

    /// How many of this gateway's streams listen to a channel.
    pub(crate) async fn subscribers(&self, channel: &Channel) -> usize {
        self.counts(channel, Duration::from_secs(1)).await.1.iter().sum()
    }

    /// How many workers were asked for their number of streams on a channel, and what those said that answered in time.
    async fn counts(&self, channel: &Channel, patience: Duration) -> (usize, Vec<usize>) {
        #[expect(clippy::disallowed_methods, reason = "each worker answers once")]
        let (answer, mut answers) = mpsc::unbounded_channel();
        let hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for hub in &hubs {
            hub.send([ToHub::Count(channel.clone(), answer.clone())]);
        }
        drop(answer);
        let mut counts = Vec::new();
        let all = async {
            // A hub that is drained has ended, and has no subscribers to tell of.
            while let Some(count) = answers.recv().await {
                counts.push(count);
            }
        };
        let _ = tokio::time::timeout(patience, all).await;
        (hubs.len(), counts)
    }

    /// Whether the public port answers a request, and every worker its inbox; the error says what does not.
    pub(crate) async fn answers(&self, patience: Duration) -> Result<(), String> {
        // First this: once a request is answered, workers have begun.
        let end = Instant::now() + patience;
        // It may have to be told whose the connection is, as by every trusted proxy.
        let greeting = |own| match proxy_protocol::expected(own, &self.config.server) {
            true => &proxy_protocol::LOCAL[..],
            false => &[],
        };
        let answer =
            listener::ask(self.addr, self.config.tls.is_on(), "/", patience, greeting).await;
        answer.map_err(|why| format!("the public port: {why}"))?;
        let any: Channel = "readyz".parse().map_err(|error: ChannelError| error.to_string())?;
        match self.counts(&any, end.saturating_duration_since(Instant::now())).await {
            (asked, answered) if answered.len() == asked => Ok(()),
            (asked, answered) => {
                Err(format!("{} of {asked} workers answer within {patience:?}", answered.len()))
            }
        }
    }

    /// Counts events that their sender may not publish.
    pub(crate) fn deny_publish(&self, events: u64) {
        self.metrics.published.with_label_values(&["denied"]).inc_by(events);
    }

    /// Counts a connection or request that was refused.
    pub(crate) fn reject(&self, reason: &'static str) {
        self.metrics.rejected.with_label_values(&[reason]).inc();
    }
}
