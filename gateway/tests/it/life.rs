//! Tests of the program in a process of its own, among process managers, log readers and clients of
//! every kind.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStderr, Command, ExitStatus, Stdio};

use crate::support::{
    Answer, BOUND, Process, Redis, Scratch, Signal, Subscriber, eventually, own_addr, request,
};

/// A gateway in a process of its own.
pub struct Program {
    pub addr: SocketAddr,
    pub admin: SocketAddr,
    process: Process,
    pub stderr: Option<ChildStderr>,
}

impl Program {
    /// Starts the program, and waits until it is ready.
    pub fn start(settings: &[&str]) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_sse-gateway")), settings)
    }

    /// Starts the program with at most this many file descriptors.
    fn start_with_descriptors(most: u32, settings: &[&str]) -> Self {
        let mut command = Command::new("sh");
        let program = env!("CARGO_BIN_EXE_sse-gateway");
        command.args(["-c", &format!("ulimit -n {most} && exec \"$0\" \"$@\""), program]);
        Self::start_by(command, settings)
    }

    /// Starts the program by this command.
    pub fn start_by(mut command: Command, settings: &[&str]) -> Self {
        let (addr, admin) = (own_addr(), own_addr());
        command.arg("--listen").arg(addr.to_string()).arg("--admin-listen").arg(admin.to_string());
        command.args(["--set", "server.workers=2"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let mut process = Process::start(command.stderr(Stdio::piped())).unwrap();
        let stderr = process.stderr.take();
        let mut program = Program { addr, admin, process, stderr };
        eventually("the gateway is ready", || {
            assert!(program.process.ended().is_none(), "it ended: {}", program.log());
            TcpStream::connect(admin).is_ok() && program.get("/readyz").status == 200
        });
        program
    }

    /// Everything that the program logs until its end.
    pub fn log(&mut self) -> String {
        let mut text = String::new();
        self.stderr.take().expect("read once").read_to_string(&mut text).expect("a log");
        text
    }

    /// Closes the reading end of the log.
    fn close_log(&mut self) {
        drop(self.stderr.take());
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub fn subscribe(&self, query: &str) -> Subscriber {
        let mut subscriber = Subscriber::open(self.addr, query, &[]);
        subscriber.opening();
        subscriber
    }

    /// Publishes, and repeats that while Redis is away. Returns the id.
    pub fn publish(&self, channel: &str, data: &str) -> String {
        let mut id = None;
        eventually("it is published", || {
            let key = data.replace(' ', "-");
            let headers = [("Idempotency-Key", key.as_str())];
            let path = format!("/channels/{channel}");
            let answer = request(self.addr, "POST", &path, &headers, data.as_bytes());
            id = answer.json()["id"].as_str().map(str::to_owned);
            id.is_some()
        });
        id.unwrap()
    }

    fn get(&self, path: &str) -> Answer {
        request(self.admin, "GET", path, &[], b"")
    }

    /// A metric's value.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = self.get("/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().parse().expect("a number"))
    }

    pub fn end(&mut self) -> ExitStatus {
        self.process.ends_within(BOUND).expect("the process ends")
    }
}

/// Sends bytes as they are, and returns all that comes back.
fn raw(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_log_that_nobody_reads_any_more_costs_lines_and_no_event() {
    let mut redis = Redis::start();
    let url = format!("redis.url={}", redis.url());
    let mut gateway =
        Program::start(&["broker=redis", &url, "redis.tick=100ms", "redis.reconnect_max=200ms"]);
    let mut subscriber = gateway.subscribe("channel=demo");
    gateway.close_log();
    // The gateway logs the loss of Redis, and cannot write these lines.
    redis.kill();
    eventually("the gateway has noticed", || gateway.get("/healthz/broker").status == 503);
    redis.restart();
    let id = gateway.publish("demo", "after the loss");
    assert_eq!(subscriber.event().event, "gap");
    assert_eq!(subscriber.event().id, id);
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.end().code(), Some(0));
}

#[test]
fn a_log_whose_reader_stalls_blocks_nobody_and_what_is_left_out_is_counted() {
    let gateway = Program::start(&["log.level=trace"]);
    let mut subscriber = gateway.subscribe("channel=demo");
    let mut n = 0;
    eventually("lines are left out", || {
        for _ in 0..20 {
            n += 1;
            let id = gateway.publish("demo", &n.to_string());
            assert_eq!(subscriber.event().id, id);
            assert!(raw(gateway.addr, b"\x16\x03\x01\x02\x00\r\n\r\n").contains("invalid-request"));
        }
        gateway.metric("sse_log_lines_dropped_total").unwrap() > 0.0
    });
    gateway.signal(Signal::TERM);
    let mut gateway = gateway;
    assert_eq!(gateway.end().code(), Some(0), "nor does it hold up the end");
}

#[test]
fn what_is_no_request_is_answered_counted_and_not_logged() {
    let mut gateway = Program::start(&[]);
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(200_000));
    for (bytes, status, kind) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..], 400, "invalid-request"),
        (b"GET http://[::bad/ HTTP/1.1\r\n\r\n", 400, "invalid-request"),
        (
            b"POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
            400,
            "invalid-request",
        ),
        (long.as_bytes(), 431, "head-too-large"),
    ] {
        let answer = raw(gateway.addr, bytes);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-type: application/problem+json"), "{answer}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["type"], format!("urn:sse-gateway:{kind}"));
    }
    let counted = gateway.metric("sse_rejected_requests_total{reason=\"unreadable\"}");
    assert_eq!(counted, Some(4.0));
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.end().code(), Some(0));
    let log = gateway.log();
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
}

