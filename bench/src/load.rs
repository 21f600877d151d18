//! The load: one thread, one epoll, tens of thousands of event streams, each of them judged.
//!
//! The thread that starts a [`Load`] directs it through phases: open, measure, resume what was stalled,
//! settle, stop. Each call returns when its phase is done.

pub mod account;
mod connection;
mod engine;
pub mod lines;
pub mod report;
pub mod tls;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use engine::Engine;
use report::Report;
use rustix::event::{EventfdFlags, eventfd};

/// Extra header lines of a connection, each ended by CRLF; it is given the connection's number.
pub type Headers = Arc<dyn Fn(usize) -> String + Send + Sync>;

/// What to open, and how.
#[derive(Clone)]
pub struct Plan {
    /// The server.
    pub addr: SocketAddr,
    /// More addresses of it; connections take all of them in turn.
    pub more_addrs: Vec<SocketAddr>,
    /// What the `Host` header says; `None`: the address.
    pub host: Option<String>,
    /// Speak TLS.
    pub tls: Option<tls::Settings>,
    /// How many connections.
    pub connections: usize,
    /// Path and query; `{n}` is the connection's number.
    pub target: String,
    /// Extra header lines, such as `Last-Event-ID`.
    pub headers: Option<Headers>,
    /// How many source addresses (127.0.0.2, …) to use towards a loopback server: one alone gives only
    /// 28,000 connections to one port. 0: the kernel's choice.
    pub sources: u8,
    /// How many connections may be on their way at once: from connecting until the first bytes.
    pub in_flight: usize,
    /// Which part of the connections, evenly spread, reads nothing once it is open, until it is resumed.
    pub stalled: f64,
    /// `SO_RCVBUF` of the stalled ones, so that the stall reaches the server soon.
    pub stalled_receive_buffer: Option<usize>,
    /// The number that every stream of numbers begins with; `None`: with the first that is received.
    pub first: Option<u64>,
    /// For a server of which nothing is known. The head of its answer opens the stream, as the first byte
    /// may be that of an event minutes away; but the head must say that it is an event stream.
    pub any_server: bool,
    /// Keep each connection's last event id, for [`Load::stop`].
    pub remember_ids: bool,
}

impl Plan {
    /// Streams that read everything, from eight addresses.
    pub fn new(addr: SocketAddr, connections: usize, target: impl Into<String>) -> Plan {
        Plan {
            addr,
            more_addrs: Vec::new(),
            host: None,
            tls: None,
            connections,
            target: target.into(),
            headers: None,
            sources: 8,
            in_flight: 200,
            stalled: 0.0,
            stalled_receive_buffer: None,
            first: None,
            any_server: false,
            remember_ids: false,
        }
    }

    /// Whether a connection is one of the stalled.
    pub fn is_stalled(&self, number: usize) -> bool {
        let up_to = |n: usize| (n as f64 * self.stalled).floor();
        up_to(number + 1) > up_to(number)
    }

    /// Which of the server's addresses a connection goes to.
    fn addr(&self, number: usize) -> SocketAddr {
        match number % (self.more_addrs.len() + 1) {
            0 => self.addr,
            more => self.more_addrs[more - 1],
        }
    }

    /// Which of our own addresses a connection comes from, if that is ours to choose.
    fn source(&self, number: usize) -> Option<SocketAddr> {
        let addr = self.addr(number);
        if self.sources == 0 || !addr.is_ipv4() || !addr.ip().is_loopback() {
            return None;
        }
        let host = 2 + (number % usize::from(self.sources)) as u8;
        Some(SocketAddr::from(([127, 0, 0, host], 0)))
    }

    /// A connection's request.
    fn request(&self, number: usize) -> Vec<u8> {
        let target = self.target.replace("{n}", &number.to_string());
        let host = self.host.clone().unwrap_or_else(|| self.addr(number).to_string());
        let headers = self.headers.as_ref().map_or_else(String::new, |headers| headers(number));
        format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n{headers}\r\n"
        )
        .into_bytes()
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connections to {}{}", self.connections, self.addr, self.target)
    }
}

/// How opening went.
#[derive(Debug, Clone, Default)]
pub struct Opened {
    /// Streams whose first bytes came.
    pub open: usize,
    /// Streams that failed before.
    pub failed: usize,
    /// Why the first of them did.
    pub error: Option<String>,
    /// From the first connect to the last stream's first bytes.
    pub seconds: f64,
}

/// What was measured.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Those that read.
    pub readers: Report,
    /// Those that stalled, even if they were resumed since.
    pub stalled: Report,
    /// CPU seconds of the load's own thread.
    pub own_cpu: f64,
    /// Why the first stream that closed did, since the opening.
    pub closed_because: Option<String>,
}

