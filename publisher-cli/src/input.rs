//! Reads the lines of standard input or of a file on a separate thread, because reading a terminal
//! or a pipe blocks. The thread reads only a few chunks ahead. A chunk is many short lines or at
//! most one long one.

use std::io::{self, BufRead, BufReader, Read};

use tokio::sync::mpsc;

/// Bytes of the longest line that is accepted.
pub const MAX_LINE: usize = 16 << 20;
const CHUNK_BYTES: usize = 64 * 1024;
const CHUNKS_AHEAD: usize = 2;

/// One line, without its line end (LF or CRLF).
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// The line's number, counted from 1.
    pub number: u64,
    /// The text, or why it is not valid.
    pub text: Result<String, LineError>,
}

/// Why a line is not text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// The byte at this position, counted from 1, is not valid UTF-8.
    #[error("not UTF-8 at byte {0}")]
    NotUtf8(usize),
    /// The line is longer than [`MAX_LINE`].
    #[error("longer than {MAX_LINE} bytes")]
    TooLong,
}

/// Lines from the reading thread, or the error that ended reading.
pub type Chunk = io::Result<Vec<Line>>;

/// Starts the reading thread. It ends with the input, or when the receiver is dropped.
pub fn read_lines(input: impl Read + Send + 'static) -> mpsc::Receiver<Chunk> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let mut lines = Lines { input: BufReader::with_capacity(CHUNK_BYTES, input), number: 0 };
    std::thread::spawn(move || {
        loop {
            let (chunk, failure) = lines.next_chunk();
            let ended = chunk.is_empty() || failure.is_some();
            if !chunk.is_empty() && sender.blocking_send(Ok(chunk)).is_err() {
                return;
            }
            if let Some(error) = failure {
                // Sending fails only if the receiver is gone, and then nobody needs the error.
                sender.blocking_send(Err(error)).ok();
            }
            if ended {
                return;
            }
        }
    });
    receiver
}

struct Lines<R> {
    input: BufReader<R>,
    number: u64,
}

impl<R: Read> Lines<R> {
    /// Waits for one line and adds the complete lines that are buffered after it. So the lines of a
    /// slow pipe are not delayed, and the lines of a fast one are handed over together. No lines
    /// mean the end.
    fn next_chunk(&mut self) -> (Vec<Line>, Option<io::Error>) {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        loop {
            let text = match self.next_line() {
                Ok(Some(text)) => text,
                Ok(None) => return (lines, None),
                Err(error) => return (lines, Some(error)),
            };
            self.number += 1;
            bytes += text.as_ref().map_or(0, String::len);
            lines.push(Line { number: self.number, text });
            if bytes >= CHUNK_BYTES || memchr::memchr(b'\n', self.input.buffer()).is_none() {
                return (lines, None);
            }
        }
    }

    fn next_line(&mut self) -> io::Result<Option<Result<String, LineError>>> {
        let mut bytes = Vec::new();
        let mut limited = (&mut self.input).take(MAX_LINE as u64 + 1);
        if limited.read_until(b'\n', &mut bytes)? == 0 {
            return Ok(None);
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        } else if bytes.len() > MAX_LINE {
            self.input.skip_until(b'\n')?;
            return Ok(Some(Err(LineError::TooLong)));
        }
        let text = String::from_utf8(bytes)
            .map_err(|error| LineError::NotUtf8(error.utf8_error().valid_up_to() + 1));
        Ok(Some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(input: impl Read + Send + 'static) -> Vec<Result<String, LineError>> {
        let (mut receiver, mut texts) = (read_lines(input), Vec::new());
        while let Some(chunk) = receiver.blocking_recv() {
            for line in chunk.unwrap() {
                assert_eq!(line.number, texts.len() as u64 + 1);
                texts.push(line.text);
            }
        }
        texts
    }

    #[test]
    fn lines_end_at_lf_or_crlf_and_the_last_may_lack_it() {
        let want = ["a", "", "b\rc", "d"].map(|text| Ok(text.to_owned()));
        assert_eq!(texts(&b"a\n\nb\rc\r\nd"[..]), want);
        assert_eq!(texts(&b""[..]), []);
        assert_eq!(texts(&b"\n"[..]), [Ok(String::new())]);
    }

    #[test]
    fn a_line_that_is_not_text_spoils_only_itself() {
        let want = [Ok("a".to_owned()), Err(LineError::NotUtf8(2)), Ok("c".to_owned())];
        assert_eq!(texts(&b"a\nb\xFF\nc\n"[..]), want);
    }

    #[test]
    fn a_line_too_long_is_skipped_without_being_held() {
        let long = io::repeat(b'x').take(3 * MAX_LINE as u64);
        let want = [Err(LineError::TooLong), Ok("b".to_owned())];
        assert_eq!(texts(long.chain(&b"\nb"[..])), want);
        let longest = io::repeat(b'x').take(MAX_LINE as u64).chain(&b"\n"[..]);
        assert_eq!(texts(longest)[0].as_ref().map(String::len), Ok(MAX_LINE));
    }

    #[test]
    fn many_lines_arrive_in_order() {
        let input: String = (0..100_000).map(|n| format!("{n}\n")).collect();
        let got = texts(io::Cursor::new(input));
        assert!(got.iter().enumerate().all(|(n, text)| text.as_ref().unwrap() == &n.to_string()));
        assert_eq!(got.len(), 100_000);
    }
}
