//! The servers that are compared. Each is started afresh, on ports that the kernel chooses, and
//! ends when its [`Server`] is dropped.
//!
//! A further server needs a [`Kind`], a way to start it, and its two URLs.

mod centrifugo;
mod fastapi;
mod gateway;
mod kind;
mod mercure;
mod nchan;
mod plain_actix;
mod programs;
mod pushpin;
mod tls;
mod tokens;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub use kind::Kind;

use sse_lab::redis_server;
use sse_lab::scratch::Scratch;
use sse_token::Algorithm;

use crate::clock;
use crate::load;
use crate::proc::{self, Cpu, Memory};
use crate::process::Process;
use crate::publish::Route;

/// How long a server may take to accept connections.
const START: Duration = Duration::from_secs(30);

/// What is needed to start servers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The path of the gateway's program.
    pub gateway: PathBuf,
    /// The gateway's settings that differ from its defaults, as environment variables.
    pub variables: Vec<(String, String)>,
    /// How many events a channel keeps, on servers that keep any.
    pub history: u32,
}

impl Settings {
    /// Settings with a history as long as the gateway's default.
    pub fn new(gateway: PathBuf, variables: Vec<(String, String)>) -> Settings {
        Settings { gateway, variables, history: 1000 }
    }
}

/// Why a server did not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartError {
    /// The server is not installed. This is no failure: the other servers are compared.
    Unavailable(String),
    /// The server is installed but does not start.
    Failed(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Unavailable(why) => write!(f, "skipped: {why}"),
            StartError::Failed(why) => f.write_str(why),
        }
    }
}

impl From<String> for StartError {
    fn from(why: String) -> Self {
        StartError::Failed(why)
    }
}

impl From<StartError> for String {
    fn from(error: StartError) -> Self {
        error.to_string()
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Which server it is.
    pub kind: Kind,
    /// The address it listens on.
    pub addr: SocketAddr,
    admin: Option<SocketAddr>,
    route: Route,
    tls: Option<load::tls::Settings>,
    /// The tokens that streams present.
    tokens: Option<tokens::Tokens>,
    // Fields are dropped in this order, and the process that was started last comes first: a server
    // ends before the Redis, gateway or origin that it needs.
    processes: Vec<Process>,
    origin: Option<pushpin::Origin>,
    _scratch: Scratch,
}

impl Server {
    /// Starts a server and waits until it accepts connections.
    pub fn start(kind: Kind, settings: &Settings) -> Result<Server, StartError> {
        let mut server = Server {
            kind,
            addr: free_addr()?,
            admin: None,
            route: Route::Post { path: "/channels/{c}".to_owned() },
            tls: None,
            tokens: None,
            processes: Vec::new(),
            origin: None,
            _scratch: Scratch::new("bench"),
        };
        match kind {
            Kind::Floor1 => server.floor(1)?,
            Kind::Floor2 => server.floor(2)?,
            Kind::GatewayMemory => server.gateway(settings, None)?,
            Kind::GatewayRedis => {
                let redis = server.redis()?;
                server.gateway(settings, Some(redis))?;
            }
            Kind::GatewayTls => server.gateway_tls(settings)?,
            Kind::GatewayHs256 => server.gateway_tokens(settings, Algorithm::HS256)?,
            Kind::GatewayRs256 => server.gateway_tokens(settings, Algorithm::RS256)?,
            Kind::NginxTls => server.nginx_tls(settings)?,
            Kind::Nchan => server.nchan(settings)?,
            Kind::Pushpin => server.pushpin()?,
            Kind::Mercure => server.mercure()?,
            Kind::Centrifugo => server.centrifugo(settings)?,
            Kind::PlainActix => server.plain_actix()?,
            Kind::FastApi => server.fastapi()?,
        }
        Ok(server)
    }

    /// The path of a stream of this channel.
    pub fn target(&self, channel: &str) -> String {
        match self.kind {
            Kind::Nchan => format!("/sub?id={channel}"),
            Kind::Mercure => format!("/.well-known/mercure?match={channel}"),
            Kind::Centrifugo => centrifugo::target(channel),
            _ => format!("/events?channel={channel}"),
        }
    }

    /// A plan for streams with this path. It opens as many at once as the server can take.
    pub fn streams(&self, connections: usize, target: String) -> load::Plan {
        let mut plan = load::Plan::new(self.addr, connections, target);
        plan.tls = self.tls.clone();
        plan.headers = self.tokens.as_ref().map(|tokens| tokens.headers());
        if self.kind == Kind::Pushpin {
            plan.in_flight = pushpin::AT_ONCE;
        }
        plan
    }

