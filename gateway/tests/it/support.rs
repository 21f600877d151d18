//! What the tests stand on: a real gateway, a real Redis, and a client that reads bytes.
//!
//! Everything blocks with a generous bound and no test depends on how fast a machine is. Ports come from
//! the kernel; what must come back on its port has a loopback address of its own, so that nobody else can
//! be given that port meanwhile.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sse_gateway::broker::redis::resp::{self, Value};
use sse_gateway::metrics::{Cells, Metrics};
use sse_gateway::{Config, Gateway};

/// No wait in a test is longer: past it something is broken, not slow.
pub const BOUND: Duration = Duration::from_secs(60);

/// Waits until a condition holds.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + BOUND;
    while !condition() {
        assert!(Instant::now() < end, "it never came about: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// An address that nobody else uses, for what comes back on it or must be told its port beforehand.
pub fn own_addr() -> SocketAddr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let host = Ipv4Addr::new(127, 1 + (pid >> 8) as u8 % 250, pid as u8, 1 + n as u8 % 250);
    TcpListener::bind((host, 0)).and_then(|listener| listener.local_addr()).unwrap()
}

/// Starts a program of Debian's `package`; one that is missing fails the test with what to install.
#[track_caller]
pub fn spawn(command: &mut Command, package: &str) -> Child {
    match command.spawn() {
        Ok(child) => child,
        Err(error) => panic!(
            "{:?} does not start: {error}; install {package}, or run scripts/test, which does",
            command.get_program()
        ),
    }
}

/// A gateway in this process, on ports of its own.
pub struct TestGateway {
    pub addr: SocketAddr,
    pub admin: SocketAddr,
    pub metrics: Metrics,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TestGateway {
    /// On the embedded broker.
    pub fn memory(settings: &[(&str, &str)]) -> Self {
        Self::try_start(settings)
            .unwrap_or_else(|error| panic!("the gateway does not start: {error}"))
    }

    /// On a Redis.
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

    /// With these settings; the error is what the program would print.
    pub fn try_start(settings: &[(&str, &str)]) -> Result<Self, String> {
        let defaults = [
            ("server.listen", "127.0.0.1:0"),
            ("admin.listen", "127.0.0.1:0"),
            ("server.workers", "2"),
            ("drain.spread", "0s"),
            ("drain.deadline", "10s"),
        ];
        // So that the whole suite can be run on another path, see `make test-fallback`.
        let others = std::env::var("SSE_TEST_SETTINGS").unwrap_or_default();
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

    /// Opens a stream and reads where it begins.
    pub fn live(&self, query: &str) -> Subscriber {
        let mut subscriber = self.subscribe(query);
        subscriber.opening();
        subscriber
    }

    /// Opens a stream that goes on after a position, and reads where it begins.
    pub fn resumed(&self, query: &str, last_event_id: &str) -> Subscriber {
        let header = [("Last-Event-ID", last_event_id)];
        let mut subscriber = Subscriber::open(self.addr, query, &header);
        let from = format!("{{\"from\":\"{last_event_id}\"}}");
        assert_eq!(subscriber.opening().data, from);
        subscriber
    }

    /// Publishes one event; answers its id.
    pub fn publish(&self, channel: &str, data: &str) -> String {
        let answer = self.post(&format!("/channels/{channel}"), &[], data.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["id"].as_str().expect("an id").to_owned()
    }

    /// Publishes one event with a token; answers its id.
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

    /// One worker's number, summed over all.
    pub fn sum(&self, of: impl Fn(&Cells) -> u64) -> u64 {
        self.metrics.sum(of)
    }

    /// Waits until no stream is left, as must be at the end of every test.
    pub fn settled(&self) {
        eventually("no subscriber and no channel is left", || {
            self.sum(|c| c.subscribers.get() + c.channels.get() + c.joining.get()) == 0
        });
    }

    /// Stops the gateway as SIGTERM does and waits for its end.
    pub fn stop(mut self) {
        self.end();
    }

    /// Begins to stop it as SIGTERM does: it drains.
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

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

/// One HTTP request on a connection of its own.
pub fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    request_on(connect(addr), method, path, headers, body)
}

/// The same, on a connection that is there.
pub fn request_on(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    // In one piece, as clients send what is small. A body that is refused is taken all the same: its client reads the
    // answer once it is sent.
    let whole = [head.as_bytes(), body].concat();
    stream.write_all(&whole).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    read_answer(stream)
}

pub fn read_answer(mut stream: impl Read) -> Answer {
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
    let end = Instant::now() + BOUND;
    loop {
        let n = stream.read(&mut chunk).expect("an answer");
        if n == 0 {
            break;
        }
        bytes.extend_from_slice(&chunk[..n]);
        // An event stream, say, which has heartbeats.
        assert!(Instant::now() < end, "it goes on: {}", String::from_utf8_lossy(&bytes));
    }
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("an answer's head");
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut body = bytes[end + 4..].to_vec();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        body = dechunk(&body);
    }
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    Answer { status, head, body: String::from_utf8_lossy(&body).into_owned() }
}

fn dechunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n").expect("a chunk's size");
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
    }
}

pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap_or_else(|e| panic!("{addr}: {e}"));
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream.set_write_timeout(Some(BOUND)).unwrap();
    stream
}

