//! Tests that other people's clients keep their place: a checkpoint moves the client's cursor and
//! is no message, and after a cut the client hears what it missed, once.
//!
//! Chromium is always tested. `make browsers` installs Firefox, WebKitGTK, the npm package
//! `eventsource` and two clients of PyPI, and tests these too. A client's cursor is what it sends
//! as `Last-Event-ID` when it reconnects, so the tests read it on the wire.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::event_source::{EventSource, Heard, heard, live};
use crate::streams::on_both;
use crate::support::{Process, TestGateway, Wire, eventually, spawn};
use crate::webdriver::{Browser, Engine};

#[test]
fn chromium_keeps_its_place() {
    page_keeps_its_place(Engine::Chromium);
}

#[test]
#[ignore = "make browsers"]
fn firefox_keeps_its_place() {
    page_keeps_its_place(Engine::Firefox);
}

#[test]
#[ignore = "make browsers"]
fn webkit_keeps_its_place() {
    page_keeps_its_place(Engine::WebKit);
}

/// The package has `onmessage` and reconnects by itself, as a page does.
#[test]
#[ignore = "make browsers"]
fn npm_eventsource_keeps_its_place() {
    keeps_its_place(|addr| Client::program("node", "eventsource.mjs", addr));
}

/// `clients/js/src/follow.js` also runs in Node, where an EventSource can carry a token.
#[test]
#[ignore = "make browsers"]
fn follow_on_npm_eventsource_keeps_its_place() {
    keeps_its_place(|addr| Client::program("node", "with_follow.mjs", addr));
}

/// httpx-sse yields every block with its type, also checkpoints, which its user must skip. It has
/// no `onmessage` and does not reconnect, so the script reconnects with the last id that it
/// yielded. With `checkpoints=off` it would yield published events only, and have no cursor before
/// the first.
#[test]
#[ignore = "make browsers"]
fn pypi_httpx_sse_keeps_its_place() {
    keeps_its_place(|addr| Client::program("venv/bin/python", "with_httpx_sse.py", addr));
}

/// Like httpx-sse, but sseclient gives an id only with the block that has one, so the script keeps
/// the last.
#[test]
#[ignore = "make browsers"]
fn pypi_sseclient_keeps_its_place() {
    keeps_its_place(|addr| Client::program("venv/bin/python", "with_sseclient.py", addr));
}

fn page_keeps_its_place(engine: Engine) {
    let browser = Browser::of(engine);
    keeps_its_place(|addr| {
        Client::Page(EventSource::open(&browser, addr, QUERY, &["checkpoint", "gap"]))
    });
}

const QUERY: &str = "channel=quiet";

/// Runs the tests with a client. `open` opens its stream of [`QUERY`], whose channel only these
/// tests publish on.
fn keeps_its_place<'b>(open: impl Fn(SocketAddr) -> Client<'b>) {
    the_opening_checkpoint_is_its_place(&open);
    a_heartbeat_moves_its_place(&open);
    an_event_that_was_cut_off_comes_again(&open);
}

/// Some clients move their cursor when they read the `id:` line. If that line came before the data,
/// a cut in between would lose the event.
fn an_event_that_was_cut_off_comes_again<'b>(open: impl Fn(SocketAddr) -> Client<'b>) {
    on_both(&[("stream.heartbeat", "1h"), ("stream.retry", "100ms")], |gateway| {
        let wire = Wire::to(gateway.addr);
        let client = open(wire.addr);
        live(gateway, 1);
        let small = gateway.publish("quiet", "small");
        eventually("it hears a message", || client.others().len() == 1);
        wire.cut_behind(100_000);
        let data = "x".repeat(200_000);
        let large = gateway.publish("quiet", &data);
        eventually("it is back", || {
            resumes(&wire).len() == 1 && gateway.sum(|c| c.joining.get()) == 0
        });
        let last = gateway.publish("quiet", "last");
        eventually("it hears what follows", || client.others().iter().any(|e| e.id == last));
        let expected = [(&small, "small"), (&large, data.as_str()), (&last, "last")];
        assert_eq!(client.others(), expected.map(|(id, data)| heard("message", id, data)));
        assert_eq!(resumes(&wire), [small]);
        client.close();
    });
}

fn the_opening_checkpoint_is_its_place<'b>(open: impl Fn(SocketAddr) -> Client<'b>) {
    on_both(&[("stream.heartbeat", "1h"), ("stream.retry", "100ms")], |gateway| {
        let wire = Wire::to(gateway.addr);
        let client = open(wire.addr);
        eventually("it hears a checkpoint", || !client.heard().is_empty());
        let opening = client.checkpoints();
        assert_eq!(opening.len(), 1, "{:?}", client.heard());
        assert_eq!(resumes(&wire), [""; 0]);
        let published = drop_and_publish(gateway, &wire, &client, 0);
        assert_eq!(client.others(), published);
        assert_eq!(resumes(&wire), opening);
        client.close();
    });
}

