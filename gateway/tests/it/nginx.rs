//! Tests of nginx with the repository's own configuration, in front of a real gateway.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{ChildStderr, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use crate::access_elsewhere::{Server, says};
use crate::event_source::{EventSource, live};
use crate::support::{
    Answer, BOUND, Process, Redis, Scratch, Subscriber, TestGateway, eventually, own_addr, request,
    spawn,
};
use crate::webdriver::Browser;

/// An `nginx` process on an address of its own.
struct Nginx {
    addr: SocketAddr,
    process: Process,
    logs: Option<(JoinHandle<String>, JoinHandle<String>)>,
    _dir: Scratch,
}

impl Nginx {
    /// Starts nginx with the files of `nginx/`, of which only the two addresses are changed.
    #[track_caller]
    fn before(gateway: SocketAddr) -> Self {
        let addr = own_addr();
        let dir = Scratch::new("nginx");
        copied("nginx.conf", "listen 8080 ", &format!("listen {addr} "), dir.path());
        copied("proxy.conf", "gateway:8080", &gateway.to_string(), dir.path());
        let locations = shipped("gateway.conf");
        Self::started(addr, dir, &locations)
    }

    /// Starts nginx with the locations of `auth.conf.example`: another service decides who may
    /// subscribe, here for pages of one other site.
    #[track_caller]
    fn with_auth(gateway: SocketAddr, service: SocketAddr, origin: &str) -> Self {
        let addr = own_addr();
        let dir = Scratch::new("nginx");
        copied("proxy.conf", "gateway:8080", &gateway.to_string(), dir.path());
        let example = shipped("auth.conf.example");
        // The lines that the example's comments want in the http block.
        let maps = example.lines().filter_map(|line| line.strip_prefix("#   "));
        let maps: String = maps.map(|line| format!("{line}\n")).collect();
        let maps = maps.replace("https://app.example.org", origin);
        let listen = format!("listen {addr} ");
        let conf = shipped("nginx.conf").replace("listen 8080 ", &listen);
        let conf = conf.replace("    server {", &format!("{maps}\n    server {{"));
        std::fs::write(dir.path().join("nginx.conf"), conf).unwrap();
        Self::started(addr, dir, &example.replace("auth:9000", &service.to_string()))
    }

    #[track_caller]
    fn started(addr: SocketAddr, dir: Scratch, locations: &str) -> Self {
        std::fs::write(dir.path().join("gateway.conf"), locations).unwrap();
        let prefix = dir.path().join("prefix");
        std::fs::create_dir(&prefix).unwrap();
        let mut command = Command::new("nginx");
        command.args(["-e", "stderr", "-p"]).arg(prefix).arg("-c");
        command.arg(dir.path().join("nginx.conf")).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Debian installs nginx where only an administrator's PATH leads.
        let path = std::env::var_os("PATH").unwrap_or_default().into_string().unwrap();
        let process = spawn(command.env("PATH", format!("{path}:/usr/sbin")), "nginx-light");
        let mut process = process.gently(BOUND);
        let logs = read_logs(process.stdout.take().unwrap(), process.stderr.take().unwrap());
        let mut nginx = Nginx { addr, process, logs: Some(logs), _dir: dir };
        eventually("nginx is healthy", || {
            if let Some(status) = nginx.process.ended() {
                panic!("nginx ended at its start, {status}: {}", nginx.read_to_end());
            }
            TcpStream::connect(addr).is_ok() && nginx.get("/nginx-health", &[]).status == 200
        });
        nginx
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        request(self.addr, "GET", path, headers, b"")
    }

    fn post(&self, path: &str, body: &[u8]) -> Answer {
        request(self.addr, "POST", path, &[], body)
    }

    /// Opens a stream and reads its opening checkpoint.
    fn live(&self, query: &str) -> Subscriber {
        let mut subscriber = Subscriber::open(self.addr, query, &[]);
        assert_eq!(subscriber.next().event, "checkpoint");
        subscriber
    }

