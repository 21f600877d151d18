//! The gateways of the run: real processes, each behind its own wire to Redis.

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

/// Who reads what a gateway says on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// It goes to a file.
    File,
    /// Nobody any more.
    Gone,
    /// Somebody who has stopped to.
    Stalled,
}

/// One gateway.
#[derive(Debug)]
pub struct Gateway {
    /// Where it serves.
    pub addr: SocketAddr,
    /// Its way to Redis; none for one that keeps events in its own memory.
    pub link: Option<Link>,
    program: PathBuf,
    log: PathBuf,
    log_reader: Reader,
    /// What nobody reads.
    unread: Option<PipeReader>,
    settings: Vec<String>,
    // Before the namespace, so that nobody is left inside when that goes.
    process: Option<Process>,
    namespace: Option<Namespace>,
}

impl Gateway {
    /// One that is not started yet. In a namespace it is reached at the namespace's address.
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

    /// Starts the process; it waits for Redis by itself.
    pub fn start(&mut self) -> Result<(), String> {
        let mut command = match &self.namespace {
            Some(namespace) => namespace.command(&self.program),
            None => Command::new(&self.program),
        };
        // Inside a namespace the loopback is its own, so this address is free everywhere.
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
        // The suite's own environment configures nothing.
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

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    /// Ends it as an orchestrator does. The error tells how it ended otherwise than it should.
    pub async fn drain(&mut self) -> Result<(), String> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let served = self.answers().await;
        process.signal(Signal::TERM);
        match ended(&mut process).await {
            // One that still waits for Redis has nothing to drain.
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

    /// How it ended, if it did although nobody ended it.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.process.as_mut()?.ended()?;
        self.process = None;
        Some(format!("the gateway {} ended by itself with {status}", self.addr))
    }

    /// Waits until it answers requests.
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

    /// The namespace it lives in.
    pub fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }

    /// What its log says of panics.
    pub fn panics(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains("panicked")).map(str::to_owned).collect()
    }
}

/// Waits for a process' end, for 15 s at most, while everybody else goes on.
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
