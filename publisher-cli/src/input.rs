//! Reads standard input or a file on a separate thread, because reading a terminal or a pipe blocks,
//! and splits it into lines or at another delimiter. The thread reads only a few chunks ahead. A
//! chunk is many short lines or at most one long one.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use memchr::memmem;
use tokio::sync::mpsc;

/// Bytes of the longest line that is accepted.
pub const MAX_LINE: usize = 16 << 20;
const CHUNK_BYTES: usize = 64 * 1024;
const CHUNKS_AHEAD: usize = 2;

/// Where an input is split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Split {
    /// At LF or CRLF.
    Lines,
    /// At these bytes, at least one.
    At(Arc<[u8]>),
    /// Nowhere. One line end at the very end is left out, because almost every text file has it.
    Nowhere,
}

/// One line, or whatever stands between two delimiters, without its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// The line's number, counted from 1.
    pub number: u64,
    /// The bytes of the input up to here.
    pub end: u64,
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
pub fn read(input: impl Read + Send + 'static, split: Split) -> mpsc::Receiver<Chunk> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let input = BufReader::with_capacity(CHUNK_BYTES, input);
    let mut lines = Lines { input, split, number: 0, end: 0 };
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

/// A text of the command line as the only line.
pub fn once(text: String) -> mpsc::Receiver<Chunk> {
    let (sender, receiver) = mpsc::channel(1);
    let line = Line { number: 1, end: 0, text: Ok(text) };
    sender.try_send(Ok(vec![line])).expect("the channel has room for one");
    receiver
}

/// The same text `times` over, with its number in place of each `{n}`.
pub fn repeated(text: String, times: u64) -> mpsc::Receiver<Chunk> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let in_chunk = (CHUNK_BYTES / (text.len() + 1)).max(1) as u64;
    std::thread::spawn(move || {
        let mut first = 1;
        while first <= times {
            let after = first.saturating_add(in_chunk).min(times + 1);
            let line = |number: u64| Line {
                number,
                end: 0,
                text: Ok(text.replace("{n}", &number.to_string())),
            };
            if sender.blocking_send(Ok((first..after).map(line).collect())).is_err() {
                return;
            }
            first = after;
        }
    });
    receiver
}

/// Text from bytes that were read whole: without one line end at their end.
pub fn whole(mut bytes: Vec<u8>) -> Result<String, LineError> {
    if bytes.len() > MAX_LINE {
        return Err(LineError::TooLong);
    }
    strip_line_end(&mut bytes);
    text(bytes)
}

fn strip_line_end(bytes: &mut Vec<u8>) {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
}

fn text(bytes: Vec<u8>) -> Result<String, LineError> {
    String::from_utf8(bytes)
        .map_err(|error| LineError::NotUtf8(error.utf8_error().valid_up_to() + 1))
}