/// A block of an event stream, as it stood on the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    pub id: String,
    pub event: String,
    pub data: String,
}

/// A client of one stream that reads its bytes itself.
pub struct Subscriber {
    reader: BufReader<Body>,
    socket: TcpStream,
    /// The response's head.
    pub head: String,
    /// Comments read so far: heartbeats.
    pub comments: usize,
    /// The last `retry:` read.
    pub retry: Option<u64>,
}

impl Subscriber {
    /// Sends the request and reads the head.
    pub fn open(addr: SocketAddr, query: &str, headers: &[(&str, &str)]) -> Self {
        Self::on(connect(addr), query, headers)
    }

    /// On a connection whose receive buffer is small, so that it is soon full.
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

    /// On what is spoken over this socket.
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
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let reader = BufReader::new(Body { reader, chunked, ended: false, left: 0 });
        Subscriber { reader, socket, head, comments: 0, retry: None }
    }

    /// The socket, to stall or break it.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// The body's bytes.
    pub fn into_reader(self) -> BodyReader {
        self.reader
    }

    /// The next block that has a field besides `retry`.
    #[track_caller]
    pub fn next(&mut self) -> Block {
        self.read().expect("the stream goes on")
    }

    /// The next block, or none when the stream ended.
    pub fn read(&mut self) -> Option<Block> {
        let mut block = Block::default();
        let mut data: Vec<String> = Vec::new();
        let mut any = false;
        loop {
            let mut line = Vec::new();
            if self.reader.read_until(b'\n', &mut line).expect("bytes within the bound") == 0 {
                return None;
            }
            let line = String::from_utf8(line).expect("UTF-8");
            let line = line.strip_suffix('\n').expect("a whole line");
            match line.split_once(':') {
                None if line.is_empty() => {
                    if any {
                        block.data = data.join("\n");
                        return Some(block);
                    }
                }
                Some(("", _)) => self.comments += 1,
                Some((field, value)) => {
                    let value = value.strip_prefix(' ').expect("one space behind the colon");
                    any |= field != "retry";
                    match field {
                        "id" => block.id = value.to_owned(),
                        "event" => block.event = value.to_owned(),
                        "data" => data.push(value.to_owned()),
                        "retry" => self.retry = Some(value.parse().expect("digits")),
                        other => panic!("a field {other:?}"),
                    }
                }
                None => panic!("a line without a colon: {line:?}"),
            }
        }
    }

    /// The stream's first checkpoint.
    #[track_caller]
    pub fn opening(&mut self) -> Block {
        let first = self.next();
        assert_eq!(first.event, "checkpoint", "{first:?}");
        assert!(first.data.starts_with("{\"from\":\""), "{first:?}");
        first
    }

    /// The next block that is neither checkpoint nor heartbeat. Those two alone would keep a stream busy for ever.
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

    /// Reads until a heartbeat's comment has come.
    pub fn heartbeat(&mut self) {
        let mut line = String::new();
        while line != ":\n" {
            line.clear();
            assert_ne!(self.reader.read_line(&mut line).expect("a heartbeat"), 0, "closed");
        }
        self.comments += 1;
    }

    /// Reads the stream to its end; answers the blocks that were left.
    pub fn rest(&mut self) -> (Vec<Block>, Option<u64>) {
        let mut blocks = Vec::new();
        while let Some(block) = self.read() {
            blocks.push(block);
        }
        (blocks, self.retry)
    }
}

/// Reads the body of an answer.
pub type BodyReader = BufReader<Body>;

/// The body of an answer, whatever its framing.
pub struct Body {
    reader: BufReader<Box<dyn Read + Send>>,
    chunked: bool,
    ended: bool,
    /// Bytes left of the current chunk, its line end included.
    left: usize,
}

impl Body {
    /// Whether its end was announced, and not only the connection cut.
    pub fn is_whole(&self) -> bool {
        self.ended
    }
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if !self.chunked {
            return self.reader.read(into);
        }
        if self.left == 0 {
            let mut size = String::new();
            if self.reader.read_line(&mut size)? == 0 {
                return Ok(0);
            }
            match usize::from_str_radix(size.trim_end(), 16).expect("a chunk's size") {
                0 => {
                    self.ended = true;
                    return Ok(0);
                }
                size => self.left = size + 2,
            }
        }
        if self.left <= 2 {
            self.reader.read_exact(&mut [0; 2][..self.left])?;
            self.left = 0;
            return self.read(into);
        }
        let most = into.len().min(self.left - 2);
        let n = self.reader.read(&mut into[..most])?;
        self.left -= n;
        Ok(n)
    }
}