    /// Ends nginx, and returns everything that it logged.
    fn stop(mut self) -> String {
        self.process.end();
        self.read_to_end()
    }

    fn read_to_end(&mut self) -> String {
        let (access, errors) = self.logs.take().expect("read once");
        access.join().unwrap() + &errors.join().unwrap()
    }
}

fn shipped(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nginx").join(name);
    std::fs::read_to_string(file).unwrap()
}

#[track_caller]
fn copied(name: &str, from: &str, to: &str, dir: &Path) {
    let text = shipped(name);
    assert_eq!(text.matches(from).count(), 1, "{name} says {from:?} once");
    std::fs::write(dir.join(name), text.replace(from, to)).unwrap();
}

/// Reads the logs all the time, because a full pipe would block nginx.
fn read_logs(access: ChildStdout, errors: ChildStderr) -> (JoinHandle<String>, JoinHandle<String>) {
    fn read(mut log: impl Read + Send + 'static) -> JoinHandle<String> {
        std::thread::spawn(move || {
            let mut text = String::new();
            log.read_to_string(&mut text).expect("a log");
            text
        })
    }
    (read(access), read(errors))
}

#[test]
fn each_event_passes_at_once_whatever_its_size() {
    let gateway = TestGateway::memory(&[]);
    let nginx = Nginx::before(gateway.addr);
    let mut subscriber = nginx.live("channel=demo");
    for size in [1, 2, 20_000, 3, 1 << 20, 4] {
        // Read before the next publish, which could push the event out of a buffer.
        let data = "x".repeat(size);
        let answer = nginx.post("/channels/demo?event=tick", data.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.body);
        let block = subscriber.event();
        assert_eq!((block.event.as_str(), block.data.len()), ("tick", size));
        assert_eq!(answer.json()["id"], block.id.as_str());
    }
    let large = nginx.post("/channels/demo", &vec![b'x'; (1 << 20) + 1]);
    assert_eq!(large.status, 413, "the gateway's limit, told by the gateway");
    assert_eq!(large.json()["type"], "urn:sse-gateway:too-large");
    drop(subscriber);
    gateway.settled();
}

/// If the answer were lost, nginx would answer 502, which publishers repeat, as the guide says.
#[test]
fn a_refusal_passes_nginx_while_the_body_is_still_sent() {
    let gateway = TestGateway::memory(&[]);
    let nginx = Nginx::before(gateway.addr);
    let body = vec![b'x'; 20_000_000];
    for _ in 0..8 {
        let large = nginx.post("/channels/demo", &body);
        assert_eq!(large.status, 413, "{}", large.body);
        assert_eq!(large.json()["type"], "urn:sse-gateway:too-large");
        let unnamed = nginx.post("/publish", &body);
        assert_eq!(unnamed.status, 415, "{}", unnamed.body);
    }
}

#[test]
fn a_drained_stream_stays_unfinished_behind_nginx() {
    let gateway = TestGateway::memory(&[("drain.spread", "0s")]);
    let nginx = Nginx::before(gateway.addr);
    let subscriber = nginx.live("channel=demo");
    gateway.stop();
    let mut reader = subscriber.into_reader();
    let mut words = String::new();
    reader.read_to_string(&mut words).unwrap();
    assert!(words.starts_with("retry: ") && !reader.get_ref().is_whole(), "{words:?}");
}

#[test]
fn an_escaped_slash_stays_part_of_the_name() {
    let gateway = TestGateway::memory(&[]);
    let nginx = Nginx::before(gateway.addr);
    let mut subscriber = nginx.live("channel=a%2Fb");
    let answer = nginx.post("/channels/a%2Fb", b"hello");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(subscriber.event().id, answer.json()["id"].as_str().unwrap());
    drop(subscriber);
    gateway.settled();
}