fn a_heartbeat_moves_its_place<'b>(open: impl Fn(SocketAddr) -> Client<'b>) {
    on_both(&[("stream.heartbeat", "1s"), ("stream.retry", "100ms")], |gateway| {
        let wire = Wire::to(gateway.addr);
        let client = open(wire.addr);
        live(gateway, 1);
        let first = gateway.publish("quiet", "first");
        let checkpoints_beyond_it = || {
            let all = client.heard().into_iter().skip_while(|event| event.kind != "message");
            let all = all.filter(|event| event.kind == "checkpoint" && event.id != first);
            all.map(|event| event.id).collect::<Vec<_>>()
        };
        eventually("a checkpoint moves the cursor", || !checkpoints_beyond_it().is_empty());
        let published = drop_and_publish(gateway, &wire, &client, 1);
        let mut expected = vec![heard("message", &first, "first")];
        expected.extend(published);
        assert_eq!(client.others(), expected);
        let [place] = &resumes(&wire)[..] else { panic!("it came back once: {}", wire.asked()) };
        assert!(checkpoints_beyond_it().contains(place), "{place}, after {first}");
        client.close();
    });
}

/// Cuts a client that has heard `before` messages, publishes one event while it is away and one
/// when it is back. Once the client has heard the second one, nothing can be repeated any more.
#[track_caller]
fn drop_and_publish(
    gateway: &TestGateway,
    wire: &Wire,
    client: &Client<'_>,
    before: usize,
) -> [Heard; 2] {
    wire.cut();
    let away = gateway.publish("quiet", "while it was away");
    wire.move_to(gateway.addr);
    eventually("it came back", || client.others().len() > before);
    let back = gateway.publish("quiet", "when it was back");
    eventually("it hears what follows", || client.others().iter().any(|event| event.id == back));
    client.errors_are_not_final();
    [heard("message", &away, "while it was away"), heard("message", &back, "when it was back")]
}

/// The `Last-Event-ID` of each request that had one, in order.
fn resumes(wire: &Wire) -> Vec<String> {
    let asked = wire.asked();
    let headers = asked.lines().filter_map(|line| line.split_once(": "));
    let ids = headers.filter(|(name, _)| name.eq_ignore_ascii_case("last-event-id"));
    ids.map(|(_, id)| id.to_owned()).collect()
}

/// A client that reads one stream, and everything that it told its user.
enum Client<'b> {
    Page(EventSource<'b>),
    Program(Program),
}

impl Client<'_> {
    /// Starts a client: one of the programs in the folder `clients`.
    #[track_caller]
    fn program(interpreter: &str, script: &str, addr: SocketAddr) -> Self {
        let dir = installed();
        // Node.js is Debian's; a Python environment brings its own interpreter.
        let in_dir = dir.join(interpreter);
        let interpreter = if in_dir.exists() { in_dir } else { interpreter.into() };
        let mut command = Command::new(interpreter);
        command.arg(dir.join(script)).arg(format!("http://{addr}/events?{QUERY}"));
        let mut process = spawn(command.stdout(Stdio::piped()), "nodejs and python3-venv");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (lines, hears) =
            (BufReader::new(process.stdout.take().unwrap()).lines(), heard.clone());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                hears.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Client::Program(Program { _process: process, heard })
    }

    #[track_caller]
    fn heard(&self) -> Vec<Heard> {
        match self {
            Client::Page(page) => page.heard(),
            Client::Program(program) => program.heard.lock().unwrap().clone(),
        }
    }

    /// The ids of the checkpoints that the client heard.
    #[track_caller]
    fn checkpoints(&self) -> Vec<String> {
        let all = self.heard().into_iter();
        all.filter(|event| event.kind == "checkpoint").map(|event| event.id).collect()
    }

    /// Everything that the client heard except checkpoints.
    #[track_caller]
    fn others(&self) -> Vec<Heard> {
        self.heard().into_iter().filter(|event| event.kind != "checkpoint").collect()
    }

    /// Checks that a page got an `error` event, and none after which it would not reconnect.
    #[track_caller]
    fn errors_are_not_final(&self) {
        if let Client::Page(page) = self {
            let errors = page.errors();
            assert!(!errors.is_empty() && errors.iter().all(|state| *state == 0), "{errors:?}");
        }
    }

    #[track_caller]
    fn close(self) {
        if let Client::Page(page) = self {
            page.close();
        }
    }
}

/// A running program that prints everything that it hears, one line of JSON each.
struct Program {
    _process: Process,
    heard: Arc<Mutex<Vec<Heard>>>,
}

/// Where `scripts/browsers` installs the programs.
fn installed() -> PathBuf {
    std::env::var_os("TEST_CLIENTS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-clients"),
        PathBuf::from,
    )
}
