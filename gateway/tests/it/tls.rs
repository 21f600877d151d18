//! Tests of TLS on the gateway's own ports and towards Redis: real handshakes, real certificates,
//! other people's clients.
//!
//! Each test makes its certificates with openssl, and an authority for them.

mod redis;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use sse_gateway::stream::close_reason::CloseReason;

use crate::event_source::EventSource;
use crate::support::{
    Answer, Block, Process, Scratch, Signal, Subscriber, TestGateway, connect, eventually,
    own_addr, read_answer, request, request_on, spawn,
};
use crate::webdriver::Browser;

/// A certificate authority, and the files that it has made.
struct Authority {
    dir: Scratch,
}

/// A certificate and its key, as files.
#[derive(Clone)]
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

impl Authority {
    fn new() -> Self {
        let authority = Authority { dir: Scratch::new("tls") };
        // Each authority has a name of its own. If a client knew the name, it would complain of the
        // signature instead of the authority.
        let subject = format!("/CN=authority {:x}", fastrand::u64(..));
        let options = ["-subj", &subject, "-addext", "keyUsage=critical,keyCertSign"];
        authority.openssl("ca", &options);
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The authority's own certificate.
    fn certificate(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A certificate for this machine, or for a client of this name.
    fn signs(&self, name: &str) -> Pair {
        self.signs_for(name, Ipv4Addr::LOCALHOST.into())
    }

    /// A certificate for a server at this address.
    fn signs_for(&self, name: &str, host: IpAddr) -> Pair {
        let subject = format!("/CN={name}");
        let names = &format!("subjectAltName=DNS:localhost,IP:{host}");
        let end = "basicConstraints=critical,CA:FALSE";
        let options = ["-CA", "ca.pem", "-CAkey", "ca.key", "-subj", &subject, "-addext", names];
        self.openssl(name, &[&options[..], &["-addext", end]].concat())
    }

    fn openssl(&self, name: &str, options: &[&str]) -> Pair {
        let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        openssl.args(["-nodes", "-days", "2", "-keyout", &key, "-out", &certificate]).args(options);
        openssl.current_dir(self.dir.path()).stderr(Stdio::null());
        assert!(spawn(&mut openssl, "openssl").wait().unwrap().success());
        Pair { certificate: self.path(&certificate), key: self.path(&key) }
    }

    /// A gateway with a certificate of this authority.
    fn gateway(&self, settings: &[(&str, &str)]) -> TestGateway {
        let pair = self.signs("gateway");
        let pair = pair.settings();
        let pair = pair.iter().map(|(key, value)| (*key, value.as_str()));
        TestGateway::memory(&pair.chain(settings.iter().copied()).collect::<Vec<_>>())
    }

    /// A client that trusts this authority alone.
    fn client(&self) -> Client {
        self.client_with(None, &[&TLS12, &TLS13])
    }

    fn client_with(
        &self,
        own: Option<&Pair>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.certificate()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = vec![CertificateDer::from_pem_file(&pair.certificate).unwrap()];
                let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        Client(Arc::new(config))
    }
}

impl Pair {
    fn settings(&self) -> [(&'static str, String); 2] {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        [("tls.certificate", text(&self.certificate)), ("tls.key", text(&self.key))]
    }
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A client of HTTP/1.1 over TLS.
#[derive(Clone)]
struct Client(Arc<ClientConfig>);

impl Client {
    fn connect(&self, addr: SocketAddr) -> Stream {
        self.on(connect(addr))
    }

    fn on(&self, socket: TcpStream) -> Stream {
        let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        StreamOwned::new(ClientConnection::new(self.0.clone(), name).unwrap(), socket)
    }

    fn subscribe(&self, addr: SocketAddr, query: &str) -> Subscriber {
        let stream = self.connect(addr);
        let socket = stream.sock.try_clone().unwrap();
        Subscriber::over(stream, socket, query, &[])
    }

    /// Opens a stream and reads its opening checkpoint.
    fn live(&self, addr: SocketAddr, query: &str) -> Subscriber {
        let mut subscriber = self.subscribe(addr, query);
        subscriber.opening();
        subscriber
    }

    fn request(&self, addr: SocketAddr, method: &str, path: &str, body: &[u8]) -> Answer {
        request_on(self.connect(addr), method, path, &[], body)
    }

    #[track_caller]
    fn publish(&self, addr: SocketAddr, channel: &str, data: &str) {
        let answer = self.request(addr, "POST", &format!("/channels/{channel}"), data.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// Sends a request for a stream, and reads up to its first checkpoint.
    fn stream(&self, addr: SocketAddr, channel: &str) -> Stream {
        let mut stream = self.connect(addr);
        let request = format!("GET /events?channel={channel} HTTP/1.1\r\nHost: test\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        read_until(&mut stream, "event: checkpoint");
        stream
    }

    /// The leaf certificate that a server shows.
    fn shown(&self, addr: SocketAddr) -> CertificateDer<'static> {
        // A resumed session shows no certificate, so nothing of an earlier connection may be left.
        let mut config = (*self.0).clone();
        config.resumption = rustls::client::Resumption::disabled();
        let mut stream = Client(Arc::new(config)).connect(addr);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
        assert_eq!(read_answer(&mut stream).status, 200);
        stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

fn read_until(stream: &mut impl Read, text: &str) -> String {
    let mut got = Vec::new();
    let mut chunk = [0; 4096];
    while !String::from_utf8_lossy(&got).contains(text) {
        let n = stream.read(&mut chunk).expect("bytes within the bound");
        assert_ne!(n, 0, "closed before {text:?}: {}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&chunk[..n]);
    }
    String::from_utf8_lossy(&got).into_owned()
}

/// The next events of a stream without their ids, which differ between gateways.
fn events(subscriber: &mut Subscriber, count: usize) -> Vec<(String, String)> {
    let event = |block: Block| (block.event, block.data);
    (0..count).map(|_| event(subscriber.event())).collect()
}

#[test]
fn a_stream_over_tls_is_a_plain_one_to_its_reader() {
    let authority = Authority::new();
    let plain = TestGateway::memory(&[]);
    let taken = authority.gateway(&[("stream.takeover", "true")]);
    let body = authority.gateway(&[("stream.takeover", "false")]);
    let client = authority.client();
    for version in [&TLS12, &TLS13] {
        let of_version = authority.client_with(None, &[version]);
        let mut readers = [
            plain.live("channel=a&channel=b"),
            of_version.live(taken.addr, "channel=a&channel=b"),
            of_version.live(body.addr, "channel=a&channel=b"),
        ];
        for n in 0..50 {
            let (channel, data) = (["a", "b"][n % 2], "x".repeat(n * n * 7));
            plain.publish(channel, &data);
            client.publish(taken.addr, channel, &data);
            client.publish(body.addr, channel, &data);
        }
        let [plain, taken, body] = readers.each_mut().map(|reader| events(reader, 50));
        assert_eq!(plain, taken, "{version:?}");
        assert_eq!(plain, body, "{version:?}");
        // The heads are equal but for the date.
        let [plain, taken, body] = readers.map(|reader| {
            let lines = reader.head.lines().filter(|line| !line.starts_with("date"));
            let mut lines: Vec<String> = lines.map(str::to_owned).collect();
            lines.sort();
            lines
        });
        assert_eq!((&plain, &plain), (&taken, &body));
    }
    for gateway in [plain, taken, body] {
        gateway.settled();
    }
}

/// The hub has nothing to write for an hour, so it hears of the end only by what the client sends.
#[test]
fn the_clients_end_is_heard_without_a_publish() {
    let authority = Authority::new();
    let gateway = authority.gateway(&[("stream.heartbeat", "1h"), ("stream.takeover", "true")]);
    for version in [&TLS12, &TLS13] {
        let client = authority.client_with(None, &[version]);
        let mut closes = client.stream(gateway.addr, "a");
        let ends = client.stream(gateway.addr, "a");
        let breaks = client.stream(gateway.addr, "a");
        let talks = client.stream(gateway.addr, "a");
        closes.conn.send_close_notify();
        closes.flush().unwrap();
        eventually("an end of the session is heard", || gateway.sum(|c| c.subscribers.get()) == 3);
        ends.sock.shutdown(Shutdown::Write).unwrap();
        eventually("an end of the connection is heard", || {
            gateway.sum(|c| c.subscribers.get()) == 2
        });
        (&breaks.sock).write_all(b"what is no record").unwrap();
        eventually("what is no TLS is an end", || gateway.sum(|c| c.subscribers.get()) == 1);
        drop(talks);
        gateway.settled();
    }
}

/// The session has read the requests and the end at once, so nothing is left in the socket for the
/// hub to read.
#[test]
fn a_client_that_ends_behind_its_requests_is_heard() {
    let authority = Authority::new();
    let gateway = authority.gateway(&[("stream.heartbeat", "1h"), ("stream.takeover", "true")]);
    for more in [0, 40] {
        let Stream { mut conn, mut sock } = authority.client().connect(gateway.addr);
        while conn.is_handshaking() {
            conn.complete_io(&mut sock).unwrap();
        }
        let request = "GET /events?channel=a HTTP/1.1\r\nHost: test\r\n\r\n";
        conn.writer().write_all(request.repeat(1 + more).as_bytes()).unwrap();
        conn.send_close_notify();
        let mut wire = Vec::new();
        conn.write_tls(&mut wire).unwrap();
        let opened = gateway.sum(|c| c.opened.get());
        sock.write_all(&wire).unwrap();
        // The gateway ends the connection, whether it was a stream for a moment or not.
        let _ = sock.read_to_end(&mut Vec::new());
        eventually("it is no stream any more", || gateway.sum(|c| c.subscribers.get()) == 0);
        assert!(gateway.sum(|c| c.opened.get()) <= opened + 1);
    }
}

#[test]
fn what_a_client_sends_on_a_stream_is_thrown_away_within_bounds() {
    let authority = Authority::new();
    let gateway = authority.gateway(&[("stream.heartbeat", "1h"), ("stream.takeover", "true")]);
    let mut stream = authority.client().stream(gateway.addr, "a");
    stream.write_all(&[b'x'; 100_000]).unwrap();
    authority.client().publish(gateway.addr, "a", "still there");
    read_until(&mut stream, "still there");
    let beyond = stream.write_all(&[b'x'; 200_000]);
    eventually("it is closed", || gateway.sum(|c| c.subscribers.get()) == 0);
    drop(beyond);
}

#[test]
fn new_keys_from_the_client_are_taken_and_answered() {
    let authority = Authority::new();
    let gateway = authority.gateway(&[("stream.heartbeat", "1h"), ("stream.takeover", "true")]);
    let client = authority.client_with(None, &[&TLS13]);
    let mut stream = client.stream(gateway.addr, "a");
    for n in 0..5 {
        stream.conn.refresh_traffic_keys().unwrap();
        stream.write_all(b"\r\n").unwrap();
        let text = format!("under the keys {n}");
        client.publish(gateway.addr, "a", &text);
        read_until(&mut stream, &text);
    }
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    gateway.settled();
}

/// However much a socket takes at a time, every byte comes once and in order.
#[test]
fn slow_readers_of_large_events_lose_nothing() {
    let authority = Authority::new();
    let gateway = authority.gateway(&[("history.memory_bytes", "1073741824")]);
    let client = authority.client();
    let narrow = || {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(8 * 1024).unwrap();
        socket.connect(&gateway.addr.into()).unwrap();
        let socket: TcpStream = socket.into();
        let stream = client.on(socket.try_clone().unwrap());
        let mut subscriber = Subscriber::over(stream, socket, "channel=a", &[]);
        subscriber.opening();
        subscriber
    };
    let mut readers = [narrow(), narrow(), client.live(gateway.addr, "channel=a")];
    let data = |n: usize| {
        let size = [1 << 20, 10, 16_384, 16_383, 300_000][n % 5];
        char::from(b'a' + n as u8).to_string().repeat(size)
    };
    for n in 0..20 {
        client.publish(gateway.addr, "a", &data(n));
    }
    for reader in &mut readers {
        for n in 0..20 {
            let block = reader.event();
            assert_eq!(block.event, "", "no gap: {}", &block.data[..block.data.len().min(100)]);
            assert!(block.data == data(n), "event {n}");
        }
    }
    drop(readers);
    gateway.settled();
}

#[test]
fn a_changed_certificate_is_shown_to_new_connections_and_ends_no_stream() {
    let authority = Authority::new();
    let (first, second) = (authority.signs("first"), authority.signs("second"));
    let live = Pair { certificate: authority.path("live.pem"), key: authority.path("live.key") };
    let put = |from: &Path, to: &Path| {
        // As tools do that renew certificates: the file is written beside the old one, then
        // renamed.
        let new = to.with_extension("new");
        std::fs::copy(from, &new).unwrap();
        std::fs::rename(new, to).unwrap();
    };
    put(&first.certificate, &live.certificate);
    put(&first.key, &live.key);
    let settings = live.settings();
    let settings = settings.each_ref().map(|(key, value)| (*key, value.as_str()));
    let gateway = TestGateway::memory(&settings);
    let client = authority.client();
    let leaf = |pair: &Pair| CertificateDer::from_pem_file(&pair.certificate).unwrap();
    let reads = |result| gateway.metrics.certificate_reads.with_label_values(&[result]).get();
    assert_eq!(client.shown(gateway.addr), leaf(&first));
    let mut stream = client.live(gateway.addr, "channel=a");
    // Only the certificate is new, and does not fit the key.
    put(&second.certificate, &live.certificate);
    eventually("the half is read", || reads("failed") == 1);
    assert_eq!(client.shown(gateway.addr), leaf(&first));
    put(&second.key, &live.key);
    eventually("the whole is read", || reads("ok") == 1);
    assert_eq!(client.shown(gateway.addr), leaf(&second));
    std::fs::write(&live.certificate, "what is no certificate").unwrap();
    eventually("it is read", || reads("failed") == 2);
    assert_eq!(client.shown(gateway.addr), leaf(&second));
    client.publish(gateway.addr, "a", "on the old stream");
    assert_eq!(stream.event().data, "on the old stream");
    drop(stream);
    gateway.settled();
}

#[test]
fn http_without_tls_is_told_what_to_do() {
    let authority = Authority::new();
    let gateway = authority.gateway(&[("tls.admin", "true")]);
    for (addr, path) in [(gateway.addr, "/events?channel=a"), (gateway.admin, "/metrics")] {
        let answer = request(addr, "GET", path, &[], b"");
        assert_eq!(answer.status, 400);
        assert_eq!(answer.json()["type"], "urn:sse-gateway:invalid-request");
        assert!(answer.body.contains("https://"), "{}", answer.body);
    }
}

/// A connection in its handshake is a guest, like any connection that has not asked for anything.
#[test]
fn handshakes_that_stall_are_bounded_in_number_and_time() {
    let authority = Authority::new();
    let gateway = authority.gateway(&[("server.max_requests", "8")]);
    // Sends the first bytes of a handshake record, of which the rest never comes.
    let stall = |bytes: &[u8]| {
        let mut stream = connect(gateway.addr);
        stream.write_all(bytes).unwrap();
        stream
    };
    let stalled: Vec<TcpStream> =
        (0..40).map(|n| stall(&b"\x16\x03\x01\x02\x00\x01"[..n % 7])).collect();
    authority.client().publish(gateway.addr, "a", "there is room");
    let rejected = |reason| gateway.metrics.rejected.with_label_values(&[reason]).get();
    assert!(rejected("crowded") >= 32, "{}", rejected("crowded"));
    // The remaining connections end by their own timeout.
    for mut stream in stalled {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    eventually("all are counted", || rejected("handshake") == 40);
}

#[test]
fn publishing_may_take_a_certificate() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let ca = authority.certificate();
    let ca = ca.to_str().unwrap();
    let settings = [("tls.client_ca", ca), ("tls.publish_needs_certificate", "true")];
    let gateway = authority.gateway(&settings);
    let anybody = authority.client();
    let mut stream = anybody.live(gateway.addr, "channel=a");
    for path in ["/channels/a", "/publish"] {
        let answer = anybody.request(gateway.addr, "POST", path, b"x");
        assert_eq!(answer.status, 403, "{}", answer.body);
        assert_eq!(answer.json()["type"], "urn:sse-gateway:certificate-required");
    }
    let versions = &[&TLS12, &TLS13][..];
    let publisher = authority.client_with(Some(&authority.signs("publisher")), versions);
    publisher.publish(gateway.addr, "a", "by a publisher");
    assert_eq!(stream.event().data, "by a publisher");
    for version in versions {
        let foreign = authority.client_with(Some(&stranger.signs("stranger")), &[version]);
        let mut stream = foreign.connect(gateway.addr);
        let _ = stream.write_all(b"POST /channels/a HTTP/1.1\r\nContent-Length: 1\r\n\r\nx");
        let error = stream.read(&mut [0; 100]).expect_err("it is refused");
        assert!(error.to_string().contains("UnknownCA"), "{error}");
    }
    drop(stream);
    gateway.settled();
    let lenient = authority.gateway(&[("tls.client_ca", ca)]);
    anybody.publish(lenient.addr, "a", "by anybody");
}

#[test]
fn the_admin_port_speaks_tls_as_well() {
    let authority = Authority::new();
    let ca = authority.certificate();
    let gateway =
        authority.gateway(&[("tls.client_ca", ca.to_str().unwrap()), ("tls.admin", "true")]);
    let anybody = authority.client();
    for path in ["/healthz", "/readyz"] {
        let answer = anybody.request(gateway.admin, "GET", path, b"");
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    }
    let refused = anybody.request(gateway.admin, "GET", "/metrics", b"");
    assert_eq!(refused.status, 403, "{}", refused.body);
    assert_eq!(refused.json()["type"], "urn:sse-gateway:certificate-required");
    let own = authority.signs("operator");
    let operator = authority.client_with(Some(&own), &[&TLS13]);
    let metrics = operator.request(gateway.admin, "GET", "/metrics", b"");
    assert!(metrics.body.contains("sse_subscribers"), "{}", metrics.body);
    drop(gateway);
    let open = authority.gateway(&[("tls.admin", "true")]);
    assert_eq!(anybody.request(open.admin, "GET", "/metrics", b"").status, 200);
    drop(open);
    let half = authority.gateway(&[]);
    assert_eq!(half.admin("/readyz").status, 200, "its public port speaks TLS");
}

#[test]
fn a_stream_that_is_drained_ends_unfinished() {
    let authority = Authority::new();
    for takeover in ["true", "false"] {
        let mut gateway = authority.gateway(&[("stream.takeover", takeover)]);
        let mut stream = authority.client().live(gateway.addr, "channel=a");
        gateway.drain();
        while stream.read().is_some() {}
        assert!(stream.retry.is_some(), "it is told when to come back");
        assert!(!stream.into_reader().get_ref().is_whole(), "its body has no end");
        gateway.stop();
    }
}

impl Authority {
    fn curl(&self, addr: SocketAddr, path: &str, options: &[&str]) -> Process {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-N", "--cacert"]).arg(self.certificate()).args(options);
        curl.arg(format!("https://{addr}{path}")).stdout(Stdio::piped()).stderr(Stdio::piped());
        spawn(&mut curl, "curl")
    }
}

#[test]
fn a_stream_of_http2_is_served_and_drained() {
    let authority = Authority::new();
    let mut gateway = authority.gateway(&[("stream.heartbeat", "1s")]);
    let client = authority.client();
    let mut curl = authority.curl(gateway.addr, "/events?channel=a", &["--http2", "-i"]);
    let mut lines = BufReader::new(curl.stdout.take().unwrap()).lines();
    let mut line = || lines.next().map(|line| line.unwrap().trim_end().to_owned());
    assert_eq!(line().as_deref(), Some("HTTP/2 200"));
    while line().expect("a checkpoint") != "event: checkpoint" {}
    let large = "x".repeat(1 << 20);
    client.publish(gateway.addr, "a", &large);
    let whole = format!("data: {large}");
    while line().expect("the event") != whole {}
    while line().expect("a heartbeat") != "event: checkpoint" {}
    gateway.drain();
    while line().is_some() {}
    // "Stream error in the HTTP/2 framing layer": the stream was reset, not ended.
    assert_eq!(curl.wait().unwrap().code(), Some(92));
    gateway.stop();
}

#[test]
fn streams_of_http2_are_told_the_channels_they_ask_for() {
    let authority = Authority::new();
    let gateway = authority.gateway(&[]);
    let client = authority.client();
    let mut streams =
        ["channel=a&channel=b", "channel=a&channel=b&annotate=channel"].map(|query| {
            let mut curl =
                authority.curl(gateway.addr, &format!("/events?{query}"), &["--http2", "-i"]);
            let mut lines = BufReader::new(curl.stdout.take().unwrap()).lines();
            assert_eq!(lines.next().unwrap().unwrap().trim_end(), "HTTP/2 200");
            while lines.next().expect("a checkpoint").unwrap() != "event: checkpoint" {}
            (curl, lines)
        });
    client.publish(gateway.addr, "a", "first");
    client.publish(gateway.addr, "b", "last");
    for ((_, lines), expected) in streams.iter_mut().zip([
        vec!["data: first", "data: last"],
        vec!["data: a", "data: first", "data: b", "data: last"],
    ]) {
        let mut data = Vec::new();
        while data.last().is_none_or(|line| line != "data: last") {
            let line = lines.next().expect("the stream goes on").unwrap();
            data.extend(line.starts_with("data: ").then_some(line));
        }
        assert_eq!(data.split_off(data.len() - expected.len()), expected);
        assert!(data.len() <= 1 && data.iter().all(|line| line.contains("from")), "{data:?}");
    }
    drop(streams);
    gateway.settled();
}

/// Runs a script in Node.js, with an open session of HTTP/2.
fn node(authority: &Authority, addr: SocketAddr, script: &str) -> Process {
    let begin = format!(
        "const ca = require('fs').readFileSync({:?});
         const session = require('http2').connect('https://{addr}', {{ ca }});
         session.on('error', () => {{}});
         session.on('close', () => console.log('closed'));",
        authority.certificate().to_str().unwrap(),
    );
    let mut node = Command::new("node");
    node.args(["-e", &(begin + script)]).stdin(Stdio::piped()).stdout(Stdio::piped());
    spawn(&mut node, "nodejs")
}

/// Otherwise a browser, which keeps its connection, would delay the stop until the drain's
/// deadline.
#[test]
fn an_idle_connection_of_http2_does_not_hold_the_stop() {
    let authority = Authority::new();
    let mut gateway = authority.gateway(&[("drain.deadline", "1h")]);
    let script = "const asked = session.request({ ':path': '/' });
        asked.on('end', () => console.log('answered')).resume()";
    let mut node = node(&authority, gateway.addr, script);
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "answered");
    gateway.drain();
    assert_eq!(lines.next().unwrap().unwrap(), "closed");
    gateway.stop();
}

/// actix owns the body of this stream, which waits for an event that never comes.
#[test]
fn a_connection_of_http2_that_ends_is_heard_without_a_publish() {
    let authority = Authority::new();
    let gateway = authority.gateway(&[("stream.heartbeat", "1h")]);
    let curl = authority.curl(gateway.addr, "/events?channel=a", &["--http2"]);
    eventually("it is open", || gateway.sum(|c| c.subscribers.get()) == 1);
    drop(curl);
    gateway.settled();
}

/// While a connection has a stream, it is not closed to make room. Once the stream has left, it may
/// be.
#[test]
fn a_connection_of_http2_without_a_stream_makes_room() {
    let authority = Authority::new();
    let settings = [("server.workers", "1"), ("server.max_requests", "3")];
    let gateway = authority.gateway(&settings);
    let script = "const asked = session.request({ ':path': '/events?channel=a' });
        asked.on('error', () => {}).on('data', () => {}).once('data', () => console.log('open'));
        process.stdin.once('data', () => asked.close())";
    let mut node = node(&authority, gateway.addr, script);
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("open"));
    let crowd = || -> Vec<TcpStream> { (0..20).map(|_| connect(gateway.addr)).collect() };
    let first = crowd();
    // This publish comes after the whole crowd.
    authority.client().publish(gateway.addr, "a", "x");
    assert_eq!(gateway.sum(|c| c.subscribers.get()), 1);
    node.stdin.take().unwrap().write_all(b"leave\n").unwrap();
    // The gateway notices that the stream left only when it writes.
    eventually("it left", || {
        authority.client().publish(gateway.addr, "a", "x");
        gateway.sum(|c| c.subscribers.get()) == 0
    });
    let second = crowd();
    assert_eq!(lines.next().as_deref(), Some("closed"));
    drop((first, second));
}

/// Frames that belong to no request may come at any time: an answer to a ping, or a window update.
#[test]
fn a_connection_of_http2_whose_stream_ended_is_not_timed_as_a_head() {
    let authority = Authority::new();
    let gateway = authority.gateway(&[("server.head_timeout", "1s"), ("stream.heartbeat", "1s")]);
    let script = "
        const ping = (left) => session.destroyed ||
            session.ping(() => left ? setTimeout(ping, 50, left - 1) : ask());
        const ask = () => session.request({ ':path': '/' }).on('end', () => console.log('answered')).resume();
        const stream = session.request({ ':path': '/events?channel=a' });
        stream.on('error', () => {}).on('close', () => console.log('left')).once('data', () => stream.close());
        process.stdin.once('data', () => ping(100));";
    let mut node = node(&authority, gateway.addr, script);
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("left"));
    gateway.settled();
    node.stdin.take().unwrap().write_all(b"ping\n").unwrap();
    assert_eq!(lines.next().as_deref(), Some("answered"));
}

#[test]
fn a_connection_of_http2_has_a_bound_of_requests() {
    let authority = Authority::new();
    let gateway = authority.gateway(&[]);
    let script = "
        for (let n = 0; n < 300; n += 1) {
            session.request({ ':path': '/channels/a', ':method': 'POST' }).on('error', () => {});
        }";
    let mut node = node(&authority, gateway.addr, script);
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("closed"));
    authority.client().publish(gateway.addr, "a", "others are served");
}

#[test]
fn a_stream_of_http2_is_told_when_to_come_back() {
    let authority = Authority::new();
    let mut gateway = authority.gateway(&[]);
    let script = "const asked = session.request({ ':path': '/events?channel=a' });
        asked.setEncoding('utf8').on('data', (text) => process.stdout.write(text));
        asked.on('error', () => {}).on('close', () => console.log('reset', asked.rstCode))";
    let mut node = node(&authority, gateway.addr, script);
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line == "event: checkpoint"));
    gateway.drain();
    assert!(lines.any(|line| line.starts_with("retry: ")), "its last words come");
    let end = lines.find(|line| line.starts_with("reset"));
    // CANCEL, after which a browser comes back.
    assert_eq!(end.as_deref(), Some("reset 8"));
    gateway.stop();
}

/// The body of a stream that is not read waits in actix for ever. Only the end of its connection
/// ends it.
#[test]
fn a_stream_of_http2_that_is_not_read_ends_its_connection() {
    let authority = Authority::new();
    let gateway = authority.gateway(&[("stream.progress_deadline", "1s")]);
    let script = "const asked = session.request({ ':path': '/events?channel=a' });
        asked.on('error', () => {}).on('response', () => console.log('open')).pause()";
    let mut node = node(&authority, gateway.addr, script);
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "open");
    for _ in 0..3 {
        authority.client().publish(gateway.addr, "a", &"x".repeat(1 << 20));
    }
    assert_eq!(lines.next().unwrap().unwrap(), "closed");
    gateway.settled();
    assert_eq!(gateway.sum(|c| c.closed[CloseReason::Stalled as usize].get()), 1);
}

/// The lines of a pair's key, which must never be shown.
fn secret_lines(pair: &Pair) -> Vec<String> {
    let text = std::fs::read_to_string(&pair.key).unwrap();
    text.lines().filter(|line| !line.contains("-----")).map(str::to_owned).collect()
}

#[track_caller]
fn told(args: &[&str], code: i32, words: &[&str]) -> String {
    let program = env!("CARGO_BIN_EXE_sse-gateway");
    let output = Command::new(program).args(args).env_clear().output().expect("the program runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
    assert!(text.lines().count() <= 1, "one line: {text}");
    text
}

#[test]
fn a_file_that_is_of_no_use_is_named_with_what_is_wrong() {
    let authority = Authority::new();
    let (good, other) = (authority.signs("good"), authority.signs("other"));
    let file = |name: &str, text: &str| {
        let path = authority.path(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let empty = file("empty.pem", "");
    let torn = file("torn.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n");
    let garbage =
        file("garbage.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
    let sealed =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let sealed = file("sealed.pem", sealed);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (certificate, key) = (text(&good.certificate), text(&good.key));
    let (foreign, ca) = (text(&other.key), text(&authority.certificate()));
    let nowhere = "/nowhere/at-all.pem";
    let cases = [
        (nowhere, key.as_str(), "", "tls.certificate", "No such file"),
        (&certificate, nowhere, "", "tls.key", "No such file"),
        (&empty, &key, "", "tls.certificate", "there is no certificate in it"),
        (&key, &key, "", "tls.certificate", "there is no certificate in it"),
        (&torn, &key, "", "tls.certificate", "END"),
        (&garbage, &key, "", "tls.certificate", "cannot be read"),
        (&certificate, &certificate, "", "tls.key", "there is no private key in it"),
        (&certificate, &sealed, "", "tls.key", "encrypted"),
        (&certificate, &foreign, "", "tls.key", "does not fit the certificate"),
        (&certificate, &key, nowhere, "tls.client_ca", "No such file"),
        (&certificate, &key, &garbage, "tls.client_ca", "not that of an authority"),
    ];
    let mut lines = Vec::new();
    for (certificate, key, client_ca, setting, words) in cases {
        let named = [certificate, key, client_ca];
        let settings = [
            format!("tls.certificate={certificate}"),
            format!("tls.key={key}"),
            format!("tls.client_ca={client_ca}"),
        ];
        let at = ["tls.certificate", "tls.key", "tls.client_ca"].iter().position(|s| *s == setting);
        let words = [setting, named[at.unwrap()], words];
        let mut args: Vec<&str> = settings.iter().flat_map(|s| ["--set", s]).collect();
        lines.push(told(&args, 64, &words));
        args.push("--check-config");
        lines.push(told(&args, 64, &words));
    }
    let redis = format!("redis.ca={empty}");
    let redis = ["--redis", "rediss://127.0.0.1", "--set", &redis, "--check-config"];
    told(&redis, 64, &["redis.ca", "there is no certificate"]);
    let fine = [format!("tls.certificate={certificate}"), format!("tls.key={key}")];
    let ca = format!("tls.client_ca={ca}");
    let fine = ["--set", &fine[0], "--set", &fine[1], "--set", &ca, "--check-config"];
    lines.push(told(&fine, 0, &[]));
    for secret in secret_lines(&good).iter().chain(&secret_lines(&other)) {
        assert!(lines.iter().all(|line| !line.contains(secret)));
    }
}

/// Runs the program with every line that it can log, asks it by its command `healthcheck`, and
/// makes it read its files again.
#[test]
fn the_program_is_found_ready_reads_again_at_a_hangup_and_tells_no_key() {
    let authority = Authority::new();
    let pair = authority.signs("gateway");
    let (addr, admin) = (own_addr(), own_addr());
    let settings = pair.settings().map(|(key, value)| format!("{key}={value}"));
    let (listen, admin_listen) = (addr.to_string(), admin.to_string());
    let mut args = vec!["--listen", &listen, "--admin-listen", &admin_listen];
    let more = ["log.level=trace", "tls.admin=true", &settings[0], &settings[1]];
    args.extend(more.iter().flat_map(|setting| ["--set", setting]));
    let program = || {
        let mut program = Command::new(env!("CARGO_BIN_EXE_sse-gateway"));
        program.args(&args).env_clear();
        program
    };
    let mut running = Process::start(program().stderr(Stdio::piped())).unwrap();
    let mut log = running.stderr.take().unwrap();
    let log = std::thread::spawn(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        text
    });
    eventually("it says that it is ready", || {
        program().arg("healthcheck").stderr(Stdio::null()).status().unwrap().success()
    });
    std::fs::write(&pair.certificate, "what is no certificate").unwrap();
    running.signal(Signal::HUP);
    let client = authority.client();
    let metrics = || client.request(admin, "GET", "/metrics", b"").body;
    eventually("it has read again", || {
        metrics().contains("sse_certificate_reads_total{result=\"failed\"} 1")
    });
    client.live(addr, "channel=a");
    running.signal(Signal::TERM);
    assert!(running.wait().unwrap().success());
    let log = log.join().unwrap();
    assert!(log.contains("the certificate is of no use; the one before stays"), "{log}");
    assert!(log.contains("no certificate in it"), "{log}");
    for secret in secret_lines(&pair) {
        assert!(!log.contains(&secret), "{log}");
    }
}

#[test]
fn chromium_comes_back_over_tls() {
    let authority = Authority::new();
    let pair = authority.signs("gateway");
    let settings = pair.settings();
    let addr = own_addr().to_string();
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .map(|(key, value)| (*key, value.as_str()))
        .chain([("server.listen", addr.as_str()), ("stream.retry", "100ms")])
        .collect();
    let gateway = TestGateway::memory(&settings);
    let browser = Browser::open();
    let origin = format!("https://{addr}");
    let source = EventSource::of(&browser, &origin, "channel=a&checkpoints=off", &["checkpoint"]);
    eventually("it is open", || gateway.sum(|c| c.subscribers.get()) == 1);
    let client = authority.client();
    client.publish(gateway.addr, "a", "before");
    assert_eq!(source.wait_for(1)[0].data, "before");
    gateway.stop();
    let gateway = TestGateway::memory(&settings);
    eventually("it is back", || gateway.sum(|c| c.subscribers.get()) == 1);
    client.publish(gateway.addr, "a", "after");
    eventually("it hears on", || source.heard().iter().any(|heard| heard.data == "after"));
    assert!(source.errors().iter().all(|state| *state == 0), "{:?}", source.errors());
    source.close();
    gateway.settled();
}

/// The configuration in the README's "Put it on the internet", with this test's files instead of
/// its paths.
#[test]
fn what_the_readme_puts_on_the_internet_serves_its_users_and_nobody_else() {
    let readme = include_str!("../../../README.md");
    let toml = readme.split("```toml\n").find(|text| text.starts_with("[server]\n")).unwrap();
    let toml = toml.split("```").next().unwrap();
    assert!(toml.lines().count() <= 10, "ten lines: {toml}");
    let authority = Authority::new();
    let (pair, secret) = (authority.signs("gateway"), authority.path("jwt.secret"));
    std::fs::write(&secret, "a-secret-of-at-least-32-bytes-for-tests\n").unwrap();
    let addr = own_addr();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let toml = toml
        .replace("0.0.0.0:8443", &addr.to_string())
        .replace("/etc/sse/fullchain.pem", &path(&pair.certificate))
        .replace("/etc/sse/privkey.pem", &path(&pair.key))
        .replace("/etc/sse/jwt.secret", &path(&secret));
    let file = authority.path("gateway.toml");
    std::fs::write(&file, &toml).unwrap();
    // It may also listen beyond loopback.
    let checked = |toml: &str| {
        std::fs::write(authority.path("checked.toml"), toml).unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_sse-gateway"));
        program
            .env_clear()
            .arg("--check-config")
            .arg("--config")
            .arg(authority.path("checked.toml"));
        program.stdout(Stdio::null()).status().unwrap().success()
    };
    assert!(checked(&toml.replace(&addr.to_string(), "0.0.0.0:8443")));
    let mut program = Command::new(env!("CARGO_BIN_EXE_sse-gateway"));
    program
        .env_clear()
        .arg("--config")
        .arg(&file)
        .args(["--admin-listen", &own_addr().to_string()]);
    let _running = Process::start(program.stderr(Stdio::null())).unwrap();
    eventually("it listens", || TcpStream::connect(addr).is_ok());
    let client = authority.client();
    let token = crate::access::token(serde_json::json!({ "sub": "42", "publish": "*" }));
    let cookie = format!("sse_token={token}");
    let bearer = format!("Bearer {token}");
    let ask = |method: &str, path: &str, headers: &[(&str, &str)]| {
        request_on(client.connect(addr), method, path, headers, b"hello")
    };
    assert_eq!(ask("GET", "/channels/user:42:mail", &[]).status, 401);
    assert_eq!(ask("GET", "/channels/user:43:mail", &[("Cookie", &cookie)]).status, 403);
    assert_eq!(ask("POST", "/channels/user:42:mail", &[]).status, 401);
    let socket = connect(addr);
    let stream = client.on(socket.try_clone().unwrap());
    let mut subscriber =
        Subscriber::over(stream, socket, "channel=user:42:mail", &[("Cookie", &cookie)]);
    subscriber.opening();
    assert_eq!(ask("POST", "/channels/user:42:mail", &[("Authorization", &bearer)]).status, 200);
    assert_eq!(subscriber.event().data, "hello");
}

/// The body is whole, so the client does not come back.
#[test]
fn a_stream_that_is_revoked_ends_whole() {
    let authority = Authority::new();
    let jwt = "alg=HS256 secret=a-secret-of-at-least-32-bytes-for-tests subscribe=*";
    let gateway = authority.gateway(&[("auth.jwt.keys", jwt)]);
    let bearer = format!("Bearer {}", crate::access::token(serde_json::json!({ "sub": "a" })));
    let socket = connect(gateway.addr);
    let stream = authority.client().on(socket.try_clone().unwrap());
    let mut subscriber =
        Subscriber::over(stream, socket, "channel=a", &[("Authorization", &bearer)]);
    subscriber.opening();
    let answer = request(gateway.admin, "DELETE", "/connections?subject=a", &[], b"");
    assert_eq!(answer.status, 200);
    subscriber.rest();
    assert!(subscriber.into_reader().get_ref().is_whole());
    gateway.settled();
}
