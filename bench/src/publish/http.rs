//! A publisher's HTTP connection. It is kept alive and carries one request at a time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use memchr::memmem;
use rustls::{ClientConnection, StreamOwned};
use serde_json::json;

use super::{Failure, Item, Wrap};
use crate::chunked::Chunked;
use crate::load::tls;

/// A request without an answer in this time has failed.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Client {
    stream: Box<dyn Stream>,
    host: SocketAddr,
    wire: Vec<u8>,
}

/// What a client writes requests to and reads answers from: TCP or TLS.
trait Stream: Read + Write + std::fmt::Debug {}
impl<T: Read + Write + std::fmt::Debug> Stream for T {}

fn tcp(addr: SocketAddr) -> Result<TcpStream, String> {
    let text = |error: std::io::Error| format!("connect to {addr}: {error}");
    let stream = TcpStream::connect_timeout(&addr, PATIENCE).map_err(text)?;
    stream.set_nodelay(true).map_err(text)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(text)?;
    Ok(stream)
}

struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Client {
    /// Connects without TLS.
    pub fn connect(addr: SocketAddr) -> Result<Client, String> {
        Ok(Client { stream: Box::new(tcp(addr)?), host: addr, wire: Vec::new() })
    }

    /// Connects with TLS.
    pub fn secure(addr: SocketAddr, (config, name): &tls::Settings) -> Result<Client, String> {
        let session = ClientConnection::new(config.clone(), name.clone());
        let session = session.map_err(|error| format!("TLS: {error}"))?;
        let stream = StreamOwned::new(session, tcp(addr)?);
        Ok(Client { stream: Box::new(stream), host: addr, wire: Vec::new() })
    }

    /// Publishes each item with a request of its own, whose body is the item's data.
    pub fn post(&mut self, path: &str, items: &[Item<'_>]) -> Result<usize, Failure> {
        for item in items {
            let path = path.replace("{c}", item.channel);
            accepted(&self.exchange(&path, "Content-Type: text/plain\r\n", item.data)?)?;
        }
        Ok(items.len())
    }

    /// Publishes each item with a request of its own, whose body has the server's own format.
    pub fn wrapped(&mut self, wrap: &Wrap, items: &[Item<'_>]) -> Result<usize, Failure> {
        for item in items {
            let body = wrap.body(item.channel, &String::from_utf8_lossy(item.data));
            accepted(&self.exchange(&wrap.path, &wrap.headers, body.as_bytes())?)?;
        }
        Ok(items.len())
    }

    /// Publishes all items with one request.
    pub fn ndjson(&mut self, path: &str, items: &[Item<'_>]) -> Result<usize, Failure> {
        let mut body = Vec::new();
        for item in items {
            let data = String::from_utf8_lossy(item.data);
            body.extend_from_slice(
                json!({ "channel": item.channel, "data": data }).to_string().as_bytes(),
            );
            body.push(b'\n');
        }
        let answer = self.exchange(path, "Content-Type: application/x-ndjson\r\n", &body)?;
        accepted(&answer)?;
        // The answer has an id for each accepted item.
        Ok(memmem::find_iter(&answer.body, b"\"id\":").count().min(items.len()))
    }

    fn exchange(&mut self, path: &str, headers: &str, body: &[u8]) -> Result<Answer, String> {
        self.wire.clear();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\n{headers}Content-Length: {}\r\n\r\n",
            self.host,
            body.len()
        );
        self.wire.extend_from_slice(head.as_bytes());
        self.wire.extend_from_slice(body);
        self.stream.write_all(&self.wire).map_err(|error| format!("send: {error}"))?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Answer, String> {
        let mut input = Vec::new();
        let (status, body, framing) = loop {
            self.more(&mut input)?;
            if let Some((length, status, framing)) = parse_head(&input)? {
                break (status, input.split_off(length), framing);
            }
        };
        let body = match framing {
            Framing::Length(length) => {
                let mut body = body;
                while body.len() < length {
                    self.more(&mut body)?;
                }
                body
            }
            Framing::Chunked => self.chunks(body)?,
        };
        Ok(Answer { status, body })
    }

    fn chunks(&mut self, mut input: Vec<u8>) -> Result<Vec<u8>, String> {
        let (mut decoder, mut body) = (Chunked::default(), Vec::new());
        loop {
            decoder
                .feed(&input, |bytes| body.extend_from_slice(bytes))
                .map_err(|_| "malformed chunks".to_owned())?;
            if decoder.done() {
                return Ok(body);
            }
            input.clear();
            self.more(&mut input)?;
        }
    }

    fn more(&mut self, into: &mut Vec<u8>) -> Result<(), String> {
        let mut piece = [0; 4096];
        match self.stream.read(&mut piece) {
            Ok(0) => Err("the server closed the connection before it answered".to_owned()),
            Ok(count) => {
                into.extend_from_slice(&piece[..count]);
                Ok(())
            }
            Err(error) => Err(format!("no answer: {error}")),
        }
    }
}

enum Framing {
    Length(usize),
    Chunked,
}

fn parse_head(input: &[u8]) -> Result<Option<(usize, u16, Framing)>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(input).map_err(|error| format!("not HTTP: {error}"))?;
    let httparse::Status::Complete(length) = parsed else { return Ok(None) };
    let value = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| String::from_utf8_lossy(header.value).to_ascii_lowercase())
    };
    let framing = match (value("transfer-encoding").as_deref(), value("content-length")) {
        (Some("chunked"), _) => Framing::Chunked,
        (_, Some(text)) => {
            Framing::Length(text.trim().parse().map_err(|_| format!("content-length {text}"))?)
        }
        _ => Framing::Length(0),
    };
    Ok(Some((length, response.code.unwrap_or_default(), framing)))
}

fn accepted(answer: &Answer) -> Result<(), Failure> {
    match answer.status {
        200..=299 => Ok(()),
        status => {
            let text = String::from_utf8_lossy(&answer.body);
            let start: String = text.chars().take(200).collect();
            Err(Failure::Refused(format!("answered {status}: {start}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A client of a server that sends the next answer after each request, which ends with `hi` or
    /// with `}` and a line feed.
    fn answered(answers: &'static [&'static str]) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client::connect(listener.local_addr().unwrap()).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                let (mut sent, mut piece) = (Vec::new(), [0; 1024]);
                while !sent.ends_with(b"hi") && !sent.ends_with(b"}\n") {
                    let count = stream.read(&mut piece).unwrap();
                    sent.extend_from_slice(&piece[..count]);
                }
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        client
    }

    const ITEM: Item<'static> = Item { channel: "a", data: b"hi" };

    #[test]
    fn one_connection_serves_one_answer_after_the_other() {
        let mut client = answered(&[
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            "HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope",
        ]);
        assert!(matches!(client.post("/channels/{c}", &[ITEM, ITEM]), Ok(2)));
        let refused = client.post("/channels/{c}", &[ITEM]);
        assert!(matches!(&refused, Err(Failure::Refused(why)) if why == "answered 403: nope"));
        assert!(matches!(client.post("/channels/{c}", &[ITEM]), Err(Failure::Broken(_))));
    }

    #[test]
    fn each_line_of_a_batch_counts_by_its_answer() {
        let mut client = answered(&["HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n\
             {\"line\":1,\"id\":\"1-1\"}\n{\"line\":2,\"error\":{}}\n"]);
        assert!(matches!(client.ndjson("/publish", &[ITEM, ITEM]), Ok(1)));
    }
}