#[test]
fn a_hangup_reads_the_level_again_and_ends_nothing() {
    let dir = Scratch::new("hangup");
    let file = dir.path().join("gateway.toml");
    std::fs::write(&file, "[log]\nlevel = \"info\"\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sse-gateway"));
    command.arg("--config").arg(&file);
    let mut gateway = Program::start_by(command, &[]);
    let mut log = BufReader::new(gateway.stderr.take().unwrap());
    let mut until = |word: &str| {
        let mut line = String::new();
        while !line.contains(word) {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "no line with {word}");
        }
    };
    std::fs::write(&file, "[log]\nlevel = \"loud=x=y\"\n").unwrap();
    gateway.signal(Signal::HUP);
    until("loud=x=y");
    std::fs::write(&file, "[log]\nlevel = \"debug\"\n").unwrap();
    gateway.signal(Signal::HUP);
    until("log.level=\"debug\"");
    let mut subscriber = gateway.subscribe("channel=demo");
    until("a stream is open");
    let id = gateway.publish("demo", "still there");
    assert_eq!(subscriber.event().id, id);
}

#[test]
fn the_admin_port_shows_and_changes_which_lines_are_written() {
    let mut gateway = Program::start(&[]);
    let mut log = BufReader::new(gateway.stderr.take().unwrap());
    let mut until = |word: &str| {
        let mut line = String::new();
        while !line.contains(word) {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "no line with {word}");
        }
        line
    };
    let put = |level: &str, headers: &[(&str, &str)]| {
        request(gateway.admin, "PUT", "/log-level", headers, level.as_bytes())
    };
    assert_eq!(gateway.get("/log-level").json()["level"], "info,actix_server=warn");
    let changed = put("info, sse_gateway::streams=debug", &[]);
    assert_eq!(changed.status, 200, "{}", changed.body);
    let level = "info,sse_gateway::streams=debug";
    let expected = serde_json::json!({ "level": level, "before": "info,actix_server=warn" });
    assert_eq!(changed.json(), expected);
    let told = until("changed by the admin port");
    assert!(told.contains(level) && told.contains("info,actix_server=warn"), "{told}");
    drop(gateway.subscribe("channel=demo"));
    until("a stream is open");
    for (wrong, words) in [
        ("inof", "\\\"inof\\\" is no level"),
        ("info,sse_gatway=debug", "the nearest target is sse_gateway"),
        ("", "a part is empty"),
    ] {
        let refused = put(wrong, &[]);
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert_eq!(refused.json()["field"], "level");
        assert!(refused.body.contains(words), "{wrong}: {}", refused.body);
    }
    // No web page may silence the log.
    assert_eq!(put("off", &[("Origin", "http://rebound.example:9090")]).status, 403);
    assert_eq!(gateway.get("/log-level").json()["level"], level);
    // A log that falls silent says so before.
    assert_eq!(put("off", &[]).status, 200);
    let told = until("changed by the admin port");
    assert!(told.contains("log.level=\"off\""), "{told}");
}

