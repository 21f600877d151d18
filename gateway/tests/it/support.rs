//! Tools for these tests besides `sse-lab`: a real gateway, and clients of its endpoints.
//!
//! Every call blocks with a generous bound, so no test depends on how fast a machine is. Ports come
//! from the kernel.

mod http;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sse_gateway::metrics::{Cells, Metrics};
use sse_gateway::{Config, Gateway};
use sse_lab::chunked::Body;
use sse_lab::event_stream::Reader;

pub use http::{Answer, connect, read_answer, request, request_on};
pub use sse_lab::event_stream::Block;
pub use sse_lab::process::{Process, spawn};
pub use sse_lab::redis_server::RedisServer as Redis;
pub use sse_lab::scratch::Scratch;
pub use sse_lab::tcp_proxy::TcpProxy as Wire;
pub use sse_lab::{BOUND, Signal, eventually, own_addr};

/// A gateway in this process, on ports of its own.
pub struct TestGateway {
    pub addr: SocketAddr,
    pub admin: SocketAddr,
    pub metrics: Metrics,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TestGateway {
    /// Starts a gateway with the memory broker.
    pub fn memory(settings: &[(&str, &str)]) -> Self {
        Self::try_start(settings)
            .unwrap_or_else(|error| panic!("the gateway does not start: {error}"))
    }

    /// Starts a gateway with the broker Redis.
    pub fn redis(redis: &Redis, settings: &[(&str, &str)]) -> Self {
        let url = redis.url();
        let mut all = vec![
            ("broker", "redis"),
            ("redis.url", url.as_str()),
            ("redis.tick", "100ms"),
            ("redis.reconnect_max", "200ms"),
        ];
        all.extend(settings);
        Self::memory(&all)
    }

    /// Starts a gateway with these settings. The error is what the program would print.
    pub fn try_start(settings: &[(&str, &str)]) -> Result<Self, String> {
        let defaults = [
            ("server.listen", "127.0.0.1:0"),
            ("admin.listen", "127.0.0.1:0"),
            ("server.workers", "2"),
            ("drain.spread", "0s"),
            ("drain.deadline", "10s"),
        ];
        // Lets the whole suite run with other settings, see `make test-fallback`.
        let others = std::env::var("TEST_SETTINGS").unwrap_or_default();
        let others = others.split_whitespace().map(|pair| pair.split_once('=').unwrap());
        let others: Vec<(&str, &str)> = others.collect();
        let pairs = defaults.iter().chain(&others).chain(settings);
        let pairs: Vec<_> = pairs.map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let config =
            Config::load(None, std::iter::empty(), &pairs).map_err(|error| error.to_string())?;
        let (started, start) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                match Gateway::bind(config, Duration::ZERO).await {
                    Ok(gateway) => {
                        let addrs = (gateway.addr(), gateway.admin_addr(), gateway.metrics());
                        started.send(Ok(addrs)).unwrap();
                        let stop = async { stopped.await.unwrap_or(()) };
                        gateway.run(stop).await.unwrap();
                    }
                    Err(error) => started.send(Err(error.to_string())).unwrap(),
                }
            });
        });
        let (addr, admin, metrics) = start.recv().expect("the gateway's thread answers")?;
        Ok(TestGateway { addr, admin, metrics, stop: Some(stop), thread: Some(thread) })
    }

    /// Opens a stream.
    pub fn subscribe(&self, query: &str) -> Subscriber {
        Subscriber::open(self.addr, query, &[])
    }

    /// Opens a stream and reads its opening checkpoint.
    pub fn live(&self, query: &str) -> Subscriber {
        let mut subscriber = self.subscribe(query);
        subscriber.opening();
        subscriber
    }

    /// Opens a stream that resumes after an id, and reads its opening checkpoint.
    pub fn resumed(&self, query: &str, last_event_id: &str) -> Subscriber {
        let header = [("Last-Event-ID", last_event_id)];
        let mut subscriber = Subscriber::open(self.addr, query, &header);
        let from = format!("{{\"from\":\"{last_event_id}\"}}");
        assert_eq!(subscriber.opening().data, from);
        subscriber
    }

    /// Publishes one event, and returns its id.
    pub fn publish(&self, channel: &str, data: &str) -> String {
        let answer = self.post(&format!("/channels/{channel}"), &[], data.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["id"].as_str().expect("an id").to_owned()
    }

    /// Publishes one event with a token, and returns its id.
    pub fn publish_as(&self, channel: &str, data: &str, token: &str) -> String {
        let bearer = format!("Bearer {token}");
        let headers = [("Authorization", bearer.as_str())];
        let answer = self.post(&format!("/channels/{channel}"), &headers, data.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["id"].as_str().expect("an id").to_owned()
    }

    /// POSTs to the public port.
    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        request(self.addr, "POST", path, headers, body)
    }

    /// GETs from the admin port.
    pub fn admin(&self, path: &str) -> Answer {
        request(self.admin, "GET", path, &[], b"")
    }

    /// A number of each worker, summed over all workers.
    pub fn sum(&self, of: impl Fn(&Cells) -> u64) -> u64 {
        self.metrics.sum(of)
    }

    /// Waits until no stream is left, as must be at the end of every test.
    pub fn settled(&self) {
        eventually("no subscriber and no channel is left", || {
            let streams = self.sum(|c| c.subscribers.get() + c.joining.get());
            streams == 0 && self.metrics.broker.channels.get() == 0
        });
    }

    /// Stops the gateway as SIGTERM does and waits for its end.
    pub fn stop(mut self) {
        self.end();
    }

    /// Begins to stop the gateway as SIGTERM does: it drains.
    pub fn drain(&mut self) {
        drop(self.stop.take());
    }

    fn end(&mut self) {
        self.drain();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the gateway ends in order");
            }
        }
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        self.end();
    }
}

