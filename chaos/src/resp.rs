//! An asynchronous connection to Redis that retries nothing unseen by the suite.

use std::net::SocketAddr;
use std::time::Duration;

use sse_lab::resp::{answer, command};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest wait for Redis.
const PATIENCE: Duration = Duration::from_secs(2);

/// The password of all users that the suite makes.
pub const PASSWORD: &str = "chaos";

/// An answer of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Text, or a number as text; empty for nil. The elements of an array are one line each.
    Text(String),
    /// Redis refused the command.
    Error(String),
}

/// A connection on which no operation takes longer than [`PATIENCE`].
#[derive(Debug)]
pub struct Redis {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Redis {
    /// Connects.
    pub async fn connect(addr: SocketAddr) -> Result<Redis, String> {
        let stream = bounded(TcpStream::connect(addr)).await?;
        let _ = stream.set_nodelay(true);
        Ok(Redis { stream, input: Vec::new() })
    }

    /// Connects and logs in.
    pub async fn log_in(addr: SocketAddr, user: &str) -> Result<Redis, String> {
        let mut connection = Redis::connect(addr).await?;
        match connection.call(&["AUTH", user, PASSWORD]).await? {
            Reply::Text(_) => Ok(connection),
            Reply::Error(error) => Err(error),
        }
    }

    /// Runs a command.
    pub async fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Reply, String> {
        self.send(&[args]).await?;
        self.reply().await
    }

    /// Sends commands without waiting. Call [`Redis::reply`] once for each.
    pub async fn send<A: AsRef<[u8]>, C: AsRef<[A]>>(
        &mut self,
        commands: &[C],
    ) -> Result<(), String> {
        let mut wire = Vec::new();
        for args in commands {
            command(&mut wire, args.as_ref());
        }
        bounded(self.stream.write_all(&wire)).await
    }

    /// Reads the next answer. An array that contains an error is that error.
    pub async fn reply(&mut self) -> Result<Reply, String> {
        let mut piece = vec![0; 64 * 1024];
        loop {
            if let Some((answer, length)) = answer(&self.input)? {
                self.input.drain(..length);
                let refusal = answer.refusal().map(|error| Reply::Error(error.to_owned()));
                return Ok(refusal.unwrap_or_else(|| Reply::Text(answer.to_string())));
            }
            match bounded(self.stream.read(&mut piece)).await? {
                0 => return Err("the connection closed".to_owned()),
                n => self.input.extend_from_slice(&piece[..n]),
            }
        }
    }
}

async fn bounded<T>(work: impl Future<Output = std::io::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}
