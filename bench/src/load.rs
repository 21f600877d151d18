//! The load: one thread with one epoll reads tens of thousands of event streams and checks every
//! event.
//!
//! The owner of a [`Load`] directs the thread through phases: open, measure, resume stalled
//! connections, settle, stop. Each call returns when its phase is over.

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

/// Returns the extra header lines for a connection's number. Each line ends with CRLF.
pub type Headers = Arc<dyn Fn(usize) -> String + Send + Sync>;

/// Which streams to open, and how.
#[derive(Clone)]
pub struct Plan {
    /// The server's address.
    pub addr: SocketAddr,
    /// Further addresses of the server. Connections use all addresses in turn.
    pub more_addrs: Vec<SocketAddr>,
    /// The value of the `Host` header; `None`: the address.
    pub host: Option<String>,
    /// Use TLS with these settings.
    pub tls: Option<tls::Settings>,
    /// The number of connections.
    pub connections: usize,
    /// The path and query; `{n}` stands for the connection's number.
    pub target: String,
    /// Extra header lines, such as `Last-Event-ID`.
    pub headers: Option<Headers>,
    /// How many source addresses (127.0.0.2, …) to use towards a loopback server, because one
    /// address can open only 28,000 connections to a port. 0: the kernel chooses the address.
    pub sources: u8,
    /// How many connections may be opening at once, from connecting until their first bytes.
    pub in_flight: usize,
    /// The share of the connections, evenly spread, that stop reading once they are open, until
    /// they are resumed.
    pub stalled: f64,
    /// `SO_RCVBUF` of the stalled connections. A small one fills soon, so the server soon notices.
    pub stalled_receive_buffer: Option<usize>,
    /// The first number of every stream of numbers; `None`: the first that is received.
    pub first: Option<u64>,
    /// For a server that is not known: a stream counts as open once the head of the answer arrives,
    /// because the first event may be minutes away. The head must then declare an event stream.
    pub any_server: bool,
    /// Keep the last event id of each connection, for [`Load::stop`].
    pub remember_ids: bool,
}

impl Plan {
    /// A plan for streams that read everything, from eight source addresses.
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

    /// Whether a connection is one of those that stall.
    pub fn is_stalled(&self, number: usize) -> bool {
        let up_to = |n: usize| (n as f64 * self.stalled).floor();
        up_to(number + 1) > up_to(number)
    }

    /// The server's address that a connection connects to.
    fn addr(&self, number: usize) -> SocketAddr {
        match number % (self.more_addrs.len() + 1) {
            0 => self.addr,
            more => self.more_addrs[more - 1],
        }
    }

    /// The local address that a connection connects from; `None` if the kernel chooses it.
    fn source(&self, number: usize) -> Option<SocketAddr> {
        let addr = self.addr(number);
        if self.sources == 0 || !addr.is_ipv4() || !addr.ip().is_loopback() {
            return None;
        }
        let host = 2 + (number % usize::from(self.sources)) as u8;
        Some(SocketAddr::from(([127, 0, 0, host], 0)))
    }

    /// The request that a connection sends.
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

/// The result of opening streams.
#[derive(Debug, Clone, Default)]
pub struct Opened {
    /// Streams whose first bytes arrived.
    pub open: usize,
    /// Connections that failed before that.
    pub failed: usize,
    /// Why the first of them failed.
    pub error: Option<String>,
    /// Seconds from the first connect to the first bytes of the last stream.
    pub seconds: f64,
}

/// The result of measuring.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// The connections that read all the time.
    pub readers: Report,
    /// The connections that stalled, also after they were resumed.
    pub stalled: Report,
    /// CPU seconds that the load's thread used.
    pub own_cpu: f64,
    /// Why a stream closed; of several since the opening, the first.
    pub closed_because: Option<String>,
}

/// What connections should have received: names and last numbers of streams of numbers.
#[derive(Debug, Clone)]
pub enum Expected {
    /// Every connection receives all these streams of numbers.
    All(Vec<(u32, u64)>),
    /// The n-th connection receives only the n-th of these streams of numbers.
    Own(Vec<(u32, u64)>),
}

/// The state once no more events should come. A connection that has closed or does not read is not
/// checked for missing events, but what it received before is counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settled {
    /// Connections that are open and read.
    pub connections: usize,
    /// Those of them that lack events at the end.
    pub behind: usize,
    /// Numbers skipped since the opening, plus those that are lacking at the end.
    pub lost: u64,
    /// Numbers received again since the opening.
    pub duplicated: u64,
    /// Numbers received out of order since the opening.
    pub out_of_order: u64,
    /// `gap` events received since the opening.
    pub gaps: u64,
}

enum Command {
    Open(Duration, Sender<Opened>),
    /// Asks for the state of the opening. True also ends the opening.
    Opening(bool, Sender<Opened>),
    Begin(Sender<()>),
    End(Sender<Measured>),
    Resume(Sender<()>),
    Settle(Expected, Duration, Sender<Settled>),
    Stop(Sender<LastIds>),
}

/// The last event id of each connection; `None` if it received no id or ids are not kept.
pub type LastIds = Vec<Option<Box<[u8]>>>;

/// A running load. Dropping it closes its connections.
#[derive(Debug)]
pub struct Load {
    commands: Option<Sender<Command>>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts the thread. Opens no connection yet.
    pub fn start(plan: Plan) -> io::Result<Load> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (commands, receiver) = mpsc::channel();
        let engine = Engine::new(plan, wake.clone(), receiver)?;
        let thread = std::thread::Builder::new().name("load".to_owned());
        let thread = Some(thread.spawn(move || engine.run())?);
        Ok(Load { commands: Some(commands), wake, thread })
    }

    /// Opens all connections and waits for the first bytes of each, for `bound` at most.
    pub fn open(&self, bound: Duration) -> Opened {
        self.ask(|reply| Command::Open(bound, reply))
    }

    /// The state of the opening while another thread waits in [`Load::open`].
    pub fn opening(&self) -> Opened {
        self.ask(|reply| Command::Opening(false, reply))
    }

    /// Ends the opening: [`Load::open`] returns with the streams that are open by then.
    pub fn cut_opening(&self) {
        self.ask(|reply| Command::Opening(true, reply));
    }

    /// Starts measuring, with all counts at zero except those of closed streams.
    pub fn begin(&self) {
        self.ask(Command::Begin);
    }

    /// The result of measuring since [`Load::begin`]. Does not stop it.
    pub fn end(&self) -> Measured {
        self.ask(Command::End)
    }

    /// Lets the stalled connections read.
    pub fn resume(&self) {
        self.ask(Command::Resume);
    }

    /// Waits until every connection that reads has received what is expected, for `bound` at most.
    pub fn settle(&self, expected: Expected, bound: Duration) -> Settled {
        self.ask(|reply| Command::Settle(expected, bound, reply))
    }

    /// Closes all connections and returns their last event ids.
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
        // No answer means that the thread has panicked, which `drop` reports.
        answer.recv().unwrap_or_default()
    }

    fn wake(&self) {
        // The write fails only if the counter is full, and then the thread will wake anyway.
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
