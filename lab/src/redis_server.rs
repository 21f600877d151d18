//! A real `redis-server` on an address of its own, killed at the end of the test.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::process::{Process, spawn};
use crate::resp::Connection;
use crate::scratch::Scratch;
use crate::{eventually, own_addr};

/// The command that starts a server on `addr` with `dir` as its directory. Without further
/// arguments it writes no file.
pub fn command(addr: SocketAddr, dir: &Path) -> Command {
    let mut command = Command::new("redis-server");
    command.args(["--bind", &addr.ip().to_string(), "--port", &addr.port().to_string()]);
    command.args(["--save", "", "--dir"]).arg(dir);
    command
}

/// A running `redis-server`.
#[derive(Debug)]
pub struct RedisServer {
    /// The server's address, which survives restarts.
    pub addr: SocketAddr,
    process: Process,
    command: Command,
    _dir: Scratch,
}

impl RedisServer {
    /// Starts an empty server without persistence.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with further arguments.
    #[track_caller]
    pub fn start_with(args: &[&str]) -> Self {
        Self::start_in(&[], args)
    }

    /// Starts a server with further environment variables and arguments.
    #[track_caller]
    pub fn start_in(env: &[(&str, &str)], args: &[&str]) -> Self {
        let (addr, dir) = (own_addr(), Scratch::new("redis"));
        let mut command = command(addr, dir.path());
        // Otherwise others would take this server for 127.0.0.1, from where it connects to them.
        command.args(["--replica-announce-ip", &addr.ip().to_string()]);
        command.args(["--cluster-announce-ip", &addr.ip().to_string()]);
        command.args(args).envs(env.iter().copied()).stdout(Stdio::piped());
        let process = ready(&mut command);
        RedisServer { addr, process, command, _dir: dir }
    }

    /// The URL of the server.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// Kills the process, as a crash would.
    pub fn kill(&mut self) {
        self.process.end();
    }

    /// Starts the server again on the same address. It has the data that its persistence kept.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process = ready(&mut self.command);
    }

    /// Stops the process with SIGSTOP: connections stay open, and nothing is answered.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Resumes the process.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Runs a command and returns its answer as text, with one line for each element of an array.
    #[track_caller]
    pub fn command<A: AsRef<[u8]>>(&self, words: &[A]) -> String {
        Connection::to(self.addr).ask(words).to_string()
    }

    /// Runs a command as a user that any password logs in.
    #[track_caller]
    pub fn command_as(&self, user: &str, words: &[&str]) -> String {
        let mut connection = Connection::to(self.addr);
        assert_eq!(connection.ask(["AUTH", user, "-"]).text(), "OK");
        connection.ask(words).to_string()
    }

    /// Publishes an event as any service can, with one `FCALL`.
    #[track_caller]
    pub fn fcall(&self, channel: &str, data: &str) -> String {
        let history = format!("sse:history:{channel}");
        self.command(&["FCALL", "sse_publish", "2", "sse:state", &history, data])
    }

    /// Starts a replica of this server and waits until the two are in sync.
    #[track_caller]
    pub fn replica(&self) -> Self {
        let replica = Self::start();
        // By default the server waits some seconds for further replicas.
        self.command(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
        let [host, port] = [self.addr.ip().to_string(), self.addr.port().to_string()];
        replica.command(&["REPLICAOF", &host, &port]);
        eventually("the replica is in step", || {
            replica.command(&["INFO", "replication"]).contains("master_link_status:up")
        });
        replica
    }
}

/// Starts a server and waits until it is ready.
#[track_caller]
fn ready(command: &mut Command) -> Process {
    let mut process = spawn(command, "redis-server");
    let mut lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
    let ready =
        lines.any(|line| line.is_ok_and(|line| line.contains("Ready to accept connections")));
    assert!(ready, "redis-server ended at its start");
    // Keeps reading the log, or a full pipe would block the server.
    std::thread::spawn(move || lines.for_each(drop));
    process
}
