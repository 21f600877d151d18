//! A connection to the floor before it becomes a stream: its request to open one, or to publish.

use std::os::fd::OwnedFd;

use rustix::io::{Errno, write};
use rustix::net::{RecvFlags, recv};

/// Requests longer than this are refused.
const LONGEST: usize = 4 << 20;

/// A connection and the part of its request that was received.
#[derive(Debug)]
pub struct Request {
    /// The connection's socket.
    pub socket: OwnedFd,
    input: Vec<u8>,
}

/// What a connection asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Requested {
    /// Nothing yet: the request is incomplete.
    Nothing,
    /// To be closed: the client closed the connection, or did not send a valid request.
    Closed,
    /// A stream.
    Stream,
    /// The number of streams that were closed because they did not take an event.
    Dropped,
    /// To publish this event, which is already in wire format.
    Event(Vec<u8>),
}

impl Request {
    /// A connection that was just accepted.
    pub fn new(socket: OwnedFd) -> Request {
        Request { socket, input: Vec::new() }
    }

    /// Reads once. Clients do not pipeline: they send a request only after the last was answered.
    pub fn read(&mut self) -> Requested {
        let mut piece = [0; 16 * 1024];
        match recv(&self.socket, &mut piece[..], RecvFlags::empty()) {
            Ok((0, _)) => Requested::Closed,
            Ok((count, _)) => {
                self.input.extend_from_slice(&piece[..count]);
                let asked = parse(&self.input);
                if asked != Requested::Nothing {
                    self.input.clear();
                }
                asked
            }
            Err(Errno::AGAIN | Errno::INTR) => Requested::Nothing,
            Err(_) => Requested::Closed,
        }
    }

    /// Answers 200 with this text as the body.
    pub fn answer(&self, text: &str) {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        // The socket's buffer is empty and takes the few bytes. If the publisher has gone, the next
        // read reports it.
        let _ = write(&self.socket, answer.as_bytes());
    }
}

fn parse(input: &[u8]) -> Requested {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(input) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) if input.len() <= LONGEST => return Requested::Nothing,
        _ => return Requested::Closed,
    };
    match (request.method, request.path) {
        (Some("GET"), Some("/dropped")) => return Requested::Dropped,
        (Some("GET"), _) => return Requested::Stream,
        (Some("POST"), _) => {}
        _ => return Requested::Closed,
    }
    let length = request.headers.iter().find_map(|header| {
        let named = header.name.eq_ignore_ascii_case("content-length");
        std::str::from_utf8(header.value).ok().filter(|_| named)?.parse::<usize>().ok()
    });
    let body = &input[head..];
    match length {
        Some(length) if length <= LONGEST && body.len() >= length => {
            Requested::Event([b"data: ", &body[..length], b"\n\n"].concat())
        }
        Some(length) if length <= LONGEST => Requested::Nothing,
        _ => Requested::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_nothing_until_it_is_whole() {
        let whole = b"POST /channels/x HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi";
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), Requested::Nothing);
        }
        assert_eq!(parse(whole), Requested::Event(b"data: hi\n\n".to_vec()));
        assert_eq!(parse(b"GET /events HTTP/1.1\r\n\r\n"), Requested::Stream);
        assert_eq!(parse(b"PUT / HTTP/1.1\r\n\r\n"), Requested::Closed);
    }
}