/// A `redis-server` process with an address of its own.
pub struct Redis {
    pub addr: SocketAddr,
    child: Child,
    args: Vec<String>,
    env: Vec<(String, String)>,
    dir: tempdir::Dir,
}

impl Redis {
    /// An empty one without persistence.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With further arguments.
    pub fn start_with(args: &[&str]) -> Self {
        Self::start_in(&[], args)
    }

    /// With these variables in its environment, and further arguments.
    pub fn start_in(env: &[(&str, &str)], args: &[&str]) -> Self {
        let addr = own_addr();
        let dir = tempdir::Dir::new("redis");
        let args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
        let env: Vec<_> = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let child = spawn_redis(addr, &args, &env, &dir);
        Redis { addr, child, args, env, dir }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// Ends the process as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on the same address, with what its persistence kept.
    pub fn restart(&mut self) {
        self.child = spawn_redis(self.addr, &self.args, &self.env, &self.dir);
    }

    /// Stops or continues the process (`STOP`, `CONT`).
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success()
        );
    }

    /// Runs one command; answers it as text, arrays as lines.
    pub fn command(&self, args: &[&str]) -> String {
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        self.command_bytes(&args)
    }

    /// Runs one command of any bytes.
    pub fn command_bytes(&self, args: &[&[u8]]) -> String {
        talk(&mut connect(self.addr), args)
    }

    /// Runs one command as a user without password.
    pub fn command_as(&self, user: &str, args: &[&str]) -> String {
        let mut stream = connect(self.addr);
        assert_eq!(talk(&mut stream, &[b"AUTH", user.as_bytes(), b"-"]), "OK");
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        talk(&mut stream, &args)
    }

    /// Publishes as any service may, by one command.
    pub fn fcall(&self, channel: &str, data: &str) -> String {
        let history = format!("sse:history:{channel}");
        self.command(&["FCALL", "sse_publish", "2", "sse:state", &history, data])
    }
}

/// A replica of another Redis, in step with it.
pub fn replica_of(redis: &Redis) -> Redis {
    let replica = Redis::start();
    // It would wait some seconds for others to come.
    redis.command(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    let [host, port] = [redis.addr.ip().to_string(), redis.addr.port().to_string()];
    replica.command(&["REPLICAOF", &host, &port]);
    eventually("the replica is in step", || {
        replica.command(&["INFO", "replication"]).contains("master_link_status:up")
    });
    replica
}

fn talk(stream: &mut TcpStream, args: &[&[u8]]) -> String {
    let mut wire = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        wire.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        wire.extend_from_slice(arg);
        wire.extend_from_slice(b"\r\n");
    }
    stream.write_all(&wire).unwrap();
    let mut input = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some((value, _)) = resp::parse(&input).expect("RESP") {
            return show(&value);
        }
        let n = stream.read(&mut chunk).expect("an answer");
        assert_ne!(n, 0, "Redis closed the connection");
        input.extend_from_slice(&chunk[..n]);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn_redis(
    addr: SocketAddr,
    args: &[String],
    env: &[(String, String)],
    dir: &tempdir::Dir,
) -> Child {
    let mut command = Command::new("redis-server");
    command
        .args(["--bind", &addr.ip().to_string(), "--port", &addr.port().to_string()])
        .args(["--save", "", "--dir", dir.path().to_str().unwrap(), "--loglevel", "notice"])
        .args(args)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::piped());
    let mut child = spawn(&mut command, "redis-server");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready =
        lines.any(|line| line.is_ok_and(|line| line.contains("Ready to accept connections")));
    assert!(ready, "redis-server ended at its start");
    // Somebody must go on reading, or its log would block it.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn show(value: &Value<'_>) -> String {
    match value {
        Value::Text(bytes) | Value::Error(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Integer(n) => n.to_string(),
        Value::Boolean(b) => b.to_string(),
        Value::Null => String::new(),
        Value::Array(elements) | Value::Push(elements) => {
            elements.iter().map(show).collect::<Vec<_>>().join("\n")
        }
    }
}

/// Temporary directories that go with their owner.
pub mod tempdir {
    use std::path::{Path, PathBuf};

    pub struct Dir(PathBuf);

    impl Dir {
        pub fn new(name: &str) -> Self {
            let unique =
                format!("sse-gateway-{}-{name}-{:x}", std::process::id(), fastrand::u64(..));
            let path = std::env::temp_dir().join(unique);
            std::fs::create_dir_all(&path).unwrap();
            Dir(path)
        }

        pub fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
