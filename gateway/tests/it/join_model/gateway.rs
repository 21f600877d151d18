//! The model's gateways. Everything between the bytes of Redis and the bytes of a stream is the
//! gateway's own code, moved step by step. The model replaces the I/O: the ingest's loop,
//! connecting, and the pool.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::FutureExt;
use redis::Value;
use sse_contract::{EventId, Part};
use sse_gateway::broker::Broker;
use sse_gateway::broker::redis::RedisBroker;
use sse_gateway::broker::redis::dispatch::{Dispatch, IngestRequest};
use sse_gateway::broker::redis::history::{self, Reads};
use sse_gateway::broker::redis::partition::{Partition, Works};
use sse_gateway::broker::redis::resp;
use sse_gateway::broker::redis::session::Session;
use sse_gateway::broker::redis::settings::{HistoryLimits, RedisSettings};
use sse_gateway::config::StreamConfig;
use sse_gateway::feed::snapshot::Extent;
use sse_gateway::hub::Hub;
use sse_gateway::metrics::{Cells, Metrics};

use super::link::{Link, Request, request, words};
use super::redis::{Caller, channel_of};

/// A read that is under way.
pub struct Flight {
    pub server: usize,
    session: Arc<Session>,
    plan: Vec<Part>,
    pub caller: Caller,
    pub parts: Vec<(usize, EventId, Extent)>,
    /// `None` until Redis has answered, `Some(None)` if the read failed.
    pub answer: Option<Option<Value>>,
}

pub struct Worker {
    pub hub: Rc<Hub>,
    pub cells: Arc<Cells>,
    /// The index in `Gateway::heard` that the worker has reached.
    pub at: usize,
}

pub struct Gateway {
    pub shape: Shape,
    partition: Arc<Partition>,
    works: Works,
    dispatch: Dispatch,
    reads: Reads,
    pub workers: Vec<Worker>,
    /// A connection that is not in session yet, and the answer to its first tick.
    pub prepared: Option<(Link, Vec<u8>)>,
    /// The connection of the present session.
    pub link: Option<Link>,
    sessions: u64,
    /// The highest count of ticks that the gateway was told.
    pub told: u64,
    pub flight: Option<Flight>,
    /// Every epoch that a tick told, with its server, in order.
    pub heard: Vec<(u64, usize)>,
    /// The highest clock of the gateway's reads, by epoch.
    pub clocks: HashMap<u64, EventId>,
    /// By channel, the highest id for which some read found only later events.
    pub gone: HashMap<usize, EventId>,
    messages: Vec<sse_gateway::feed::inbox::ToHub>,
    began: Instant,
}

/// The settings in which the model's gateways differ.
#[derive(Clone, Copy)]
pub struct Shape {
    pub workers: usize,
    pub inbox_bytes: usize,
    pub lingers: bool,
    /// For how many channels, from the first on, a slow reader is sent the newest event only.
    pub latest: usize,
}

fn settings(shape: Shape) -> RedisSettings {
    let hour = Duration::from_secs(3600);
    RedisSettings {
        url: "redis://127.0.0.1:1".to_owned(),
        ca: String::new(),
        certificate: String::new(),
        key: String::new(),
        prefix: "sse".to_owned(),
        partitions: 1,
        connect_timeout: hour,
        answer_timeout: hour,
        request_timeout: hour,
        reconnect_max: hour,
        // The world asks for ticks itself.
        tick: hour,
        linger: if shape.lingers { hour } else { Duration::ZERO },
        hear_revocations: false,
        pool_size: 1,
        gather: Duration::ZERO,
        page_bytes: 1000,
        limits: HistoryLimits {
            max_len: 1000,
            ttl: Duration::from_millis(super::redis::TTL),
            max_data: 1 << 20,
            idempotency_ttl: Duration::from_secs(600),
            durable: false,
        },
    }
}