    /// How to publish one event per request.
    pub fn route(&self) -> Route {
        self.route.clone()
    }

    /// The CPU that all processes of the server have used so far.
    pub fn cpu(&self) -> Cpu {
        proc::cpu(&self.pids())
    }

    /// The memory that all processes of the server use now.
    pub fn memory(&self) -> Memory {
        proc::memory(&self.pids())
    }

    /// The streams that the server says it closed, by reason. Empty if the server has no such
    /// count.
    pub fn closed(&self) -> BTreeMap<String, u64> {
        if self.kind.is_floor() {
            let count = get(self.addr, "/dropped").and_then(|text| text.trim().parse().ok());
            return count.map(|n| ("dropped".to_owned(), n)).into_iter().collect();
        }
        let Some(text) = self.admin.and_then(|admin| get(admin, "/metrics")) else {
            return BTreeMap::new();
        };
        gateway::closed(&text)
    }

    /// How often a slow reader was sent to history. `None` if the server has no such count.
    pub fn lags(&self) -> Option<u64> {
        gateway::lags(&get(self.admin?, "/metrics")?)
    }

    fn pids(&self) -> Vec<u32> {
        self.processes.iter().flat_map(|process| proc::tree(process.id())).collect()
    }

    fn dir(&self) -> &Path {
        self._scratch.path()
    }

    fn floor(&mut self, threads: u32) -> Result<(), StartError> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let args = ["floor", "--listen", &self.addr.to_string(), "--threads"];
        let mut args = args.map(str::to_owned).to_vec();
        args.push(threads.to_string());
        self.run(&own, &args, &[], self.addr)
    }

    fn redis(&mut self) -> Result<SocketAddr, StartError> {
        let addr = free_addr()?;
        programs::find("redis-server", None)?;
        let mut command = redis_server::command(addr, self.dir());
        // Some servers open a connection to Redis for each stream.
        command.args(["--maxclients", "18000"]);
        self.launch(&command, addr)?;
        Ok(addr)
    }

    /// Starts a program and waits until it accepts connections.
    fn run(
        &mut self,
        program: &Path,
        args: &[String],
        variables: &[(String, String)],
        addr: SocketAddr,
    ) -> Result<(), StartError> {
        let mut command = Command::new(program);
        command.args(args).envs(variables.iter().cloned());
        self.launch(&command, addr)
    }

    fn launch(&mut self, command: &Command, addr: SocketAddr) -> Result<(), StartError> {
        let log = self.dir().join(format!("{}.log", self.processes.len()));
        self.processes.insert(0, Process::start(command, log)?);
        self.listens(addr)
    }

    /// Waits until the program that was started last accepts connections on `addr`.
    fn listens(&mut self, addr: SocketAddr) -> Result<(), StartError> {
        self.until(&format!("listen on {addr}"), || TcpStream::connect(addr).is_ok())
    }

    /// Waits until a stream opens. Some servers listen before they can answer, and a stream that
    /// came before would wait or fail.
    fn opens(&mut self) -> Result<(), StartError> {
        let (addr, path) = (self.addr, self.target("ready"));
        self.until("open a stream", || opens(addr, &path).unwrap_or(false))
    }

    fn until(&mut self, what: &str, mut done: impl FnMut() -> bool) -> Result<(), StartError> {
        let (name, end) = (self.kind.name(), Instant::now() + START);
        while !done() {
            if let Some(why) = self.processes.first_mut().and_then(Process::ended) {
                return Err(StartError::Failed(format!("{name} ended: {why}")));
            }
            if Instant::now() > end {
                return Err(StartError::Failed(format!("{name} does not {what}")));
            }
            clock::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// An address that was free a moment ago.
pub fn free_addr() -> Result<SocketAddr, String> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| format!("no free port: {error}"))
}

/// Requests a path and returns the body of the answer; `None` if that fails.
pub fn get(addr: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {addr}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// Whether a stream is answered with 200.
fn opens(addr: SocketAddr, path: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\nAccept: text/event-stream\r\n\r\n")?;
    let mut start = [0; 12];
    stream.read_exact(&mut start)?;
    Ok(&start == b"HTTP/1.1 200")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_installed_is_told_apart() {
        let error = StartError::Unavailable("no mercure on PATH".to_owned());
        assert_eq!(String::from(error), "skipped: no mercure on PATH");
        assert_eq!(StartError::from("broken".to_owned()).to_string(), "broken");
    }
}
