//! The state that all handlers of a gateway share: configuration, broker, metrics, access, and
//! whether the gateway is draining.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
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
use crate::http::console::Console;
use crate::http::listener;
use crate::http::proxy_protocol;
use crate::http::readiness::Readiness;
use crate::hub::OpenStreams;
use crate::logging::Log;
use crate::metrics::{Metrics, Rejection};
use crate::telemetry::Telemetry;

/// State that all handlers of a gateway share.
#[derive(Debug)]
pub(crate) struct App {
    pub config: Config,
    pub broker: Broker,
    pub metrics: Metrics,
    /// Decides who may do what.
    pub access: Access,
    /// Makes a span of each publish request.
    pub telemetry: Telemetry,
    /// Limits how much one client may have.
    pub admission: Arc<Admission>,
    /// Limits a subject's streams on all gateways together; none if they are not counted.
    pub cluster_streams: Option<Arc<ClusterStreams>>,
    /// The log of this process, if it is the gateway's own. It can be changed while the gateway
    /// runs.
    pub log: OnceLock<Log>,
    /// What the last probes found.
    pub readiness: Readiness,
    /// The page at `/`; none if the configuration switches it off.
    pub console: Option<Console>,
    /// The address of the public port.
    pub addr: SocketAddr,
    draining: AtomicBool,
    max_streams: u64,
    /// Every worker's hub counts here.
    pub open_streams: Arc<OpenStreams>,
    hubs: Mutex<Vec<Arc<Inbox>>>,
    /// Held by whoever walks through the hubs' tables.
    pub walking: tokio::sync::Mutex<()>,
}

impl App {
    /// Makes the state of a gateway that serves clients at `addr` and holds at most `max_streams`.
    pub(crate) fn new(
        config: Config,
        broker: Broker,
        metrics: Metrics,
        access: Access,
        telemetry: Telemetry,
        addr: SocketAddr,
        max_streams: u64,
    ) -> Self {
        let draining = AtomicBool::new(false);
        let (mut limits, mut cluster_streams) = (config.limits.clone(), None);
        let most = limits.cluster_streams_per_subject;
        match &broker {
            _ if most == 0 => {}
            Broker::Redis(redis) => {
                let (redis, metrics) = (redis.clone(), metrics.clone());
                cluster_streams = Some(ClusterStreams::new(redis, metrics, most, LIFE));
            }
            // With the memory broker this process is the only gateway, so the limit for all
            // gateways is a limit of this one.
            Broker::Memory(_) if limits.streams_per_subject == 0 => {
                limits.streams_per_subject = most
            }
            Broker::Memory(_) => limits.streams_per_subject = most.min(limits.streams_per_subject),
        }
        let admission = Admission::new(limits);
        let readiness = Readiness::new(config.admin.probe_interval);
        let console = config.server.console.then(|| Console::new(&config));
        App {
            config,
            broker,
            metrics,
            access,
            telemetry,
            admission,
            cluster_streams,
            log: OnceLock::new(),
            readiness,
            console,
            addr,
            draining,
            max_streams,
            open_streams: Arc::default(),
            hubs: Mutex::default(),
            walking: tokio::sync::Mutex::default(),
        }
    }

    /// Adds a worker's hub by its inbox.
    pub(crate) fn add_hub(&self, inbox: Arc<Inbox>) {
        self.hubs.lock().unwrap_or_else(PoisonError::into_inner).push(inbox);
    }

    /// Every worker's hub, by its inbox.
    pub(crate) fn hubs(&self) -> Vec<Arc<Inbox>> {
        self.hubs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a message to every worker's hub.
    pub(crate) fn tell_hubs(&self, what: impl Fn() -> ToHub) {
        let hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
        for hub in hubs.iter() {
            hub.tell(what());
        }
    }

    /// Waits until no worker of this gateway is behind, at most until `end`. Events that are
    /// published while a worker is behind may overflow its inbox, and its streams then have to read
    /// history.
    pub(crate) async fn workers_caught_up(&self, end: Instant) {
        let behind = || {
            let hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
            hubs.iter().find(|hub| !hub.keeps_up()).cloned()
        };
        if end <= Instant::now() {
            return;
        }
        let Some(mut first) = behind() else { return };
        self.metrics.publishers_waited.inc();
        let all = async {
            loop {
                first.caught_up().await;
                match behind() {
                    Some(next) => first = next,
                    None => return,
                }
            }
        };
        // After the timeout the caller publishes all the same.
        let _ = tokio::time::timeout_at(end.into(), all).await;
    }

    /// Records that the gateway is stopping.
    pub(crate) fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.metrics.draining.set(1);
    }

    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The most streams that may be open.
    pub(crate) fn max_streams(&self) -> u64 {
        self.max_streams
    }

