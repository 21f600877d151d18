//! A master with replicas, and the Sentinels that watch over them.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::process::{Process, spawn};
use crate::redis_server::RedisServer;
use crate::resp::Connection;
use crate::scratch::Scratch;
use crate::{eventually, own_addr};

/// What the Sentinels call the master.
pub const NAME: &str = "mymaster";

/// Running servers and Sentinels.
#[derive(Debug)]
pub struct Sentinels {
    /// The first is the master at the beginning; the others are its replicas.
    pub servers: Vec<RedisServer>,
    /// The Sentinels.
    pub sentinels: Vec<Sentinel>,
}

/// One Sentinel.
#[derive(Debug)]
pub struct Sentinel {
    /// Its address.
    pub addr: SocketAddr,
    /// Where it speaks without TLS.
    plain: SocketAddr,
    process: Process,
    _dir: Scratch,
}

impl Sentinels {
    /// Starts a master, so many replicas and three Sentinels, and waits until they know each other.
    /// `password` is the Sentinels' own; empty for none.
    #[track_caller]
    pub fn start(replicas: usize, password: &str) -> Self {
        let master = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
        let replicas: Vec<RedisServer> = (0..replicas).map(|_| master.replica()).collect();
        let sentinels =
            (0..3).map(|_| Sentinel::start(master.addr, password, own_addr(), &[])).collect();
        let all = Sentinels { servers: [master].into_iter().chain(replicas).collect(), sentinels };
        know_each_other(&all.sentinels, password, all.servers.len() - 1);
        all
    }

    /// Starts three Sentinels that speak TLS, to a master without replicas and to clients, each on a
    /// port beside its plain one. `lines` are the further lines of the configuration of a Sentinel on
    /// this address.
    #[track_caller]
    pub fn over_tls(
        master: SocketAddr,
        password: &str,
        lines: impl Fn(IpAddr) -> Vec<String>,
    ) -> Vec<Sentinel> {
        let start = || {
            let addr = own_addr();
            let tls = TcpListener::bind((addr.ip(), 0)).and_then(|listener| listener.local_addr());
            let tls = tls.expect("a free port");
            let mut lines = lines(addr.ip());
            lines.extend([format!("tls-port {}", tls.port()), "tls-replication yes".to_owned()]);
            Sentinel { addr: tls, plain: addr, ..Sentinel::start(master, password, addr, &lines) }
        };
        let sentinels: Vec<Sentinel> = (0..3).map(|_| start()).collect();
        know_each_other(&sentinels, password, 0);
        sentinels
    }

    /// The URL of the master behind these Sentinels.
    pub fn url_of(sentinels: &[Sentinel]) -> String {
        let addrs: Vec<String> = sentinels.iter().map(|s| s.addr.to_string()).collect();
        format!("redis+sentinel://{}/{NAME}", addrs.join(","))
    }

    /// The URL of the master behind the Sentinels.
    pub fn url(&self) -> String {
        Self::url_of(&self.sentinels)
    }
}

/// Waits until the Sentinels know each other and so many replicas.
#[track_caller]
fn know_each_other(sentinels: &[Sentinel], password: &str, replicas: usize) {
    eventually("the Sentinels know the servers and each other", || {
        sentinels.iter().all(|sentinel| {
            let told = sentinel.command(password, &["SENTINEL", "MASTER", NAME]);
            let lines: Vec<&str> = told.lines().collect();
            let field = |name: &str| {
                lines.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].to_owned())
            };
            field("num-slaves") == Some(replicas.to_string())
                && field("num-other-sentinels").as_deref() == Some("2")
        })
    });
}

impl Sentinel {
    #[track_caller]
    fn start(master: SocketAddr, password: &str, addr: SocketAddr, more: &[String]) -> Self {
        let dir = Scratch::new("sentinel");
        let file = dir.path().join("sentinel.conf");
        let mut lines = vec![
            format!("bind {}", addr.ip()),
            format!("port {}", addr.port()),
            format!("dir {}", dir.path().display()),
            "protected-mode no".to_owned(),
            format!("sentinel announce-ip {}", addr.ip()),
            format!("sentinel monitor {NAME} {} {} 2", master.ip(), master.port()),
            format!("sentinel down-after-milliseconds {NAME} 1000"),
            format!("sentinel failover-timeout {NAME} 4000"),
        ];
        if !password.is_empty() {
            lines.push(format!("requirepass {password}"));
            lines.push(format!("sentinel sentinel-pass {password}"));
        }
        lines.extend(more.iter().cloned());
        std::fs::write(&file, lines.join("\n")).expect("the scratch directory takes files");
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel").stdout(Stdio::piped());
        let mut process = spawn(&mut command, "redis-server");
        let mut lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.contains("+monitor master")));
        assert!(ready, "the Sentinel ended at its start");
        // Keeps reading the log, or a full pipe would block the Sentinel.
        std::thread::spawn(move || lines.for_each(drop));
        Sentinel { addr, plain: addr, process, _dir: dir }
    }

    /// Stops the process with SIGSTOP, as if nothing reached it.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Resumes the process.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Kills the process.
    pub fn kill(&mut self) {
        self.process.end();
    }

    /// Runs a command and returns its answer as text, with one line for each element of an array.
    #[track_caller]
    pub fn command(&self, password: &str, words: &[&str]) -> String {
        let mut connection = Connection::to(self.plain);
        if !password.is_empty() {
            assert_eq!(connection.ask(["AUTH", password]).text(), "OK");
        }
        connection.ask(words).to_string()
    }
}
