//! A publisher's connection to Redis. It calls the function `sse_publish` as any service can, one
//! batch per round trip.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use sse_contract::{Call, Channel, ChannelError, Keys, Publish};

use super::{Failure, Item};

/// A batch without an answer in this time has failed.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
    keys: Keys,
    wire: Vec<u8>,
}

impl Client {
    /// Connects.
    pub fn connect(addr: SocketAddr, prefix: &str) -> Result<Client, String> {
        let text = |error: std::io::Error| format!("connect to Redis at {addr}: {error}");
        let stream = TcpStream::connect_timeout(&addr, PATIENCE).map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(text)?;
        let stream = BufReader::new(stream);
        Ok(Client { stream, keys: Keys::new(prefix, 1), wire: Vec::new() })
    }

    /// Publishes all items and returns how many were accepted.
    pub fn publish(&mut self, items: &[Item<'_>]) -> Result<usize, Failure> {
        self.wire.clear();
        for item in items {
            command(&mut self.wire, &self.keys, item)?;
        }
        let sent = self.stream.get_mut().write_all(&self.wire);
        sent.map_err(|error| format!("send: {error}"))?;
        let (mut taken, mut error) = (0, None);
        for _ in items {
            match self.reply()? {
                Ok(()) => taken += 1,
                Err(text) => error = Some(text),
            }
        }
        match error {
            Some(text) if taken == 0 => Err(Failure::Refused(text)),
            _ => Ok(taken),
        }
    }

    /// Reads one answer: the event's id, or an error of Redis.
    fn reply(&mut self) -> Result<Result<(), String>, String> {
        let text = |error: std::io::Error| format!("no answer: {error}");
        let mut line = String::new();
        self.stream.read_line(&mut line).map_err(text)?;
        let rest = line.trim_end().get(1..).ok_or("Redis closed the connection")?;
        match line.as_bytes()[0] {
            b'$' => {
                let length: usize = rest.parse().map_err(|_| format!("not an id: {line:?}"))?;
                let mut id = vec![0; length + 2];
                self.stream.read_exact(&mut id).map_err(text)?;
                Ok(Ok(()))
            }
            b'+' => Ok(Ok(())),
            b'-' => Ok(Err(rest.to_owned())),
            _ => Err(format!("not an id: {line:?}")),
        }
    }
}

/// Appends the call that publishes an item.
fn command(wire: &mut Vec<u8>, keys: &Keys, item: &Item<'_>) -> Result<(), String> {
    let channel: Channel = item.channel.parse().map_err(|error: ChannelError| error.to_string())?;
    let item = Publish { channel: &channel, event: None, data: item.data, idempotency_key: None };
    let call = Call::publish(keys, &item, None);
    let name = call.function().name().as_bytes();
    wire.extend_from_slice(format!("*{}\r\n", 2 + call.words().len()).as_bytes());
    for word in [b"FCALL", name].into_iter().chain(call.words()) {
        wire.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        wire.extend_from_slice(word);
        wire.extend_from_slice(b"\r\n");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Publishes two events to a server that sends this answer.
    fn answered(answer: &'static [u8]) -> Result<usize, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let expected = b"*6\r\n$5\r\nFCALL\r\n$11\r\nsse_publish\r\n$1\r\n2\r\n$9\r\nsse:state\r\n\
                         $13\r\nsse:history:a\r\n$2\r\nhi\r\n";
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut sent = vec![0; 2 * expected.len()];
            stream.read_exact(&mut sent).unwrap();
            stream.write_all(answer).unwrap();
            assert_eq!(sent, expected.repeat(2));
        });
        let mut client = Client::connect(addr, "sse").unwrap();
        let item = || Item { channel: "a", data: b"hi" };
        let done = client.publish(&[item(), item()]);
        server.join().unwrap();
        done
    }

    #[test]
    fn what_redis_takes_and_refuses_is_told() {
        let done = answered(b"$3\r\n1-1\r\n$3\r\n1-2\r\n");
        assert!(matches!(done, Ok(2)), "{done:?}");
        let done = answered(b"$3\r\n1-1\r\n-SSEINVALID data\r\n");
        assert!(matches!(done, Ok(1)), "{done:?}");
        let done = answered(b"-SSEDENIED no\r\n-SSEDENIED no\r\n");
        assert!(matches!(&done, Err(Failure::Refused(text)) if text == "SSEDENIED no"), "{done:?}");
        let done = answered(b"$3\r\n1-1");
        assert!(matches!(done, Err(Failure::Broken(_))), "{done:?}");
    }
}