/// A client of one stream that parses its bytes itself.
pub struct Subscriber {
    reader: Reader<Body<Box<dyn Read + Send>>>,
    socket: TcpStream,
    /// The response's head.
    pub head: String,
}

impl Subscriber {
    /// Sends the request and reads the head.
    pub fn open(addr: SocketAddr, query: &str, headers: &[(&str, &str)]) -> Self {
        Self::on(connect(addr), query, headers)
    }

    /// Opens a stream on a connection whose small receive buffer is soon full.
    pub fn narrow(addr: SocketAddr, query: &str) -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(8 * 1024).unwrap();
        socket.connect(&addr.into()).unwrap();
        Self::on(socket.into(), query, &[])
    }

    pub fn on(stream: TcpStream, query: &str, headers: &[(&str, &str)]) -> Self {
        let socket = stream.try_clone().unwrap();
        Self::over(stream, socket, query, headers)
    }

    /// Opens a stream on `stream`, which is spoken over this socket: plain, or TLS.
    pub fn over(
        mut stream: impl Read + Write + Send + 'static,
        socket: TcpStream,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Self {
        let mut head = format!("GET /events?{query} HTTP/1.1\r\nHost: test\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}Accept: text/event-stream\r\n\r\n").as_bytes()).unwrap();
        let mut reader = BufReader::new(Box::new(stream) as Box<dyn Read + Send>);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).expect("a head"), 0, "closed: {head}");
        }
        let reader = Reader::new(Body::new(reader, &head));
        Subscriber { reader, socket, head }
    }

    /// The socket, to stall or break it.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// The reader of the body's bytes.
    pub fn into_reader(self) -> BodyReader {
        self.reader.into_inner()
    }

    /// The next block that has a field besides `retry`.
    #[track_caller]
    pub fn next(&mut self) -> Block {
        self.read().expect("the stream goes on")
    }

    /// Reads the stream's opening checkpoint, which says where the stream begins.
    #[track_caller]
    pub fn opening(&mut self) -> Block {
        let first = self.next();
        assert_eq!(first.event, "checkpoint", "{first:?}");
        assert!(first.data.starts_with("{\"from\":\""), "{first:?}");
        first
    }

    /// The next block that is neither a checkpoint nor a heartbeat. Bounded here, because those two
    /// alone would keep a stream going for ever.
    #[track_caller]
    pub fn event(&mut self) -> Block {
        let end = Instant::now() + BOUND;
        let mut passed = Vec::new();
        loop {
            assert!(Instant::now() < end, "no event came, but {passed:?}");
            let block = self.next();
            if block.event != "checkpoint" {
                return block;
            }
            passed.push(block.id);
        }
    }

    /// Reads the stream to its end. Returns the blocks that were left, and the last `retry`.
    pub fn rest(&mut self) -> (Vec<Block>, Option<u64>) {
        let mut blocks = Vec::new();
        while let Some(block) = self.read() {
            blocks.push(block);
        }
        (blocks, self.retry)
    }
}

impl Deref for Subscriber {
    type Target = Reader<Body<Box<dyn Read + Send>>>;
    fn deref(&self) -> &Self::Target {
        &self.reader
    }
}

impl DerefMut for Subscriber {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.reader
    }
}

/// Reads the body of an answer.
pub type BodyReader = BufReader<Body<Box<dyn Read + Send>>>;
