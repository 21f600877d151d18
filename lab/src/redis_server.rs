//! A `redis-server` of a test's own, on an address of its own, gone with the test.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::process::{Process, spawn};
use crate::resp::Connection;
use crate::scratch::Scratch;
use crate::{eventually, own_addr};

/// The command of one that listens there. It writes to this directory, and only if it is told to.
pub fn command(addr: SocketAddr, dir: &Path) -> Command {
    let mut command = Command::new("redis-server");
    command.args(["--bind", &addr.ip().to_string(), "--port", &addr.port().to_string()]);
    command.args(["--save", "", "--dir"]).arg(dir);
    command
}

/// A running `redis-server`.
#[derive(Debug)]
pub struct RedisServer {
    /// Its address, which stays the same when it starts again.
    pub addr: SocketAddr,
    process: Process,
    command: Command,
    _dir: Scratch,
}

impl RedisServer {
    /// An empty one without persistence.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With further arguments.
    #[track_caller]
    pub fn start_with(args: &[&str]) -> Self {
        Self::start_in(&[], args)
    }

    /// With these variables in its environment, and further arguments.
    #[track_caller]
    pub fn start_in(env: &[(&str, &str)], args: &[&str]) -> Self {
        let (addr, dir) = (own_addr(), Scratch::new("redis"));
        let mut command = command(addr, dir.path());
        command.args(args).envs(env.iter().copied()).stdout(Stdio::piped());
        let process = ready(&mut command);
        RedisServer { addr, process, command, _dir: dir }
    }

    /// Where clients of the `redis` library connect.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// Ends the process as a crash would.
    pub fn kill(&mut self) {
        self.process.end();
    }

    /// Starts it again on the same address, with what its persistence kept.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process = ready(&mut self.command);
    }

    /// Stops the process: connections stay, and nothing is answered.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Runs one command; answers it as text, arrays as lines.
    #[track_caller]
    pub fn command<A: AsRef<[u8]>>(&self, words: &[A]) -> String {
        Connection::to(self.addr).ask(words).to_string()
    }

    /// Runs one command as a user without password.
    #[track_caller]
    pub fn command_as(&self, user: &str, words: &[&str]) -> String {
        let mut connection = Connection::to(self.addr);
        assert_eq!(connection.ask(["AUTH", user, "-"]).text(), "OK");
        connection.ask(words).to_string()
    }

    /// Publishes as any service may, by one command.
    #[track_caller]
    pub fn fcall(&self, channel: &str, data: &str) -> String {
        let history = format!("sse:history:{channel}");
        self.command(&["FCALL", "sse_publish", "2", "sse:state", &history, data])
    }

    /// A replica of it, in step with it.
    #[track_caller]
    pub fn replica(&self) -> Self {
        let replica = Self::start();
        // It would wait some seconds for others to come.
        self.command(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
        let [host, port] = [self.addr.ip().to_string(), self.addr.port().to_string()];
        replica.command(&["REPLICAOF", &host, &port]);
        eventually("the replica is in step", || {
            replica.command(&["INFO", "replication"]).contains("master_link_status:up")
        });
        replica
    }
}

/// Starts one and waits until it says that it is ready.
#[track_caller]
fn ready(command: &mut Command) -> Process {
    let mut process = spawn(command, "redis-server");
    let mut lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
    let ready =
        lines.any(|line| line.is_ok_and(|line| line.contains("Ready to accept connections")));
    assert!(ready, "redis-server ended at its start");
    // Somebody must go on reading, or its log would block it.
    std::thread::spawn(move || lines.for_each(drop));
    process
}
