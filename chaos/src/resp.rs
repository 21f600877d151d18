//! As much of Redis' protocol as a publisher needs, written by hand so that nothing is retried behind
//! the suite's back.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
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
pub struct Redis(BufReader<TcpStream>);

impl Redis {
    /// Connects.
    pub async fn connect(addr: SocketAddr) -> Result<Redis, String> {
        let stream = bounded(TcpStream::connect(addr)).await?;
        let _ = stream.set_nodelay(true);
        Ok(Redis(BufReader::new(stream)))
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
            let args = args.as_ref();
            wire.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
            for arg in args.iter().map(AsRef::as_ref) {
                wire.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
                wire.extend_from_slice(arg);
                wire.extend_from_slice(b"\r\n");
            }
        }
        bounded(self.0.get_mut().write_all(&wire)).await
    }

    /// The next answer.
    pub async fn reply(&mut self) -> Result<Reply, String> {
        let mut left = 1;
        let mut lines = Vec::new();
        let mut problem = None;
        while left > 0 {
            left -= 1;
            let mut head = String::new();
            bounded(self.0.read_line(&mut head)).await?;
            let head = head.trim_end();
            let Some(rest) = head.get(1..) else { return Err("the connection closed".to_owned()) };
            let number = rest.parse::<i64>().unwrap_or(0).max(0) as usize;
            match head.as_bytes()[0] {
                b'*' => left += number,
                b'$' if rest == "-1" => lines.push(String::new()),
                b'$' => {
                    let mut text = vec![0; number + 2];
                    bounded(self.0.read_exact(&mut text)).await?;
                    lines.push(String::from_utf8_lossy(&text[..number]).into_owned());
                }
                b'-' => problem = Some(rest.to_owned()),
                b'+' | b':' => lines.push(rest.to_owned()),
                _ => return Err(format!("not RESP: {head:?}")),
            }
        }
        Ok(problem.map_or_else(|| Reply::Text(lines.join("\n")), Reply::Error))
    }
}

async fn bounded<T>(work: impl Future<Output = std::io::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}
