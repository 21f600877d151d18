//! Requests whose answers end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use sse_lab::BOUND;
use sse_lab::chunked::Framing;

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

/// Sends one HTTP request on a connection of its own.
pub fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    request_on(connect(addr), method, path, headers, body)
}

/// Sends one HTTP request on this connection.
pub fn request_on(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    // In one piece, as clients send small requests. The gateway reads on when it refuses a body, so
    // the write succeeds, and the answer is read afterwards.
    let whole = [head.as_bytes(), body].concat();
    stream.write_all(&whole).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    read_answer(stream)
}

pub fn read_answer(mut stream: impl Read) -> Answer {
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
    let end = Instant::now() + BOUND;
    loop {
        let n = stream.read(&mut chunk).expect("an answer");
        if n == 0 {
            break;
        }
        bytes.extend_from_slice(&chunk[..n]);
        // An event stream would go on for ever, because heartbeats arrive in time.
        assert!(Instant::now() < end, "it goes on: {}", String::from_utf8_lossy(&bytes));
    }
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("an answer's head");
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let body = Framing::of(&head).decode(&bytes[end + 4..]).expect("whole chunks");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    Answer { status, head, body: String::from_utf8_lossy(&body).into_owned() }
}

pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap_or_else(|e| panic!("{addr}: {e}"));
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream.set_write_timeout(Some(BOUND)).unwrap();
    stream
}