#[test]
fn without_a_gateway_streams_are_to_come_back_and_publishes_fail() {
    let gateway = TestGateway::memory(&[]);
    let nginx = Nginx::before(gateway.addr);
    gateway.stop();
    for accept in [&[][..], &[("Accept", "text/event-stream")], &[("Accept", "*/*")]] {
        let answer = nginx.get("/events?channel=demo", accept);
        assert_eq!(answer.status, 200, "{}", answer.head);
        assert!(
            answer.head.contains("Content-Type: text/event-stream; charset=utf-8"),
            "{}",
            answer.head
        );
        assert!(answer.head.contains("Cache-Control: no-store"), "{}", answer.head);
        let retry = answer.body.strip_prefix("retry: ").and_then(|rest| rest.strip_suffix('\n'));
        let ms: u32 = retry.and_then(|ms| ms.parse().ok()).unwrap_or_else(|| panic!("{answer:?}"));
        assert!((2000..5000).contains(&ms), "{ms}");
    }
    let json = nginx.get("/events?channel=demo", &[("Accept", "application/json")]);
    assert_eq!(json.status, 503);
    assert!(json.head.contains("Retry-After: 3"), "{}", json.head);
    let publish = nginx.post("/channels/demo", b"hello");
    assert!(matches!(publish.status, 502 | 503), "{publish:?}");
    assert!(matches!(nginx.post("/publish", b"{}").status, 502 | 503));
}

#[test]
fn nothing_of_a_query_string_is_logged() {
    let gateway = TestGateway::memory(&[]);
    let nginx = Nginx::before(gateway.addr);
    drop(nginx.live("channel=secret-channel&channel=secret-other"));
    gateway.settled();
    assert_eq!(nginx.post("/channels/demo?event=secret-type", b"secret-data").status, 200);
    assert_eq!(nginx.get("/events?channel=secret%20name", &[]).status, 400);
    gateway.stop();
    assert_eq!(nginx.get("/events?channel=secret-too", &[]).status, 200);
    let referrer = [("Referer", "http://x/?secret-page")];
    assert_eq!(nginx.get("/none?secret-argument", &referrer).status, 502);
    let logs = nginx.stop();
    assert!(!logs.contains("secret") && !logs.contains("channel="), "{logs}");
    let lines = logs.lines().map(|line| serde_json::from_str(line).unwrap());
    let seen: Vec<(String, u64)> = lines
        .map(|line: serde_json::Value| {
            (line["path"].as_str().unwrap().to_owned(), line["status"].as_u64().unwrap())
        })
        .collect();
    for expected in [("/events", 400), ("/channels/demo", 200), ("/events", 200), ("/none", 502)] {
        assert!(seen.iter().any(|(p, s)| (p.as_str(), *s) == expected), "{expected:?}: {seen:?}");
    }
}

#[test]
fn a_page_behind_nginx_survives_a_restart_of_its_only_gateway() {
    let redis = Redis::start();
    let addr = own_addr().to_string();
    let start = || TestGateway::redis(&redis, &[("server.listen", &addr), ("stream.retry", "1s")]);
    let gateway = start();
    let nginx = Nginx::before(gateway.addr);
    let browser = Browser::open();
    let page = EventSource::open(&browser, nginx.addr, "channel=demo", &["gap"]);
    live(&gateway, 1);
    let before = gateway.publish("demo", "before");
    page.wait_for(1);
    gateway.stop();
    // The first error is the end of the drained stream. The second is that of nginx's own answer.
    eventually("nginx has sent it away", || page.errors().len() >= 2);
    let away = redis.fcall("demo", "while it was away");
    let gateway = start();
    live(&gateway, 1);
    let after = gateway.publish("demo", "after");
    let heard: Vec<String> = page.wait_for(3).into_iter().map(|event| event.id).collect();
    assert_eq!(heard, [before, away, after]);
    assert!(page.errors().iter().all(|state| *state == 0), "{:?}", page.errors());
    page.close();
    gateway.settled();
}

