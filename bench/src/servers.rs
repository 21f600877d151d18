//! The servers that are compared: each started afresh, on ports of the kernel's choice, and ended with its
//! owner. Another rival is another [`Kind`], a way to start it, and its two URLs.

mod nchan;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::clock;
use crate::proc::{self, Cpu, Memory};
use crate::process::{Process, Scratch};
use crate::publish::Route;

/// How long a server may take until it accepts connections.
const START: Duration = Duration::from_secs(30);

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The floor with one thread.
    Floor1,
    /// The floor with two threads.
    Floor2,
    /// sse-gateway alone.
    GatewayMemory,
    /// sse-gateway with a Redis of its own; both are counted.
    GatewayRedis,
    /// nginx with Nchan, two workers.
    Nchan,
}

impl Kind {
    /// All there are.
    pub const ALL: [Kind; 5] =
        [Kind::Floor1, Kind::Floor2, Kind::GatewayMemory, Kind::GatewayRedis, Kind::Nchan];

    /// Its name in tables and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Floor1 => "floor-1",
            Kind::Floor2 => "floor-2",
            Kind::GatewayMemory => "gateway-memory",
            Kind::GatewayRedis => "gateway-redis",
            Kind::Nchan => "nchan",
        }
    }

    /// Whether it is what the others are compared with.
    pub fn is_floor(self) -> bool {
        matches!(self, Kind::Floor1 | Kind::Floor2)
    }

    /// Whether it is the gateway.
    pub fn is_gateway(self) -> bool {
        matches!(self, Kind::GatewayMemory | Kind::GatewayRedis)
    }
}

/// What starting needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The gateway's program.
    pub gateway: PathBuf,
    /// The gateway's settings that are not its defaults, as variables.
    pub variables: Vec<(String, String)>,
    /// Events a channel keeps, where the server keeps any.
    pub history: u32,
}

impl Settings {
    /// The gateway's program and settings; a history as long as the gateway's by default.
    pub fn new(gateway: PathBuf, variables: Vec<(String, String)>) -> Settings {
        Settings { gateway, variables, history: 1000 }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Which.
    pub kind: Kind,
    /// Where it serves.
    pub addr: SocketAddr,
    admin: Option<SocketAddr>,
    // In this order: whoever needs Redis ends before it does.
    processes: Vec<Process>,
    _scratch: Scratch,
}

impl Server {
    /// Starts one and waits until it accepts connections.
    pub fn start(kind: Kind, settings: &Settings) -> Result<Server, String> {
        let scratch = Scratch::new()?;
        let addr = free_addr()?;
        let mut server =
            Server { kind, addr, admin: None, processes: Vec::new(), _scratch: scratch };
        match kind {
            Kind::Floor1 => server.floor(1)?,
            Kind::Floor2 => server.floor(2)?,
            Kind::GatewayMemory => server.gateway(settings, None)?,
            Kind::GatewayRedis => {
                let redis = server.redis()?;
                server.gateway(settings, Some(redis))?;
            }
            Kind::Nchan => {
                let config = nchan::configure(server.dir(), addr, settings.history)?;
                let args = ["-c".to_owned(), config.display().to_string()];
                server.run(Path::new("nginx"), &args, &[], addr)?;
            }
        }
        Ok(server)
    }

    /// The path of a stream of a channel.
    pub fn target(&self, channel: &str) -> String {
        match self.kind {
            Kind::Nchan => format!("/sub?id={channel}"),
            _ => format!("/events?channel={channel}"),
        }
    }

    /// How one event is published, a request each.
    pub fn route(&self) -> Route {
        let path = if self.kind == Kind::Nchan { "/pub?id={c}" } else { "/channels/{c}" };
        Route::Post { path: path.to_owned() }
    }

    /// CPU used so far.
    pub fn cpu(&self) -> Cpu {
        proc::cpu(&self.pids())
    }

    /// Memory used now.
    pub fn memory(&self) -> Memory {
        proc::memory(&self.pids())
    }

