//! Redis as the run has it: a master, a replica, and the wires that lead to them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::process::Process;
use crate::proxy::Link;
use crate::resp::{Redis, Reply};

/// How long a Redis may take to start on a busy machine.
const START: Duration = Duration::from_secs(30);

/// One `redis-server`.
#[derive(Debug)]
pub struct Node {
    /// Its address, which stays the same when it restarts.
    pub addr: SocketAddr,
    dir: PathBuf,
    process: Option<Process>,
}

impl Node {
    /// Starts one without data in a directory of its own.
    pub async fn start(addr: SocketAddr, dir: PathBuf) -> Result<Node, String> {
        std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let mut node = Node { addr, dir, process: None };
        node.revive(false).await?;
        Ok(node)
    }

    /// Starts it again with what its persistence kept; from the AOF or from the snapshot.
    pub async fn revive(&mut self, aof: bool) -> Result<(), String> {
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", &self.addr.ip().to_string(), "--protected-mode", "no"])
            .args(["--port", &self.addr.port().to_string(), "--dir"])
            .arg(&self.dir)
            .args(["--save", "", "--appendonly", if aof { "yes" } else { "no" }])
            .args(["--appendfsync", "always", "--repl-diskless-sync-delay", "0"])
            .args(["--repl-timeout", "10"]);
        self.process = Some(Process::start(&mut command, &self.dir.join("redis.log"))?);
        let end = Instant::now() + START;
        loop {
            if let Ok(Reply::Text(pong)) = self.call(&["PING"]).await
                && pong == "PONG"
            {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!("redis-server at {} does not start", self.addr));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Ends it and forgets what it wrote to disk.
    pub fn wipe(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(self.dir.join("dump.rdb"));
        let _ = std::fs::remove_dir_all(self.dir.join("appendonlydir"));
    }

    /// Stops or continues it.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    /// Runs one command on a connection of its own, past the wires.
    pub async fn call(&self, args: &[&str]) -> Result<Reply, String> {
        Redis::connect(self.addr).await?.call(args).await
    }

    /// Runs one command that must succeed; answers its text.
    pub async fn must(&self, args: &[&str]) -> Result<String, String> {
        match self.call(args).await {
            Ok(Reply::Text(text)) => Ok(text),
            Ok(Reply::Error(error)) | Err(error) => Err(format!("{args:?}: {error}")),
        }
    }

    /// One field of `INFO`.
    pub async fn info(&self, field: &str) -> Result<String, String> {
        let text = self.must(&["INFO"]).await?;
        let head = format!("{field}:");
        Ok(text.lines().find_map(|line| line.strip_prefix(&head)).unwrap_or_default().to_owned())
    }
}

/// The master, its replica and who may reach them.
#[derive(Debug)]
pub struct RedisSide {
    /// Whoever publishes and serves.
    pub master: Node,
    /// Follows the master over [`RedisSide::replication`].
    pub replica: Node,
    /// From the replica to the master.
    pub replication: Link,
    /// From gateways and publishers to the master.
    pub links: Vec<Link>,
}

impl RedisSide {
    /// Two nodes; links are opened on `hosts`, in this order.
    pub async fn start(nodes: [IpAddr; 2], hosts: &[IpAddr], dir: PathBuf) -> Result<Self, String> {
        let [first, second] = nodes.map(|ip| SocketAddr::new(ip, 6379));
        let master = Node::start(first, dir.join("redis-1")).await?;
        let replica = Node::start(second, dir.join("redis-2")).await?;
        let replication = Link::open(first.ip(), first).await?;
        let mut links = Vec::new();
        for host in hosts {
            links.push(Link::open(*host, first).await?);
        }
        let side = RedisSide { master, replica, replication, links };
        side.follow().await?;
        Ok(side)
    }

    /// Makes the replica follow the master.
    pub async fn follow(&self) -> Result<(), String> {
        let (host, port) = (self.replication.addr.ip(), self.replication.addr.port());
        self.replica.must(&["REPLICAOF", &host.to_string(), &port.to_string()]).await.map(|_| ())
    }

    /// Waits until the replica has all there was.
    pub async fn caught_up(&self) -> Result<(), String> {
        let end = Instant::now() + START;
        while self.replica.info("master_link_status").await? != "up" {
            if Instant::now() > end {
                return Err("the replica does not follow the master".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// The replica becomes the master of everybody; the old one is killed and follows it, empty.
    pub async fn promote(&mut self) -> Result<(), String> {
        self.replication.cut();
        self.replica.must(&["REPLICAOF", "NO", "ONE"]).await?;
        for link in &self.links {
            link.switch(self.replica.addr);
        }
        std::mem::swap(&mut self.master, &mut self.replica);
        self.replica.wipe();
        self.replication.switch(self.master.addr);
        self.replication.stall(false);
        self.replica.revive(false).await?;
        self.follow().await
    }
}
