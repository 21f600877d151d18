//! A `redis-server` of a test's own, on a port of its own, gone with the test.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use redis::{Connection, FromRedisValue};

pub struct RedisServer {
    process: Child,
    pub port: u16,
}

impl RedisServer {
    /// Started, and ready.
    pub fn start() -> Self {
        // The kernel's choice may be taken by another before Redis has it: then another choice.
        (0..20).find_map(|_| Self::try_start()).expect("redis-server starts")
    }

    fn try_start() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut process = Command::new("redis-server")
            .args([
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
                "--port",
                &port.to_string(),
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.contains("Ready to accept")));
        // Its later lines go nowhere, but must not block it.
        std::thread::spawn(move || lines.for_each(drop));
        let server = RedisServer { process, port };
        ready.then_some(server)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The URL of a user made by `ACL SETUSER`, with these rules.
    pub fn url_of_user(&self, rules: &[&str]) -> String {
        let mut command = redis::cmd("ACL");
        command
            .arg("SETUSER")
            .arg("somebody")
            .arg("on")
            .arg(">secret")
            .arg("~*")
            .arg("&*")
            .arg("+@all");
        command.arg(rules).exec(&mut self.connect()).unwrap();
        format!("redis://somebody:secret@127.0.0.1:{}", self.port)
    }

    pub fn connect(&self) -> Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// Runs a command, its words separated by spaces.
    pub fn command<T: FromRedisValue>(&self, line: &str) -> T {
        let mut words = line.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            command.arg(word);
        });
        command.query(&mut self.connect()).unwrap()
    }

    /// The data in a channel's history, by the key of the stream.
    pub fn history(&self, key: &str) -> Vec<String> {
        let entries: Vec<(String, Vec<String>)> = self.command(&format!("XRANGE {key} - +"));
        entries.into_iter().map(|(_, mut fields)| fields.swap_remove(1)).collect()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