/// systemd (`Type=notify`) starts what depends on the gateway once it is ready.
#[test]
fn a_supervisor_is_told_when_the_gateway_is_ready_and_when_it_stops() {
    let dir = Scratch::new("notify");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(BOUND)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sse-gateway"));
    command.env("NOTIFY_SOCKET", &path);
    let mut gateway = Program::start_by(command, &[]);
    assert_eq!(told(&socket), "READY=1");
    gateway.signal(Signal::TERM);
    assert_eq!(told(&socket), "STOPPING=1");
    assert_eq!(gateway.end().code(), Some(0));
}

fn told(socket: &UnixDatagram) -> String {
    let mut message = [0; 256];
    let length = socket.recv(&mut message).expect("a message within the bound");
    String::from_utf8_lossy(&message[..length]).trim().to_owned()
}

/// A gateway whose watchdog asks every 100 ms. systemd names the process that it watches, so the
/// shell does.
fn watched(socket: &std::path::Path, settings: &[&str]) -> Program {
    let mut command = Command::new("sh");
    let script = "WATCHDOG_PID=$$ WATCHDOG_USEC=300000 exec \"$0\" \"$@\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_sse-gateway")]).env("NOTIFY_SOCKET", socket);
    Program::start_by(command, settings)
}

/// Without Redis, too: a start of the process would not bring Redis back.
#[test]
fn a_watchdog_hears_of_a_gateway_that_works_also_while_redis_is_away() {
    let redis = Redis::start();
    let dir = Scratch::new("notify");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(BOUND)).unwrap();
    let url = format!("redis.url={}", redis.url());
    let gateway = watched(&path, &["broker=redis", &url]);
    assert_eq!(told(&socket), "READY=1");
    assert_eq!(told(&socket), "WATCHDOG=1");
    drop(redis);
    let is_away = || gateway.metric("sse_broker_connected{broker=\"redis\"}") == Some(0.0);
    eventually("Redis is away", is_away);
    heard_of(&socket);
    assert_eq!(told(&socket), "WATCHDOG=1");
}

/// Takes everything that was told until now.
fn heard_of(socket: &UnixDatagram) -> usize {
    socket.set_nonblocking(true).unwrap();
    let count = std::iter::from_fn(|| socket.recv(&mut [0; 256]).ok()).count();
    socket.set_nonblocking(false).unwrap();
    count
}

#[test]
fn partitions_share_threads() {
    let redis = Redis::start();
    let url = format!("redis.url={}", redis.url());
    let cores = std::thread::available_parallelism().unwrap().get();
    for partitions in [1, 64] {
        let number = format!("redis.partitions={partitions}");
        let gateway = Program::start(&["broker=redis", &url, &number]);
        let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.process.id())).unwrap();
        let names: Vec<String> = tasks
            .map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap())
            .collect();
        let count = |name: &str| names.iter().filter(|known| known.trim_end() == name).count();
        let counts = ["sse-ingest", "sse-publish", "sse-history"].map(count);
        assert_eq!(counts, [cores.min(partitions), 1, 1], "{names:?}");
        redis.command(&["FLUSHALL"]);
    }
}

