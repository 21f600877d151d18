//! A Redis and the gateways on it, for scenarios that need more than one [`Server`] that is
//! measured as a whole: publishing straight to Redis, two gateways on one Redis, and the numbers of
//! a gateway's process.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use sse_lab::redis_server;
use sse_lab::scratch::Scratch;

use crate::clock;
use crate::proc::{self, Cpu};
use crate::process::Process;
use crate::servers::{Kind, Server, Settings, free_addr, get};

/// How long Redis may take to accept connections.
const START: Duration = Duration::from_secs(10);

/// A Redis. Dropping this ends it, so drop the gateways first.
#[derive(Debug)]
pub struct Shared {
    /// The address it listens on.
    pub addr: SocketAddr,
    process: Process,
    _scratch: Scratch,
}

impl Shared {
    /// Starts an empty Redis that writes nothing to disk.
    pub fn start() -> Result<Shared, String> {
        let (addr, scratch) = (free_addr()?, Scratch::new("bench"));
        let command = redis_server::command(addr, scratch.path());
        let mut process = Process::start(&command, scratch.path().join("redis.log"))?;
        let end = Instant::now() + START;
        while TcpStream::connect(addr).is_err() {
            if let Some(why) = process.ended() {
                return Err(format!("redis-server ended: {why}"));
            }
            if Instant::now() > end {
                return Err(format!("redis-server does not listen on {addr}"));
            }
            clock::sleep(Duration::from_millis(20));
        }
        Ok(Shared { addr, process, _scratch: scratch })
    }

    /// Starts a gateway on this Redis. The CPU and memory of the [`Server`] do not include Redis.
    pub fn gateway(&self, settings: &Settings) -> Result<Server, String> {
        let mut settings = settings.clone();
        let broker = ("SSE_BROKER".to_owned(), "redis".to_owned());
        let url = ("SSE_REDIS__URL".to_owned(), format!("redis://{}", self.addr));
        settings.variables.extend([broker, url]);
        Ok(Server::start(Kind::GatewayMemory, &settings)?)
    }

    /// The CPU that Redis has used so far.
    pub fn cpu(&self) -> Cpu {
        proc::cpu(&[self.process.id()])
    }
}

/// The process of a gateway, observed from outside.
#[derive(Debug)]
pub struct Gateway {
    pid: u32,
    admin: SocketAddr,
}

impl Gateway {
    /// Finds the gateway of this server: the descendant of this process that listens on the
    /// server's address.
    pub fn of(server: &Server) -> Option<Gateway> {
        let addr = server.addr.to_string();
        proc::tree(std::process::id()).into_iter().find_map(|pid| {
            let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
            let value = |name| words.split('\0').skip_while(|word| *word != name).nth(1);
            let ours = value("--listen") == Some(&addr);
            let admin = value("--admin-listen").filter(|_| ours)?.parse().ok()?;
            Some(Gateway { pid, admin })
        })
    }

    /// How often the gateway has read history.
    pub fn reads(&self) -> Option<u64> {
        reads_in(&get(self.admin, "/metrics")?)
    }

    /// The most memory that was ever resident, in bytes.
    pub fn peak(&self) -> Option<u64> {
        peak_in(&fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?)
    }
}

/// The value of the metric; 0 if it is missing.
fn reads_in(metrics: &str) -> Option<u64> {
    let name = "sse_history_reads_total{result=\"ok\"} ";
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
    value.trim().parse::<f64>().ok().map(|count| count as u64)
}

fn peak_in(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(value.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_the_peak_are_found() {
        let metrics = "sse_history_reads_total{result=\"failed\"} 7\n\
                       sse_history_reads_total{result=\"ok\"} 12\n";
        assert_eq!((reads_in(metrics), reads_in("")), (Some(12), Some(0)));
        assert_eq!(peak_in("VmPeak:\t 9 kB\nVmHWM:\t    2 kB\n"), Some(2048));
    }
}
