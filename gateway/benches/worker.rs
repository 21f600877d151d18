//! A gateway's worker without HTTP: one hub on this thread, fed by the memory broker. All benches
//! that deliver events use it.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sse_contract::Channel;
use sse_gateway::Config;
use sse_gateway::broker::Broker;
use sse_gateway::broker::memory::{MemoryBroker, MemoryLimits};
use sse_gateway::config::ConfigError;
use sse_gateway::feed::frame::Framing;
use sse_gateway::feed::publication::Publication;
use sse_gateway::http::listener;
use sse_gateway::hub::Hub;
use sse_gateway::metrics::{Cells, Metrics};
use sse_gateway::stream::sink::Sink;
use sse_gateway::stream::subscription::{Begin, Subscription};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::LocalSet;

/// The allocator of the deployed program.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Bytes of an event's data, as usual in the measurements of this repository.
pub const DATA: usize = 200;

/// A worker and its broker.
pub struct Worker {
    runtime: Runtime,
    tasks: LocalSet,
    hub: Rc<Hub>,
    broker: Arc<MemoryBroker>,
    cells: Arc<Cells>,
    /// Kept alive but never signalled, because no bench drains the worker.
    _drain: watch::Sender<Option<Duration>>,
}

/// The default configuration, on ports that the kernel chooses. `stream.coalesce` is off, so that
/// events gather only where a bench gathers them, and not after a slow round.
pub fn config() -> Result<Config, ConfigError> {
    let flags = [
        ("server.listen", "127.0.0.1:0"),
        ("server.workers", "1"),
        ("admin.listen", "127.0.0.1:0"),
        ("stream.coalesce", "0s"),
    ];
    let flags = flags.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Config::load(None, std::iter::empty(), &flags)
}

pub fn channel(n: usize) -> Channel {
    format!("demo:{n}").parse().expect("a channel's name")
}

/// `count` events, each on the next of the channels in turn.
pub fn events(count: usize, channels: usize) -> Vec<Publication> {
    let event = |n| Publication {
        channel: channel(n % channels),
        event: None,
        data: "x".repeat(DATA).into(),
        idempotency_key: None,
    };
    (0..count).map(event).collect()
}

impl Worker {
    /// A worker without subscribers.
    pub fn new() -> Self {
        listener::raise_descriptor_limit();
        let config = config().expect("the defaults are valid");
        let limits = MemoryLimits::of(&config);
        let metrics = Metrics::default();
        let cells = metrics.worker();
        let broker = Arc::new(MemoryBroker::new(limits, metrics));
        let (drain, draining) = watch::channel(None);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime for this thread");
        let tasks = LocalSet::new();
        let hub = tasks.block_on(&runtime, async {
            let shared = Broker::Memory(broker.clone());
            let hub =
                Hub::new(shared, config.stream, Arc::default(), cells.clone()).expect("an epoll");
            #[expect(clippy::disallowed_methods, reason = "it ends with the bench")]
            tokio::task::spawn_local(hub.clone().run(draining));
            hub
        });
        Worker { runtime, tasks, hub, broker, cells, _drain: drain }
    }

    /// Opens a stream with the first `channels` channels on each socket, and waits until all
    /// streams are live.
    pub fn open(&self, sockets: impl IntoIterator<Item = OwnedFd>, channels: usize) {
        let subscription = Subscription {
            channels: (0..channels).map(channel).collect(),
            begin: Begin::Now,
            checkpoints: true,
            annotate: false,
            about: None,
            peer: None,
        };
        self.tasks.block_on(&self.runtime, async {
            for socket in sockets {
                let opening = self.hub.open(Framing::Chunked, subscription.clone());
                let opened = opening.wait(Duration::from_secs(1)).await.expect("it is opened");
                opened.on_socket(Sink::Socket(socket), Bytes::new());
            }
            while self.cells.joining.get() > 0 {
                tokio::task::yield_now().await;
            }
        });
        self.rest();
    }

    /// Publishes the events and lets the hub work until `done`.
    pub fn round(&self, events: &[Publication], done: impl Fn() -> bool) {
        self.tasks.block_on(&self.runtime, async {
            for event in events {
                self.broker.publish(event).expect("it is published");
            }
            while !done() {
                tokio::task::yield_now().await;
            }
        });
    }

    /// Lets the hub finish its other work, such as noticing that sockets have room again.
    pub fn rest(&self) {
        self.tasks.block_on(&self.runtime, async {
            tokio::time::sleep(Duration::from_millis(2)).await;
        });
    }

    /// How many events were written to all subscribers since the start.
    pub fn delivered(&self) -> u64 {
        self.cells.delivered.get()
    }
}
