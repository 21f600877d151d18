//! Splits an NDJSON body into lines while it arrives in pieces. Does no I/O. Keeps at most one line
//! and one piece.

use bytes::{Buf, BytesMut};

use crate::http::request;

/// Collects pieces of a body and hands out its lines.
#[derive(Debug)]
pub struct Lines {
    /// The most bytes that a line may have.
    longest: usize,
    buffer: BytesMut,
    /// Bytes of the buffer that were searched for a line end. A long line in small pieces is thus
    /// searched only once.
    searched: usize,
    /// The number of lines that have ended so far.
    number: u64,
    /// The rest of the current line is discarded, because the line was already reported as too
    /// long.
    skipping: bool,
}

/// A line with its number, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A line with text.
    Text(u64, BytesMut),
    /// A blank line, or the end of a line that was too long.
    Nothing,
    /// A line that is too long; reported once, possibly before its end.
    TooLong(u64),
}

impl Lines {
    /// A splitter for lines of at most `longest` bytes.
    pub fn new(longest: usize) -> Self {
        Lines { longest, buffer: BytesMut::new(), searched: 0, number: 0, skipping: false }
    }

    /// The number of the last complete line; 0 before the first.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Appends a piece of the body.
    pub fn add(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// Returns the next complete line. Once the body has `ended`, the remaining bytes are the last
    /// line.
    pub fn next(&mut self, ended: bool) -> Option<Line> {
        let end = memchr::memchr(b'\n', &self.buffer[self.searched..]);
        let mut line = match end {
            Some(at) => {
                let line = self.buffer.split_to(self.searched + at);
                self.buffer.advance(1);
                line
            }
            None if ended && !self.buffer.is_empty() => self.buffer.split(),
            None => return self.too_long(),
        };
        self.searched = 0;
        self.number += 1;
        if self.number == 1 {
            line.advance(line.len() - request::without_mark(&line).len());
        }
        Some(match line.len() {
            _ if std::mem::take(&mut self.skipping) || line.trim_ascii().is_empty() => {
                Line::Nothing
            }
            length if length > self.longest => Line::TooLong(self.number),
            _ => Line::Text(self.number, line),
        })
    }

    /// Reports an incomplete line that is already too long. Reports each line only once.
    fn too_long(&mut self) -> Option<Line> {
        let told = self.skipping;
        self.skipping |= self.buffer.len() > self.longest;
        if self.skipping {
            self.buffer.clear();
        }
        self.searched = self.buffer.len();
        (self.skipping && !told).then_some(Line::TooLong(self.number + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LONGEST: usize = 8;

    /// The lines without blank ones, and the most bytes that were kept between pieces.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Line>, usize) {
        let (mut lines, mut read, mut kept) = (Lines::new(LONGEST), Vec::new(), 0);
        for piece in pieces {
            lines.add(piece);
            read.extend(std::iter::from_fn(|| lines.next(false)));
            kept = kept.max(lines.buffer.len());
        }
        read.extend(std::iter::from_fn(|| lines.next(true)));
        read.retain(|line| *line != Line::Nothing);
        (read, kept)
    }

    fn text(number: u64, line: &str) -> Line {
        Line::Text(number, line.as_bytes().into())
    }

    #[test]
    fn lines_are_numbered_with_blank_and_long_ones() {
        let body = b"\xEF\xBB\xBFone\n\n \r\nfour\r\n123456789\nsix";
        let expected = [text(1, "one"), text(4, "four\r"), Line::TooLong(5), text(6, "six")];
        assert_eq!(read([&body[..]]).0, expected);
        assert_eq!(read([]).0, []);
        let endless = vec![&b"x"[..]; 1000];
        assert_eq!(read(endless), (vec![Line::TooLong(1)], LONGEST));
    }

    proptest! {
        #[test]
        fn however_a_body_is_cut_its_lines_are_the_same(
            body in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'x'), Just(b' '), any::<u8>()], 0..80),
            cuts in proptest::collection::vec(0usize..80, 0..10),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|ends| &body[ends[0]..ends[1]]);
            let (lines, kept) = read(pieces);
            let whole: Vec<&[u8]> = body.split(|byte| *byte == b'\n').collect();
            let expected = whole.iter().enumerate().filter_map(|(n, line)| {
                let line = if n == 0 { request::without_mark(line) } else { line };
                let number = n as u64 + 1;
                match line {
                    // A long line can be reported before its end shows that it is blank.
                    line if line.len() > LONGEST => Some(Line::TooLong(number)),
                    line if line.trim_ascii().is_empty() => None,
                    line => Some(Line::Text(number, line.into())),
                }
            });
            let blank_and_long = whole.iter().any(|l| l.len() > LONGEST && l.trim_ascii().is_empty());
            let marked = whole[0].starts_with(b"\xEF\xBB\xBF") && whole[0].len() > LONGEST;
            prop_assert!(blank_and_long || marked || lines == expected.collect::<Vec<_>>(), "{lines:?}");
            prop_assert!(kept <= LONGEST);
        }
    }
}