struct Lines<R> {
    input: BufReader<R>,
    split: Split,
    number: u64,
    end: u64,
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
            lines.push(Line { number: self.number, end: self.end, text });
            let complete = match &self.split {
                Split::Lines => memchr::memchr(b'\n', self.input.buffer()).is_some(),
                Split::At(delimiter) => memmem::find(self.input.buffer(), delimiter).is_some(),
                Split::Nowhere => false,
            };
            if bytes >= CHUNK_BYTES || !complete {
                return (lines, None);
            }
        }
    }

    fn next_line(&mut self) -> io::Result<Option<Result<String, LineError>>> {
        let delimiter: Arc<[u8]> = match &self.split {
            Split::Lines => b"\n"[..].into(),
            Split::At(delimiter) => delimiter.clone(),
            Split::Nowhere if self.number == 0 => return self.read_whole().map(Some),
            Split::Nowhere => return Ok(None),
        };
        let mut bytes = Vec::new();
        let most = MAX_LINE + delimiter.len();
        let ended = self.read_until(&delimiter, &mut bytes, most)?;
        self.end += bytes.len() as u64;
        if bytes.is_empty() {
            return Ok(None);
        }
        if !ended && bytes.len() >= most {
            // The delimiter may have begun within what was read.
            let begun = bytes.split_off(bytes.len() - delimiter.len());
            self.skip_until(&delimiter, begun)?;
            return Ok(Some(Err(LineError::TooLong)));
        }
        match &self.split {
            Split::Lines => strip_line_end(&mut bytes),
            _ if ended => bytes.truncate(bytes.len() - delimiter.len()),
            _ => {}
        }
        Ok(Some(text(bytes)))
    }

    fn read_whole(&mut self) -> io::Result<Result<String, LineError>> {
        let mut bytes = Vec::new();
        (&mut self.input).take(MAX_LINE as u64 + 1).read_to_end(&mut bytes)?;
        self.end = bytes.len() as u64;
        Ok(whole(bytes))
    }

    /// Appends what comes up to the delimiter, with it, but no more than `most` bytes in all.
    /// Returns whether the delimiter came.
    fn read_until(
        &mut self,
        delimiter: &[u8],
        bytes: &mut Vec<u8>,
        most: usize,
    ) -> io::Result<bool> {
        let last = delimiter[delimiter.len() - 1];
        loop {
            let room = most - bytes.len();
            let read = (&mut self.input).take(room as u64).read_until(last, bytes)?;
            if bytes.ends_with(delimiter) {
                return Ok(true);
            }
            if read == 0 {
                return Ok(false);
            }
        }
    }

    /// Reads and drops what comes up to the delimiter, in pieces. `piece` was read before.
    fn skip_until(&mut self, delimiter: &[u8], mut piece: Vec<u8>) -> io::Result<()> {
        loop {
            let before = piece.len();
            if self.read_until(delimiter, &mut piece, before + CHUNK_BYTES)? {
                self.end += (piece.len() - before) as u64;
                return Ok(());
            }
            self.end += (piece.len() - before) as u64;
            if piece.len() == before {
                return Ok(());
            }
            piece.drain(..piece.len().saturating_sub(delimiter.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(input: impl Read + Send + 'static) -> Vec<Result<String, LineError>> {
        split(input, Split::Lines)
    }

    fn at(delimiter: &[u8], input: &'static [u8]) -> Vec<String> {
        split(input, Split::At(delimiter.into())).into_iter().map(Result::unwrap).collect()
    }

    fn split(input: impl Read + Send + 'static, split: Split) -> Vec<Result<String, LineError>> {
        let (mut receiver, mut texts) = (read(input, split), Vec::new());
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

    #[test]
    fn a_delimiter_of_any_length_splits() {
        assert_eq!(at(b"\0", b"a\nb\0\0c\0"), ["a\nb", "", "c"]);
        assert_eq!(at(b"\n\n", b"a\n\n\nb\n"), ["a", "\nb\n"]);
        assert_eq!(at(b"--", b"a-b---c"), ["a-b", "-c"]);
        assert_eq!(at(b";", b""), [""; 0]);
        let long = io::repeat(b'-').take(MAX_LINE as u64 + 5).chain(&b";-x-;-b"[..]);
        let want = [Err(LineError::TooLong), Ok("x".to_owned()), Ok("b".to_owned())];
        assert_eq!(split(long, Split::At(b"-;-"[..].into())), want);
    }

    #[test]
    fn a_whole_input_loses_one_line_end_only() {
        for (input, want) in [(&b"a\nb\n\n"[..], "a\nb\n"), (b"a\r\n", "a"), (b"a", "a"), (b"", "")]
        {
            assert_eq!(split(input, Split::Nowhere), [Ok(want.to_owned())]);
        }
        let long = io::repeat(b'x').take(MAX_LINE as u64 + 1);
        assert_eq!(split(long, Split::Nowhere), [Err(LineError::TooLong)]);
    }

    #[test]
    fn a_line_says_how_much_of_the_input_is_read() {
        let mut receiver = read(&b"a\r\nbc\nd"[..], Split::Lines);
        let lines = receiver.blocking_recv().unwrap().unwrap();
        let further = receiver.blocking_recv().unwrap().unwrap();
        let ends: Vec<_> = lines.iter().chain(&further).map(|line| line.end).collect();
        assert_eq!(ends, [3, 6, 7]);
    }

    #[test]
    fn a_repeated_text_is_numbered() {
        let (mut receiver, mut texts) = (repeated("n {n}".to_owned(), 40_000), Vec::new());
        while let Some(chunk) = receiver.blocking_recv() {
            texts.extend(chunk.unwrap().into_iter().map(|line| line.text.unwrap()));
        }
        assert!(texts.iter().enumerate().all(|(at, text)| *text == format!("n {}", at + 1)));
        assert_eq!(texts.len(), 40_000);
    }
}
