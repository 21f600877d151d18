//! The gateways of a run: real processes, each with its own wire to Redis.

use std::fs::File;
use std::io::PipeReader;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use sse_lab::Signal;
use sse_lab::process::Process;

use crate::namespace::Namespace;
use crate::publisher::exchange;
use crate::redis_side::{GATEWAY_USER, Link};
use crate::resp::PASSWORD;

/// What happens to a gateway's standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// It goes to a file.
    File,
    /// The reader has closed the pipe.
    Gone,
    /// The pipe stays open, but nothing reads it.
    Stalled,
}

/// One gateway process.
#[derive(Debug)]
pub struct Gateway {
    /// The address it serves.
    pub addr: SocketAddr,
    /// Its wire to Redis; none with the memory broker.
    pub link: Option<Link>,
    program: PathBuf,
    log: PathBuf,
    log_reader: Reader,
    /// Keeps the pipe open for [`Reader::Stalled`].
    unread: Option<PipeReader>,
    settings: Vec<String>,
    // Dropped before the namespace, so that no process stays inside a deleted namespace.
    process: Option<Process>,
    namespace: Option<Namespace>,
}

impl Gateway {
    /// A gateway that is not started yet. Inside a namespace it has the namespace's address.
    pub fn new(
        host: IpAddr,
        program: &Path,
        log: PathBuf,
        log_reader: Reader,
        settings: Vec<String>,
        link: Option<Link>,
        namespace: Option<Namespace>,
    ) -> Self {
        let host = namespace.as_ref().map_or(host, |ns| ns.inside);
        Gateway {
            addr: SocketAddr::new(host, 8080),
            link,
            program: program.to_owned(),
            log,
            log_reader,
            unread: None,
            settings,
            process: None,
            namespace,
        }
    }

    /// Starts the process, which waits for Redis by itself.
    pub fn start(&mut self) -> Result<(), String> {
        let mut command = match &self.namespace {
            Some(namespace) => namespace.command(&self.program),
            None => Command::new(&self.program),
        };
        // A namespace has its own loopback, so this address is free in each.
        let admin =
            if self.namespace.is_some() { Ipv4Addr::LOCALHOST.into() } else { self.addr.ip() };
        command
            .args(["--open", "--wait-for-redis", "120s", "--listen", &self.addr.to_string()])
            .args(["--admin-listen", &SocketAddr::new(admin, 9090).to_string()]);
        if let Some(link) = &self.link {
            let url = format!("redis://{GATEWAY_USER}:{PASSWORD}@{}", link.addr);
            command.args(["--redis", &url]);
        }
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        // The suite's own environment must not configure the gateway.
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        self.process = Some(self.run(&mut command)?);
        Ok(())
    }

    fn run(&mut self, command: &mut Command) -> Result<Process, String> {
        if self.log_reader == Reader::File {
            return Process::logged(command, &self.log);
        }
        let (reader, writer) = std::io::pipe().map_err(|error| error.to_string())?;
        let out = File::options().create(true).append(true).open(&self.log);
        let out = out.map_err(|error| format!("{}: {error}", self.log.display()))?;
        self.unread = Some(reader).filter(|_| self.log_reader == Reader::Stalled);
        Process::start(command.stdin(Stdio::null()).stdout(out).stderr(writer))
    }

    /// Kills the process, as a crash would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    /// Ends the process with SIGTERM, as an orchestrator does. Fails if the exit is late or
    /// unsuccessful.
    pub async fn drain(&mut self) -> Result<(), String> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let served = self.answers().await;
        process.signal(Signal::TERM);
        match ended(&mut process).await {
            // A gateway that still waits for Redis has nothing to drain, so any exit status is
            // fine.
            Some(status) if status.success() || !served => Ok(()),
            Some(status) => Err(format!("{} ended at SIGTERM with {status}", self.addr)),
            None => Err(format!("{} was still there 15 s after SIGTERM", self.addr)),
        }
    }

    /// Whether it answers requests: it accepts connections before it has reached Redis.
    async fn answers(&self) -> bool {
        let request = b"HEAD / HTTP/1.1\r\nHost: chaos\r\nConnection: close\r\n\r\n";
        let answer = tokio::time::timeout(Duration::from_secs(1), exchange(self.addr, request));
        matches!(answer.await, Ok(Ok(_)))
    }

    /// How the process ended, if it ended although no fault ended it.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.process.as_mut()?.ended()?;
        self.process = None;
        Some(format!("the gateway {} ended by itself with {status}", self.addr))
    }

    /// Waits until it answers requests, for 40 s at most.
    pub async fn serving(&self) -> Result<(), String> {
        let end = Instant::now() + Duration::from_secs(40);
        while !self.answers().await {
            if Instant::now() > end {
                return Err(format!("the gateway at {} does not start", self.addr));
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        Ok(())
    }

    /// The network namespace it runs in.
    pub fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }

    /// The lines about panics in its log.
    pub fn panics(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains("panicked")).map(str::to_owned).collect()
    }
}

/// Waits for the end of a process, for 15 s at most, without blocking the other tasks.
async fn ended(process: &mut Process) -> Option<ExitStatus> {
    let end = Instant::now() + Duration::from_secs(15);
    loop {
        let status = process.ended();
        if status.is_some() || Instant::now() > end {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
