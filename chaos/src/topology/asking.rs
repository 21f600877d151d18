//! Asks servers that may be dead or frozen. The lab's own functions panic where one does not
//! answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use sse_lab::resp::{answer, command};

use crate::topology::shared::Shared;

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long servers may take until they are in order again.
const BOUND: Duration = Duration::from_secs(90);

/// Runs a command, and returns its answer as text with one line for each element of an array. An
/// error that Redis answers is an error.
pub fn ask(addr: SocketAddr, words: &[&str]) -> Result<String, String> {
    let asked = || -> std::io::Result<Result<String, String>> {
        let mut stream = TcpStream::connect_timeout(&addr, Duration::from_millis(500))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut wire = Vec::new();
        command(&mut wire, words);
        stream.write_all(&wire)?;
        let (mut input, mut chunk) = (Vec::new(), [0; 16 * 1024]);
        loop {
            match answer(&input) {
                Ok(Some((answer, _))) => {
                    let refusal = answer.refusal().map(str::to_owned);
                    return Ok(refusal.map_or_else(|| Ok(answer.to_string()), Err));
                }
                Ok(None) => {}
                Err(error) => return Ok(Err(error)),
            }
            match stream.read(&mut chunk)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => input.extend_from_slice(&chunk[..n]),
            }
        }
    };
    asked().unwrap_or_else(|error| Err(error.to_string())).map_err(|e| format!("{addr}: {e}"))
}

/// Waits until the condition holds. Fails after a long time, or if the run is stopped.
pub fn until(
    shared: &Shared,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> Result<(), String> {
    let end = Instant::now() + BOUND;
    while !condition() {
        if shared.is_stopped() {
            return Err("interrupted".to_owned());
        }
        if Instant::now() > end {
            return Err(format!("it never came about: {what}"));
        }
        std::thread::park_timeout(Duration::from_millis(30));
    }
    Ok(())
}

/// A field of `INFO`.
pub fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}
