//! Redis in a run: a master, a replica, and the wires to them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sse_lab::Signal;
use sse_lab::process::Process;
use sse_lab::redis_server;
use sse_lab::tcp_proxy::TcpProxy;

use crate::clock::{Clock, Shim};
use crate::resp::{PASSWORD, Redis, Reply};
use crate::settings::{Broker, Settings};

/// The longest start of a Redis server on a busy machine.
const START: Duration = Duration::from_secs(30);

/// The Redis user of gateways.
pub const GATEWAY_USER: &str = "gate";
/// The Redis user of publishers without a gateway.
pub const PUBLISHER_USER: &str = "shop";
/// The commands that docs/guide.md grants to a publisher, and those for scripts.
const PUBLISHER_RIGHTS: &str = "+hello +auth +client +fcall +evalsha +script|load +hmget +hget +hset +xinfo +xadd \
    +xdel +pexpireat +get +set +unlink +info +time +publish";
/// The commands that a gateway needs in addition.
const GATEWAY_RIGHTS: &str = "+function +subscribe +unsubscribe +ssubscribe +sunsubscribe +xrange \
    +xrevrange +config|get +ping +role +hincrby +hdel +exists +hexists +script +unwatch +del";

/// One `redis-server`.
#[derive(Debug)]
pub struct Node {
    /// The server's address, which survives restarts.
    pub addr: SocketAddr,
    /// The server's clock, if it can be set.
    pub clock: Option<Clock>,
    users: [String; 2],
    dir: PathBuf,
    process: Option<Process>,
}

impl Node {
    /// Starts a server without data in a directory of its own.
    pub async fn start(
        addr: SocketAddr,
        dir: PathBuf,
        settings: &Settings,
        shim: Option<Shim>,
    ) -> Result<Node, String> {
        std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let clock = shim.map(|shim| Clock::new(shim, dir.join("clock"))).transpose()?;
        let mut node = Node { addr, clock, users: users(settings), dir, process: None };
        node.revive(false).await?;
        Ok(node)
    }

