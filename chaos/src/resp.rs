//! A connection to Redis that holds up nobody else, and retries nothing behind the suite's back.

use std::net::SocketAddr;
use std::time::Duration;

use sse_lab::resp::{answer, command};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long Redis may take before nobody waits for it any longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Of every user that the suite makes.
pub const PASSWORD: &str = "chaos";

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Text, or a number as text; empty for nil. An array is its elements, a line each.
    Text(String),
    /// Redis refused.
    Error(String),
}

/// A connection that waits for no answer longer than [`PATIENCE`].
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

    /// Connects and says who it is.
    pub async fn log_in(addr: SocketAddr, user: &str) -> Result<Redis, String> {
        let mut connection = Redis::connect(addr).await?;
        match connection.call(&["AUTH", user, PASSWORD]).await? {
            Reply::Text(_) => Ok(connection),
            Reply::Error(error) => Err(error),
        }
    }

    /// Runs one command.
    pub async fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Reply, String> {
        self.send(&[args]).await?;
        self.reply().await
    }

    /// Sends commands without waiting for answers; there will be one [`Redis::reply`] for each.
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

    /// The next answer.
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