/// `auth.conf.example` across origins: with its cookies a page of a listed site may subscribe, and
/// it can read why it was refused. A page of another site cannot read that.
#[test]
fn another_service_says_who_may_listen() {
    let gateway = TestGateway::memory(&[("cors.origins", "https://app.example")]);
    let service = Server::new(says(204, ""));
    let nginx = Nginx::with_auth(gateway.addr, service.addr, "https://app.example");
    let origin = ("Origin", "https://app.example");
    let cookie = ("Cookie", "session=s1");
    let mut stream = Subscriber::open(nginx.addr, "channel=demo", &[origin, cookie]);
    assert!(stream.head.starts_with("HTTP/1.1 200"), "{}", stream.head);
    let head = stream.head.to_ascii_lowercase();
    assert!(head.contains("access-control-allow-origin: https://app.example\r\n"), "{head}");
    stream.opening();
    gateway.publish("demo", "x");
    assert_eq!(stream.event().data, "x");
    let asked = service.heads();
    assert!(
        asked[0].contains("session=s1")
            && asked[0].contains("X-Original-URI: /events?channel=demo\r\n"),
        "{asked:?}"
    );

    // A preflight carries no cookie, so the service is not asked about it.
    let preflight = [
        origin,
        ("Access-Control-Request-Method", "GET"),
        ("Access-Control-Request-Headers", "authorization,last-event-id"),
    ];
    let answer = request(nginx.addr, "OPTIONS", "/events?channel=demo", &preflight, b"");
    assert!(answer.status < 300, "{}: {}", answer.status, answer.head);
    assert!(
        answer.head.to_ascii_lowercase().contains("access-control-allow-headers"),
        "{}",
        answer.head
    );
    assert_eq!(service.heads().len(), 1);

    for (status, word) in [(401, "authentication-required"), (403, "subscribe-denied")] {
        service.behave(says(status, "the service's own words"));
        let answer = nginx.get("/events?channel=demo", &[origin]);
        assert_eq!(answer.status, status);
        assert!(answer.body.contains(word), "{}", answer.body);
        let head = answer.head.to_ascii_lowercase();
        assert!(head.contains("access-control-allow-origin: https://app.example\r\n"), "{head}");
        assert!(head.contains("access-control-allow-credentials: true\r\n"), "{head}");
        assert_eq!(head.contains("www-authenticate"), status == 401, "{head}");
        // The answer to a page of another site has no CORS header.
        let other = nginx.get("/events?channel=demo", &[("Origin", "https://evil.example")]);
        assert!(
            !other.head.to_ascii_lowercase().contains("access-control-allow-origin"),
            "{}",
            other.head
        );
    }
    // A failure of the service must not end an EventSource.
    service.behave(says(500, ""));
    let answer = nginx.get("/events?channel=demo", &[("Accept", "text/event-stream")]);
    assert!(
        answer.status == 200 && answer.body.starts_with("retry: "),
        "{}: {}",
        answer.status,
        answer.body
    );
    drop(stream);
    gateway.settled();
}

/// `auth.conf.example` allows streams only: no publishing from outside, and no history.
#[test]
fn behind_another_services_door_there_are_streams_alone() {
    let gateway = TestGateway::memory(&[("cors.origins", "https://app.example")]);
    let service = Server::new(says(204, ""));
    let nginx = Nginx::with_auth(gateway.addr, service.addr, "https://app.example");
    let cookie = ("Cookie", "session=s1");
    for (method, path) in [
        ("POST", "/channels/demo"),
        ("POST", "/publish"),
        ("GET", "/channels/demo/history"),
        ("POST", "/events?channel=demo"),
        ("GET", "/sse-auth"),
    ] {
        let answer = request(nginx.addr, method, path, &[cookie], b"x");
        assert!(matches!(answer.status, 403 | 404), "{method} {path}: {}", answer.status);
    }
}