/// What streams of numbers should have reached.
#[derive(Debug, Clone)]
pub enum Expected {
    /// Every connection is on every stream of numbers: their names and last numbers.
    All(Vec<(u32, u64)>),
    /// Connection n is on the stream of numbers n alone.
    Own(Vec<(u32, u64)>),
}

/// How it stands once nothing more should come. Connections that closed, or that do not
/// read, are not in it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settled {
    /// Connections that were asked.
    pub connections: usize,
    /// Connections that lack something at their end.
    pub behind: usize,
    /// Lost since the opening, and what lacks at the end.
    pub lost: u64,
    /// Repeated since the opening.
    pub duplicated: u64,
    /// Out of order since the opening.
    pub out_of_order: u64,
    /// `gap` events since the opening.
    pub gaps: u64,
}

enum Command {
    Open(Duration, Sender<Opened>),
    /// How it stands; true: and no more of it.
    Opening(bool, Sender<Opened>),
    Begin(Sender<()>),
    End(Sender<Measured>),
    Resume(Sender<()>),
    Settle(Expected, Duration, Sender<Settled>),
    Stop(Sender<LastIds>),
}

/// The last event id of each connection that had one.
pub type LastIds = Vec<Option<Box<[u8]>>>;

/// A running load; dropping it closes its connections.
#[derive(Debug)]
pub struct Load {
    commands: Option<Sender<Command>>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts the thread; nothing is opened yet.
    pub fn start(plan: Plan) -> io::Result<Load> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (commands, receiver) = mpsc::channel();
        let engine = Engine::new(plan, wake.clone(), receiver)?;
        let thread = std::thread::Builder::new().name("load".to_owned());
        let thread = Some(thread.spawn(move || engine.run())?);
        Ok(Load { commands: Some(commands), wake, thread })
    }

    /// Opens all connections and waits for the first bytes of each, for so long at most.
    pub fn open(&self, bound: Duration) -> Opened {
        self.ask(|reply| Command::Open(bound, reply))
    }

    /// How far the opening is, for others than the thread that waits for it.
    pub fn opening(&self) -> Opened {
        self.ask(|reply| Command::Opening(false, reply))
    }

    /// Opens no more; [`Load::open`] returns with what it has.
    pub fn cut_opening(&self) {
        self.ask(|reply| Command::Opening(true, reply));
    }

    /// Begins to measure, from nothing.
    pub fn begin(&self) {
        self.ask(Command::Begin);
    }

    /// What was measured since it began.
    pub fn end(&self) -> Measured {
        self.ask(Command::End)
    }

    /// Lets the stalled ones read.
    pub fn resume(&self) {
        self.ask(Command::Resume);
    }

    /// Waits until every connection that reads has what is expected, for so long at most.
    pub fn settle(&self, expected: Expected, bound: Duration) -> Settled {
        self.ask(|reply| Command::Settle(expected, bound, reply))
    }

    /// Closes everything.
    pub fn stop(self) -> LastIds {
        self.ask(Command::Stop)
    }

    fn ask<T: Default>(&self, command: impl FnOnce(Sender<T>) -> Command) -> T {
        let (reply, answer): (Sender<T>, Receiver<T>) = mpsc::channel();
        if let Some(commands) = &self.commands
            && commands.send(command(reply)).is_ok()
        {
            self.wake();
        }
        // The thread answers everything it is sent, unless it panicked: then `drop` says so.
        answer.recv().unwrap_or_default()
    }

    fn wake(&self) {
        // Only a full counter refuses, and then a wake is pending already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.commands = None;
        self.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the load's thread panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_number_and_the_headers() {
        let mut plan = Plan::new(SocketAddr::from(([127, 0, 0, 1], 80)), 9, "/events?channel={n}");
        plan.headers = Some(Arc::new(|n| format!("Last-Event-ID: {n}-0\r\n")));
        let request = String::from_utf8(plan.request(7)).unwrap();
        assert!(request.starts_with("GET /events?channel=7 HTTP/1.1\r\nHost: 127.0.0.1:80\r\n"));
        assert!(request.ends_with("\r\nLast-Event-ID: 7-0\r\n\r\n"));
        assert_eq!(plan.source(7), Some(SocketAddr::from(([127, 0, 0, 9], 0))));
    }

    #[test]
    fn the_stalled_are_evenly_spread() {
        let mut plan = Plan::new(SocketAddr::from(([127, 0, 0, 1], 1)), 100, "/");
        assert!((0..100).all(|n| !plan.is_stalled(n)));
        plan.stalled = 0.1;
        let stalled: Vec<usize> = (0..100).filter(|n| plan.is_stalled(*n)).collect();
        assert_eq!(stalled.len(), 10);
        assert!(stalled.windows(2).all(|pair| pair[1] - pair[0] == 10));
    }
}