    /// Streams that the server itself says it closed, by reason; empty where it says nothing.
    pub fn closed(&self) -> BTreeMap<String, u64> {
        if self.kind.is_floor() {
            let count = get(self.addr, "/dropped").and_then(|text| text.trim().parse().ok());
            return count.map(|n| ("dropped".to_owned(), n)).into_iter().collect();
        }
        let Some(text) = self.admin.and_then(|admin| get(admin, "/metrics")) else {
            return BTreeMap::new();
        };
        closed_in(&text)
    }

    /// How often a reader of the gateway's was sent to history for being slow.
    pub fn lags(&self) -> Option<u64> {
        let text = get(self.admin?, "/metrics")?;
        let value = text.lines().find_map(|line| line.strip_prefix("sse_lags_total "))?;
        value.trim().parse::<f64>().ok().map(|count| count as u64)
    }

    fn pids(&self) -> Vec<u32> {
        self.processes.iter().flat_map(|process| proc::tree(process.id())).collect()
    }

    fn dir(&self) -> &Path {
        self._scratch.path()
    }

    fn floor(&mut self, threads: u32) -> Result<(), String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let args = ["floor", "--listen", &self.addr.to_string(), "--threads"];
        let mut args = args.map(str::to_owned).to_vec();
        args.push(threads.to_string());
        self.run(&own, &args, &[], self.addr)
    }

    fn gateway(&mut self, settings: &Settings, redis: Option<SocketAddr>) -> Result<(), String> {
        let admin = free_addr()?;
        self.admin = Some(admin);
        let (addr, admin) = (self.addr.to_string(), admin.to_string());
        let mut args = ["--listen", &addr, "--admin-listen", &admin].map(str::to_owned).to_vec();
        if let Some(redis) = redis {
            args.extend(["--redis".to_owned(), format!("redis://{redis}")]);
        }
        let history = ("SSE_HISTORY__MAX_LEN".to_owned(), settings.history.to_string());
        let variables: Vec<_> = [history].into_iter().chain(settings.variables.clone()).collect();
        self.run(&settings.gateway, &args, &variables, self.addr)
    }

    fn redis(&mut self) -> Result<SocketAddr, String> {
        let addr = free_addr()?;
        let port = addr.port().to_string();
        let args = ["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"];
        let mut args = args.map(str::to_owned).to_vec();
        args.extend(["--dir".to_owned(), self.dir().display().to_string()]);
        self.run(Path::new("redis-server"), &args, &[], addr)?;
        Ok(addr)
    }

    /// Starts a program and waits until it accepts connections.
    fn run(
        &mut self,
        program: &Path,
        args: &[String],
        variables: &[(String, String)],
        addr: SocketAddr,
    ) -> Result<(), String> {
        let log = self.dir().join(format!("{}.log", self.processes.len()));
        let mut process = Process::start(program, args, variables, log)?;
        let end = Instant::now() + START;
        while TcpStream::connect(addr).is_err() {
            if let Some(why) = process.ended() {
                return Err(format!("{} ended: {why}", program.display()));
            }
            if Instant::now() > end {
                return Err(format!("{} does not listen on {addr}", program.display()));
            }
            clock::sleep(Duration::from_millis(20));
        }
        self.processes.insert(0, process);
        Ok(())
    }
}

/// An address that was free a moment ago.
fn free_addr() -> Result<SocketAddr, String> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| format!("no free port: {error}"))
}

/// The body of a small answer.
fn get(addr: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {addr}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// `sse_streams_closed_total`, by reason.
fn closed_in(metrics: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let rest = line.strip_prefix("sse_streams_closed_total{reason=\"")?;
        let (reason, value) = rest.split_once("\"} ")?;
        Some((reason.to_owned(), value.trim().parse::<f64>().ok()? as u64))
    };
    metrics.lines().filter_map(line).filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_read_from_the_metrics() {
        let text = "# TYPE sse_streams_closed_total counter\n\
                    sse_streams_closed_total{reason=\"gone\"} 0\n\
                    sse_streams_closed_total{reason=\"stalled\"} 200\nsse_channels 1\n";
        assert_eq!(closed_in(text), BTreeMap::from([("stalled".to_owned(), 200)]));
    }
}
