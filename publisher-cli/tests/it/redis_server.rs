//! A `redis-server` of one test, and the commands that tests send to it.

use std::net::SocketAddr;

use redis::{Connection, FromRedisValue};

pub struct RedisServer {
    pub addr: SocketAddr,
    server: sse_lab::redis_server::RedisServer,
}

impl RedisServer {
    /// Starts a server and waits until it is ready.
    pub fn start() -> Self {
        let server = sse_lab::redis_server::RedisServer::start();
        RedisServer { addr: server.addr, server }
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Creates a user with these ACL rules and returns its URL.
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
        format!("redis://somebody:secret@{}", self.addr)
    }

    pub fn connect(&self) -> Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// Runs a command; its words are separated by spaces.
    pub fn command<T: FromRedisValue>(&self, line: &str) -> T {
        let mut words = line.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            command.arg(word);
        });
        command.query(&mut self.connect()).unwrap()
    }

    /// The data in the history under this key.
    pub fn history(&self, key: &str) -> Vec<String> {
        let entries: Vec<(String, Vec<String>)> = self.command(&format!("XRANGE {key} - +"));
        entries.into_iter().map(|(_, mut fields)| fields.swap_remove(1)).collect()
    }
}