/// Needs the feature `panic-on-demand`, with which scripts/test builds.
#[cfg(feature = "panic-on-demand")]
#[test]
fn a_watchdog_hears_nothing_while_a_thread_hangs() {
    let redis = Redis::start();
    let url = format!("redis.url={}", redis.url());
    let on_redis = ["broker=redis", url.as_str()];
    for (settings, who, named) in [
        (&[][..], "a%20worker's%20hub", "0 of 2 workers answer"),
        (&on_redis, "sse-ingest", "the thread sse-ingest does nothing"),
        (&on_redis, "sse-publish", "the thread sse-publish does nothing"),
        (&on_redis, "sse-history", "the thread sse-history does nothing"),
    ] {
        let dir = Scratch::new("notify");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut gateway = watched(&path, settings);
        let answer = request(gateway.admin, "POST", &format!("/hang/{who}"), &[], b"");
        assert_eq!(answer.status, 202, "{}", answer.body);
        let mut log = BufReader::new(gateway.stderr.take().unwrap());
        let mut until_it_hangs = || {
            let mut line = String::new();
            while !line.contains("a thread hangs") || !line.contains(named) {
                line.clear();
                assert_ne!(log.read_line(&mut line).unwrap(), 0, "no line with {named}");
            }
        };
        // On a slow machine the first rounds may belong to the time before the thread hangs.
        let quiet = (0..20).any(|_| {
            until_it_hangs();
            heard_of(&socket);
            until_it_hangs();
            heard_of(&socket) == 0
        });
        assert!(quiet, "{who}");
    }
}

/// The clients send a head, and then nothing.
#[test]
fn requests_that_never_come_whole_leave_room_for_everybody_else() {
    let gateway = Program::start_with_descriptors(700, &[]);
    let mut subscriber = gateway.subscribe("channel=demo");
    let head = b"POST /channels/demo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n";
    let mut stuck = Vec::new();
    for _ in 0..900 {
        let mut stream = TcpStream::connect(gateway.addr).unwrap();
        // Fails if the gateway has closed the connection meanwhile, to make room for others.
        let _ = stream.write_all(head);
        stuck.push(stream);
    }
    assert_eq!(gateway.get("/healthz").status, 200);
    let ready = gateway.get("/readyz");
    assert_eq!(ready.status, 200, "{}", ready.body);
    let id = gateway.publish("demo", "to those who listen");
    assert_eq!(subscriber.event().id, id);
    gateway.subscribe("channel=demo");
    let crowded = gateway.metric("sse_rejected_requests_total{reason=\"crowded\"}").unwrap();
    assert!(crowded >= 700.0, "{crowded}");
}

#[test]
fn an_abort_ends_the_process() {
    let mut gateway = Program::start(&[]);
    gateway.signal(Signal::ABORT);
    assert_eq!(gateway.end().signal(), Some(6));
}

/// Needs the feature `panic-on-demand`, with which scripts/test builds.
#[cfg(feature = "panic-on-demand")]
#[test]
fn a_panic_in_any_thread_or_task_ends_the_process_with_a_line_that_names_it() {
    let redis = Redis::start();
    let url = format!("redis.url={}", redis.url());
    let on_redis = ["broker=redis", url.as_str()];
    let other_redis = Redis::start();
    let other_url = format!("redis.url={}", other_redis.url());
    let on_partitions = ["broker=redis", other_url.as_str(), "redis.partitions=4"];
    for (settings, who, thread) in [
        (&on_redis[..], "sse-ingest", "sse-ingest"),
        (&on_partitions, "sse-ingest", "sse-ingest"),
        (&on_partitions, "sse-publish", "sse-publish"),
        (&on_redis, "sse-publish", "sse-publish"),
        (&on_redis, "sse-history", "sse-history"),
        (&[], "a%20worker's%20hub", "actix"),
        (&[], "a%20worker's%20guests", "actix"),
        (&[], "the%20clock", "main"),
    ] {
        let mut gateway = Program::start(settings);
        let subscriber = gateway.subscribe("channel=demo");
        // The process may end before it has answered.
        let mut admin = TcpStream::connect(gateway.admin).unwrap();
        write!(admin, "POST /panic/{who} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert_eq!(gateway.end().code(), Some(70), "{who}");
        let log = gateway.log();
        let line =
            log.lines().find(|line| line.contains("panicked")).unwrap_or_else(|| panic!("{log}"));
        assert!(
            line.contains("ERROR") && line.contains("thread") && line.contains(thread),
            "{line}"
        );
        drop(subscriber);
    }
}