    /// Starts the server again, with the data of the AOF or of the snapshot.
    pub async fn revive(&mut self, aof: bool) -> Result<(), String> {
        let mut command = redis_server::command(self.addr, &self.dir);
        command
            .args(["--protected-mode", "no", "--appendonly", if aof { "yes" } else { "no" }])
            .args(["--appendfsync", "always", "--repl-diskless-sync-delay", "0"])
            .args(["--repl-timeout", "10", "--enable-debug-command", "yes"]);
        for user in &self.users {
            command.arg("--user").args(user.split_whitespace());
        }
        if let Some(clock) = &self.clock {
            clock.rule(&mut command);
        }
        self.process = Some(Process::logged(&mut command, &self.dir.join("redis.log"))?);
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

    /// Kills the process, as a crash would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Kills the process and deletes its files.
    pub fn wipe(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(self.dir.join("dump.rdb"));
        let _ = std::fs::remove_dir_all(self.dir.join("appendonlydir"));
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    /// Runs a command on a new connection, past the wires.
    pub async fn call(&self, args: &[&str]) -> Result<Reply, String> {
        Redis::connect(self.addr).await?.call(args).await
    }

    /// Runs a command that must succeed, and returns its text.
    pub async fn must(&self, args: &[&str]) -> Result<String, String> {
        match self.call(args).await {
            Ok(Reply::Text(text)) => Ok(text),
            Ok(Reply::Error(error)) | Err(error) => {
                let args: String = args.join(" ").chars().take(100).collect();
                Err(format!("{args}: {error}"))
            }
        }
    }

    /// Writes a snapshot. Waits while another one is being written.
    pub async fn save(&self) -> Result<(), String> {
        let end = Instant::now() + START;
        loop {
            match self.must(&["SAVE"]).await {
                Err(error) if error.contains("in progress") && Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                done => return done.map(|_| ()),
            }
        }
    }

    /// Runs commands in one transaction; all must succeed.
    pub async fn must_all(&self, commands: &[Vec<String>]) -> Result<(), String> {
        let mut connection = Redis::connect(self.addr).await?;
        let one = |name: &str| vec![name.to_owned()];
        let all: Vec<_> =
            [one("MULTI")].into_iter().chain(commands.to_vec()).chain([one("EXEC")]).collect();
        connection.send(&all).await?;
        for args in &all {
            if let Reply::Error(error) = connection.reply().await? {
                let args: String = args.join(" ").chars().take(100).collect();
                return Err(format!("{args}: {error}"));
            }
        }
        Ok(())
    }

    /// One field of `INFO`; empty if it is missing.
    pub async fn info(&self, field: &str) -> Result<String, String> {
        let text = self.must(&["INFO"]).await?;
        let head = format!("{field}:");
        Ok(text.lines().find_map(|line| line.strip_prefix(&head)).unwrap_or_default().to_owned())
    }

    /// Makes the server a replica of the one at this address.
    pub async fn follow(&self, addr: SocketAddr) -> Result<(), String> {
        let (host, port) = (addr.ip().to_string(), addr.port().to_string());
        self.must(&["REPLICAOF", &host, &port]).await.map(|_| ())
    }

    /// Makes the server a master.
    pub async fn lead(&self) -> Result<(), String> {
        self.must(&["REPLICAOF", "NO", "ONE"]).await.map(|_| ())
    }

    /// Waits until the link to the master is up, and so the initial synchronization complete.
    pub async fn caught_up(&self) -> Result<(), String> {
        let end = Instant::now() + START;
        while self.info("master_link_status").await? != "up" {
            if Instant::now() > end {
                return Err("the replica does not follow the master".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// The users of gateways and publishers, in the syntax of `redis-server`.
fn users(settings: &Settings) -> [String; 2] {
    let limited = |rights: &str| format!("~sse:* &sse:* -@all {rights}");
    let rights = match settings.limited_user {
        true => {
            [limited(&format!("{PUBLISHER_RIGHTS} {GATEWAY_RIGHTS}")), limited(PUBLISHER_RIGHTS)]
        }
        false => ["~* &* +@all".to_owned(), "~* &* +@all".to_owned()],
    };
    let functions = if settings.broker == Broker::Scripts { "-function -fcall" } else { "" };
    let [gateway, publisher] = rights;
    [
        format!("{GATEWAY_USER} on >{PASSWORD} {gateway} {functions}"),
        format!("{PUBLISHER_USER} on >{PASSWORD} {publisher} {functions}"),
    ]
}

/// A wire: an address at which Redis is reached.
pub type Link = Rc<TcpProxy>;

fn link(host: IpAddr, node: SocketAddr) -> Result<Link, String> {
    let proxy = TcpProxy::on(host, node);
    proxy.map(Rc::new).map_err(|error| format!("listening on {host}: {error}"))
}

/// The master, its replica and the wires.
#[derive(Debug)]
pub struct RedisSide {
    /// The server that publishers and gateways use.
    pub master: Node,
    /// Follows the master over [`RedisSide::replication`].
    pub replica: Node,
    /// The wire from the replica to the master.
    pub replication: Link,
    /// The wires from gateways and publishers to the master.
    pub links: Vec<Link>,
}

impl RedisSide {
    /// Starts two nodes, and opens a wire on each of `hosts`, in this order.
    pub async fn start(
        nodes: [IpAddr; 2],
        hosts: &[IpAddr],
        dir: PathBuf,
        settings: &Settings,
    ) -> Result<Self, String> {
        let shim = Shim::compile(&dir)
            .inspect_err(|error| eprintln!("no clock is set in this run: {error}"))
            .ok();
        let [first, second] = nodes.map(|ip| SocketAddr::new(ip, 6379));
        let master = Node::start(first, dir.join("redis-1"), settings, shim.clone()).await?;
        let replica = Node::start(second, dir.join("redis-2"), settings, shim).await?;
        let replication = link(first.ip(), first)?;
        let mut links = Vec::new();
        for host in hosts {
            links.push(link(*host, first)?);
        }
        replica.follow(replication.addr).await?;
        Ok(RedisSide { master, replica, replication, links })
    }

    /// Makes the replica the master for the suite and for replication. Does not change the roles of
    /// the servers, nor the wires of clients.
    pub fn swap(&mut self) {
        std::mem::swap(&mut self.master, &mut self.replica);
        self.replication.switch(self.master.addr);
        self.replication.stall(false);
    }
}
