//! A web site around a gateway. It serves a page, modules of `clients/js` and whatever a test
//! adds, and passes streams on to a gateway, as a proxy in front of both does.
//!
//! The test decides how streams end. Tests without pages use the lab's TCP proxy instead, which
//! changes no byte.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use sse_lab::listener::Listener;

use crate::webdriver::Browser;

/// What a service worker does with streams.
#[derive(Debug, Clone, Copy)]
pub enum Worker {
    /// Passes everything through, also streams.
    PassesOn,
    /// Leaves streams to the browser, as the guide recommends.
    LeavesAlone,
}

impl Worker {
    /// The worker's script. It takes over the page as soon as it is installed.
    fn script(self) -> String {
        let leave = match self {
            Worker::PassesOn => "",
            Worker::LeavesAlone => {
                "if (new URL(e.request.url).pathname.endsWith('/events')) return;"
            }
        };
        format!(
            "addEventListener('install', () => skipWaiting());
             addEventListener('activate', (e) => e.waitUntil(clients.claim()));
             addEventListener('fetch', (e) => {{ {leave} e.respondWith(fetch(e.request)); }});"
        )
    }
}

pub struct Site {
    pub addr: SocketAddr,
    state: Arc<Mutex<State>>,
    _listener: Listener,
}

#[derive(Default)]
struct State {
    /// Where streams go. Without it they are answered 503.
    to: Option<SocketAddr>,
    /// Requests for streams that wait for a gateway. `None` while they are passed on at once.
    held: Option<Vec<Asked>>,
    /// Both ends of every stream.
    streams: Vec<[TcpStream; 2]>,
    /// The answer for each path: status, type and body.
    answers: HashMap<String, (u16, &'static str, String)>,
    /// How often each path was asked for.
    counts: HashMap<String, usize>,
}

/// A request whose head was read.
struct Asked {
    client: TcpStream,
    head: Vec<u8>,
}

/// How a proxy ends a stream.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// The body is whole, as when a proxy is told to stop.
    InOrder,
    /// The body ends unfinished.
    Cut,
}

impl Site {
    /// A site that passes streams on to this gateway.
    pub fn before(gateway: SocketAddr) -> Self {
        let state = Arc::new(Mutex::new(State { to: Some(gateway), ..State::default() }));
        let shared = state.clone();
        let listener = Listener::start(move |client| answer(client, &shared));
        let site = Site { addr: listener.addr, state, _listener: listener };
        site.serve("/", 200, "text/html", "<!doctype html><title>A page</title>");
        site.serve(
            "/follow.js",
            200,
            "text/javascript",
            include_str!("../../../clients/js/src/follow.js"),
        );
        site.serve(
            "/state.js",
            200,
            "text/javascript",
            include_str!("../../../clients/js/src/state.js"),
        );
        site
    }

    /// Sets the answer for a path.
    pub fn serve(&self, path: &str, status: u16, kind: &'static str, body: &str) {
        self.state().answers.insert(path.to_owned(), (status, kind, body.to_owned()));
    }

    /// How often a path was asked for.
    pub fn count(&self, path: &str) -> usize {
        self.state().counts.get(path).copied().unwrap_or_default()
    }

    /// Opens the page.
    #[track_caller]
    pub fn visit(&self, browser: &Browser) {
        browser.goto(&format!("http://{}/", self.addr));
    }

    /// Opens the page behind a service worker.
    #[track_caller]
    pub fn visit_behind(&self, worker: Worker, browser: &Browser) {
        self.serve("/worker.js", 200, "text/javascript", &worker.script());
        self.visit(browser);
        const INSTALL: &str = "
            const controlled = new Promise((done) => {
                navigator.serviceWorker.addEventListener('controllerchange', () => done(true));
            });
            return navigator.serviceWorker.register('/worker.js').then(() => controlled)";
        assert_eq!(browser.execute(INSTALL, &[]), true);
    }

    /// Lets new requests for streams wait.
    pub fn hold(&self) {
        self.state().held.get_or_insert_default();
    }

    /// How many streams wait.
    pub fn waiting(&self) -> usize {
        self.state().held.as_ref().map_or(0, Vec::len)
    }

    /// Ends all streams.
    pub fn end(&self, end: End) {
        self.state().end_all(end);
    }

    /// Refuses new streams with 503.
    pub fn refuse(&self) {
        self.state().to = None;
    }

    /// Sends new streams, and those that wait, to a gateway.
    pub fn move_to(&self, gateway: SocketAddr) {
        let mut state = self.state();
        state.to = Some(gateway);
        for asked in state.held.take().unwrap_or_default() {
            state.pass_on(asked);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.state().end_all(End::Cut);
    }
}

impl State {
    fn pass_on(&mut self, Asked { client, head }: Asked) {
        let Some(Ok(gateway)) = self.to.map(TcpStream::connect) else {
            return respond(client, 503, "text/plain", "");
        };
        client.set_nodelay(true).unwrap();
        (&gateway).write_all(&head).unwrap();
        let both = || [&client, &gateway].map(|socket| socket.try_clone().unwrap());
        self.streams.push(both());
        let ([from_client, to_gateway], [to_client, from_gateway]) = (both(), both());
        thread::spawn(move || pump(from_client, to_gateway));
        thread::spawn(move || pump(from_gateway, to_client));
    }

    fn end_all(&mut self, end: End) {
        for [client, gateway] in self.streams.drain(..) {
            // The write and the shutdown fail for a stream that is over.
            if let End::InOrder = end {
                let _ = (&client).write_all(b"0\r\n\r\n");
            }
            for socket in [client, gateway] {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    }
}

fn answer(client: TcpStream, shared: &Mutex<State>) {
    let mut reader = BufReader::new(client);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // A browser also opens connections that it does not use.
        if let Ok(0) | Err(_) = reader.read_until(b'\n', &mut head) {
            return;
        }
    }
    let client = reader.into_inner();
    let text = String::from_utf8_lossy(&head);
    let target = text.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let mut state = shared.lock().unwrap();
    *state.counts.entry(path.clone()).or_default() += 1;
    if path != "/events" {
        let nothing = (404, "text/plain", String::new());
        let (status, kind, body) = state.answers.get(&path).unwrap_or(&nothing);
        return respond(client, *status, kind, body);
    }
    let asked = Asked { client, head };
    match &mut state.held {
        Some(held) => held.push(asked),
        None => state.pass_on(asked),
    }
}

/// Answers and closes the connection, so that each connection brings one request.
fn respond(mut client: TcpStream, status: u16, kind: &str, body: &str) {
    let head = format!(
        "HTTP/1.1 {status} -\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // Fails for a browser that is gone.
    let _ = client.write_all((head + body).as_bytes());
}

/// Copies until one side ends, and then ends both.
fn pump(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    for socket in [from, to] {
        let _ = socket.shutdown(Shutdown::Both);
    }
}