    /// Whether the gateway holds as many streams as it may.
    pub(crate) fn full(&self) -> bool {
        self.open_streams.get() >= self.max_streams
    }

    /// Counts a new stream against the limits of its client's address and of its subject, on this
    /// gateway and on all together. `own_limit` is the grant's own limit for the subject and
    /// replaces the configured ones.
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

    /// The number of this gateway's streams that subscribe to a channel.
    pub(crate) async fn subscribers(&self, channel: &Channel) -> usize {
        self.counts(channel, Duration::from_secs(1)).await.1.iter().sum()
    }

    /// Asks every worker for its number of streams on a channel. Returns how many workers were
    /// asked, and the numbers that arrived within `patience`.
    async fn counts(&self, channel: &Channel, patience: Duration) -> (usize, Vec<usize>) {
        let (asked, mut answers) = self.ask_for_counts(channel);
        let mut counts = Vec::new();
        let all = async {
            // A drained hub has ended and does not answer; it has no subscribers to count.
            while let Some(count) = answers.recv().await {
                counts.push(count);
            }
        };
        let _ = tokio::time::timeout(patience, all).await;
        (asked, counts)
    }

    /// Asks every worker for its number of streams on a channel. Returns how many workers were
    /// asked, and where the numbers arrive. That ends when no further answer can come.
    fn ask_for_counts(&self, channel: &Channel) -> (usize, mpsc::UnboundedReceiver<usize>) {
        #[expect(clippy::disallowed_methods, reason = "each worker answers once")]
        let (answer, answers) = mpsc::unbounded_channel();
        let hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
        for hub in hubs.iter() {
            hub.tell(ToHub::Count(channel.clone(), answer.clone()));
        }
        (hubs.len(), answers)
    }

    /// Checks that every thread that streams depend on does its work. The error names the threads
    /// that did nothing within `patience`.
    ///
    /// It uses no network. A lost Redis or a full public port would not be mended by a new process,
    /// and its start would end all streams.
    pub(crate) async fn lives(&self, patience: Duration) -> Result<(), String> {
        let end = Instant::now() + patience;
        let (asked, mut answers) = self.ask_for_counts(&probe_channel()?);
        let mut answered = 0;
        let all = async {
            // A worker that has drained ends without an answer, and ends the wait for it.
            while answers.recv().await.is_some() {
                answered += 1;
            }
        };
        if tokio::time::timeout_at(end.into(), all).await.is_err() {
            return Err(format!("{answered} of {asked} workers answer within {patience:?}"));
        }
        let Broker::Redis(redis) = &self.broker else { return Ok(()) };
        redis.threads_run(end).await
    }

    /// Checks that the public port answers a request and that every worker reads its inbox. The
    /// error names what did not answer within `patience`.
    pub(crate) async fn answers(&self, patience: Duration) -> Result<(), String> {
        // The port is checked first: once it answers, the workers have started and added their
        // hubs.
        let end = Instant::now() + patience;
        // If this machine is a trusted proxy, its connections must begin with a PROXY header.
        let greeting = |own| match proxy_protocol::expected(own, &self.config.server) {
            true => &proxy_protocol::LOCAL[..],
            false => &[],
        };
        let tls = self.config.tls.is_on();
        let answer = listener::ask(self.addr, tls, "HEAD /", patience, greeting).await;
        answer.map_err(|why| format!("the public port: {why}"))?;
        match self.counts(&probe_channel()?, end.saturating_duration_since(Instant::now())).await {
            (asked, answered) if answered.len() == asked => Ok(()),
            (asked, answered) => {
                Err(format!("{} of {asked} workers answer within {patience:?}", answered.len()))
            }
        }
    }

    /// Counts events that their sender was not allowed to publish.
    pub(crate) fn deny_publish(&self, events: u64) {
        self.metrics.published.with_label_values(&["denied"]).inc_by(events);
    }

    /// Counts a refused connection or request by its reason.
    pub(crate) fn reject(&self, reason: Rejection) {
        tracing::debug!(reject.reason = reason.as_str(), "refused");
        self.metrics.reject(reason);
    }
}

/// The channel of a question for which only the fact of an answer matters.
fn probe_channel() -> Result<Channel, String> {
    "readyz".parse().map_err(|error: ChannelError| error.to_string())
}