fn stream_config(shape: Shape) -> StreamConfig {
    StreamConfig {
        // Every sweep sends a heartbeat.
        heartbeat: Duration::ZERO,
        retry: Duration::ZERO,
        open_wait: Duration::ZERO,
        max_streams: 0,
        max_channels: 10,
        queue_events: 4,
        queue_bytes: 20_000,
        inbox_bytes: shape.inbox_bytes,
        progress_deadline: Duration::from_secs(3600),
        max_age: Duration::ZERO,
        coalesce: Duration::ZERO,
        slow_readers: (0..shape.latest)
            .map(|channel| format!("c{channel}=latest").try_into().unwrap())
            .collect(),
        takeover: false,
    }
}

impl Gateway {
    pub fn new(shape: Shape) -> Self {
        let metrics = Metrics::default();
        let (broker, works) =
            RedisBroker::without_threads(settings(shape), metrics.clone()).unwrap();
        let partition = broker.partitions()[0].clone();
        let works = works.into_iter().next().unwrap();
        let worker = |_| {
            let cells = metrics.worker();
            let broker = Broker::Redis(broker.clone());
            let hub =
                Hub::new(broker, stream_config(shape), Arc::default(), cells.clone()).unwrap();
            Worker { hub, cells, at: 0 }
        };
        Gateway {
            shape,
            workers: (0..shape.workers).map(worker).collect(),
            dispatch: partition.dispatch(),
            partition,
            works,
            reads: Reads::new(0, 1),
            prepared: None,
            link: None,
            sessions: 0,
            told: 0,
            flight: None,
            heard: Vec::new(),
            clocks: HashMap::new(),
            gone: HashMap::new(),
            messages: Vec::new(),
            began: Instant::now(),
        }
    }

    /// What the gateway's next call says that it has seen.
    pub fn caller(&self) -> Caller {
        let packed = self.partition.calls.tick().get_packed_command();
        match request(&packed).0 {
            Request::Tick(caller) => caller,
            _ => unreachable!(),
        }
    }

    /// Connects to a server, which has answered the first tick.
    pub fn connect(&mut self, server: usize, run: String, answer: Vec<u8>) {
        let link = Link::to(server, run);
        self.prepared = Some((link, answer));
    }

    /// Begins the session, as `Ingest::session` does once it is prepared.
    pub fn begin(&mut self) {
        let Some((link, answer)) = self.prepared.take() else { return };
        self.note(&answer);
        let (value, _) = resp::parse(&answer).unwrap().unwrap();
        let partition = &self.partition;
        let Ok(clock) = partition.calls.ticked(&value) else { return };
        self.sessions += 1;
        let (number, run) = (self.sessions, link.run.as_str().into());
        let server = partition.place.master().now_or_never().expect("a URL").unwrap();
        let (epoch, config) = (clock.epoch(), &partition.config);
        partition.sessions.begin(number, server, run, epoch, false, config).unwrap();
        self.dispatch.begin(clock, "the model".into());
        self.heard.push((clock.epoch(), link.server));
        self.link = Some(link);
    }

    /// Records a tick's count, so that the model knows what the gateway must have noticed.
    fn note(&mut self, answer: &[u8]) {
        if !answer.starts_with(b"*8") {
            return;
        }
        let (value, _) = resp::parse(answer).unwrap().unwrap();
        let beat = value.elements().last().and_then(resp::Value::integer);
        self.told = self.told.max(beat.unwrap() as u64);
    }

    /// Ends the session, as `Ingest::offline` does.
    fn end(&mut self) {
        self.partition.sessions.end();
        self.dispatch.end();
        self.link = None;
    }

    /// The server cuts its connections to this gateway. The first `arriving` replies that are on
    /// their way still arrive.
    pub fn cut(&mut self, arriving: usize) {
        self.prepared = None;
        if let Some(link) = &mut self.link {
            link.open = false;
            link.replies.truncate(arriving);
        }
    }

    /// The read that is under way fails, unless Redis has answered it.
    pub fn cut_reads(&mut self) {
        if let Some(flight) = &mut self.flight
            && flight.answer.is_none()
        {
            flight.answer = Some(None);
        }
    }

    pub fn want_tick(&mut self) {
        self.dispatch.request(IngestRequest::Tick);
    }

