//! A minimal Redis client for RESP2.
//!
//! Written by hand so that nothing is retried unseen by a test, and independent of the gateway's
//! parser.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::BOUND;

/// An answer of Redis.
#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    /// `+` or `$`, any bytes.
    Text(Vec<u8>),
    /// `-`.
    Error(String),
    /// `:`.
    Integer(i64),
    /// `$-1` or `*-1`.
    Null,
    /// `*`.
    Array(Vec<Answer>),
}

impl Answer {
    /// The bytes of a text. Panics on any other answer.
    #[track_caller]
    pub fn bytes(&self) -> &[u8] {
        let Answer::Text(bytes) = self else { panic!("no text: {self:?}") };
        bytes
    }

    /// The text of a text. Panics on any other answer, and if it is not UTF-8.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(self.bytes()).unwrap_or_else(|_| panic!("no UTF-8: {self:?}"))
    }

    /// The message of an error. Panics on any other answer.
    #[track_caller]
    pub fn error(&self) -> &str {
        let Answer::Error(text) = self else { panic!("no error: {self:?}") };
        text
    }

    /// The value of an integer. Panics on any other answer.
    #[track_caller]
    pub fn integer(&self) -> i64 {
        let Answer::Integer(n) = self else { panic!("no number: {self:?}") };
        *n
    }

    /// The elements of an array. Panics on any other answer.
    #[track_caller]
    pub fn elements(&self) -> &[Answer] {
        let Answer::Array(elements) = self else { panic!("no array: {self:?}") };
        elements
    }

    /// The message of the first error, also inside arrays.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Answer::Error(text) => Some(text),
            Answer::Array(elements) => elements.iter().find_map(Answer::refusal),
            _ => None,
        }
    }
}

/// As text, with one line for each element of an array.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Text(bytes) => f.write_str(&String::from_utf8_lossy(bytes)),
            Answer::Error(text) => f.write_str(text),
            Answer::Integer(n) => n.fmt(f),
            Answer::Null => Ok(()),
            Answer::Array(elements) => elements.iter().enumerate().try_for_each(|(n, element)| {
                let line_end = if n > 0 { "\n" } else { "" };
                write!(f, "{line_end}{element}")
            }),
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Text(bytes) => write!(f, "{:?}", String::from_utf8_lossy(bytes)),
            Answer::Error(text) => write!(f, "-{text:?}"),
            Answer::Integer(n) => n.fmt(f),
            Answer::Null => f.write_str("null"),
            Answer::Array(elements) => f.debug_list().entries(elements).finish(),
        }
    }
}

/// Appends a command in wire format.
pub fn command<A: AsRef<[u8]>>(wire: &mut Vec<u8>, words: impl IntoIterator<Item = A>) {
    let words: Vec<A> = words.into_iter().collect();
    wire.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words.iter().map(AsRef::as_ref) {
        wire.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        wire.extend_from_slice(word);
        wire.extend_from_slice(b"\r\n");
    }
}

/// Parses the first answer in `input`. Returns it and its length in bytes, or none if it is
/// incomplete. Fails if the input is not RESP2.
pub fn answer(input: &[u8]) -> Result<Option<(Answer, usize)>, String> {
    let Some(end) = input.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&input[..end]).into_owned();
    let wrong = || format!("not RESP: {head:?}");
    let (kind, rest) = head.split_at_checked(1).ok_or_else(wrong)?;
    let number = || rest.parse::<i64>().map_err(|_| wrong());
    let mut at = end + 2;
    let answer = match kind {
        "+" => Answer::Text(input[1..end].to_vec()),
        "-" => Answer::Error(rest.to_owned()),
        ":" => Answer::Integer(number()?),
        "$" | "*" if number()? < 0 => Answer::Null,
        "$" => {
            let from = at;
            at += number()? as usize + 2;
            let Some(text) = input.get(from..at - 2).filter(|_| input.len() >= at) else {
                return Ok(None);
            };
            Answer::Text(text.to_vec())
        }
        "*" => {
            let mut elements = Vec::new();
            for _ in 0..number()? {
                let Some((element, length)) = self::answer(&input[at..])? else { return Ok(None) };
                elements.push(element);
                at += length;
            }
            Answer::Array(elements)
        }
        _ => return Err(wrong()),
    };
    Ok(Some((answer, at)))
}

/// A blocking connection to Redis.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Connection {
    /// Connects. Reads time out after [`BOUND`].
    #[track_caller]
    pub fn to(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap_or_else(|error| panic!("{addr}: {error}"));
        stream.set_read_timeout(Some(BOUND)).expect("a bound");
        stream.set_nodelay(true).expect("no delay");
        Connection { stream, input: Vec::new() }
    }

    /// Sends bytes that [`command`] made.
    #[track_caller]
    pub fn send(&mut self, wire: &[u8]) {
        self.stream.write_all(wire).expect("Redis takes a command");
    }

    /// Reads the next answer.
    #[track_caller]
    pub fn read(&mut self) -> Answer {
        let mut chunk = [0; 4096];
        loop {
            if let Some((answer, length)) = answer(&self.input).expect("RESP") {
                self.input.drain(..length);
                return answer;
            }
            let n = self.stream.read(&mut chunk).expect("an answer within the bound");
            assert_ne!(n, 0, "Redis closed the connection");
            self.input.extend_from_slice(&chunk[..n]);
        }
    }

    /// Runs a command and returns its answer.
    #[track_caller]
    pub fn ask<A: AsRef<[u8]>>(&mut self, words: impl IntoIterator<Item = A>) -> Answer {
        let mut wire = Vec::new();
        command(&mut wire, words);
        self.send(&wire);
        self.read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_once_it_is_whole() {
        let wire = b"*4\r\n$3\r\na\r\n\r\n*2\r\n:-7\r\n$-1\r\n-ERR no\r\n+OK\r\n";
        for length in 0..wire.len() {
            assert_eq!(answer(&wire[..length]), Ok(None), "{length}");
        }
        let (read, length) = answer(&[&wire[..], b"+more"].concat()).unwrap().unwrap();
        assert_eq!(length, wire.len());
        let [text, array, error, ok] = read.elements() else { panic!("{read:?}") };
        assert_eq!((text.text(), array.elements()[0].integer()), ("a\r\n", -7));
        assert_eq!((error.error(), ok.text()), ("ERR no", "OK"));
        assert_eq!((read.refusal(), ok.refusal()), (Some("ERR no"), None));
        assert_eq!(read.to_string(), "a\r\n\n-7\n\nERR no\nOK");
        assert!(answer(b"?\r\n").is_err());
    }
}