    /// Runs the ingest once: it takes the workers' requests, writes, and reads up to `values`
    /// replies.
    pub fn ingest(&mut self, values: usize) {
        while let Ok(request) = self.works.requests.try_recv() {
            self.dispatch.request(request);
        }
        let Some(link) = &mut self.link else { return };
        self.dispatch.maintain();
        let mut out = self.dispatch.out.split().freeze();
        while !out.is_empty() {
            let (request, length) = request(&out);
            link.requests.push_back(request);
            out = out.slice(length..);
        }
        let server = link.server;
        let end = !link.open && link.replies.len() <= values;
        let values = values.min(link.replies.len());
        let replies: Vec<Vec<u8>> = link.replies.drain(..values).collect();
        replies.iter().for_each(|reply| self.note(reply));
        let input = replies.concat();
        let understood = self.dispatch.understand(&mut BytesMut::from(&input[..]));
        if let Ok(heard) = &understood {
            self.partition.heard(heard);
        }
        if let Some(Ok(session)) = self.partition.sessions.get().now_or_never()
            && self.heard.last() != Some(&(session.epoch(), server))
        {
            self.heard.push((session.epoch(), server));
        }
        if end || understood.is_err() {
            return self.end();
        }
        self.dispatch.deliver();
    }

    /// The epoch that events published through this gateway must live in, and their server.
    pub fn session(&self) -> Option<(u64, usize)> {
        let server = self.link.as_ref()?.server;
        let session = self.partition.sessions.get().now_or_never()?.ok()?;
        Some((session.epoch(), server))
    }

    /// Runs one round of a worker.
    pub fn round(&mut self, n: usize) {
        let worker = &mut self.workers[n];
        worker.hub.body_signals();
        if !worker.hub.round(&mut self.messages) {
            worker.at = self.heard.len().saturating_sub(1);
        }
    }

    fn now(&self, ms: u64) -> Instant {
        self.began + Duration::from_millis(ms)
    }

    /// Runs the history thread once, unless a read is under way: it takes requests, serves what its
    /// cache holds, and sends a read for the rest.
    pub fn plan_read(&mut self, ms: u64) {
        if self.flight.is_some() {
            return;
        }
        while let Ok(request) = self.works.reads.try_recv() {
            self.reads.hear(request);
        }
        self.reads.serve_cached(self.now(ms));
        if self.reads.is_idle() || self.link.is_none() {
            return;
        }
        let partition = &self.partition;
        let Some(Ok(session)) = partition.sessions.get().now_or_never() else { return };
        let plan = self.reads.plan();
        let call = partition.calls.read(&plan);
        let (_, words, _) = words(&call.get_packed_command());
        // The words are FCALL, the name, the number of keys, the keys, and the caller's nine
        // arguments.
        let caller = Caller::of(&words[4 + plan.len()..]);
        let part = |part: &Part| {
            let extent = if part.newest { Extent::Newest } else { Extent::All };
            (channel_of(part.channel.as_str()), part.after, extent)
        };
        let parts = plan.iter().map(part).collect();
        let server = self.link.as_ref().unwrap().server;
        self.flight = Some(Flight { server, session, plan, caller, parts, answer: None });
    }

    /// The read's answer arrives, and is judged as `Partition::command` does. Without a session, a
    /// `patient` read waits for the next one.
    pub fn finish_read(&mut self, ms: u64, patient: bool) {
        let Some(flight) = self.flight.take_if(|flight| flight.answer.is_some()) else { return };
        if self.link.is_none() && patient {
            self.flight = Some(flight);
            return;
        }
        let Some(Some(value)) = flight.answer else { return };
        let confirmed = self.partition.sessions.confirms(&flight.session);
        if self.link.is_none() || confirmed.now_or_never() != Some(true) {
            return;
        }
        let snapshot =
            history::snapshot(&flight.plan, value, |_, why| assert_eq!(why, "WRONGTYPE")).unwrap();
        let youngest = self.clocks.entry(snapshot.clock.epoch()).or_default();
        *youngest = snapshot.clock.max(*youngest);
        for (channel, range) in snapshot.ranges.iter().filter(|(_, range)| range[0].readable) {
            let gone = range[0].oldest.map_or(snapshot.clock, EventId::before);
            let known = self.gone.entry(channel_of(channel.as_str())).or_default();
            *known = gone.max(*known);
        }
        self.reads.answered(snapshot, self.now(ms));
    }
}
