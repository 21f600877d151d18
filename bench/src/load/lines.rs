//! Splits an event stream into lines, however the network splits it.
//!
//! A line that arrives whole is not copied. Of a line that arrives in pieces, only the start is
//! stored, because nothing else is looked at: a line of 64 KB takes no more memory than one of 256
//! bytes.

use memchr::memchr2;

use crate::stamp::REACH;

/// A scanner. It owns no memory until a line arrives in pieces, and [`REACH`] bytes from then on.
#[derive(Debug, Default)]
pub struct Lines {
    /// The start of the incomplete line.
    head: Vec<u8>,
    /// The last line ended with CR, so a following LF belongs to that line end.
    after_cr: bool,
}

impl Lines {
    /// Takes the next bytes and passes on the start of each complete line, at most [`REACH`] bytes
    /// of it. An empty line ends an event.
    pub fn feed(&mut self, mut input: &[u8], mut line: impl FnMut(&[u8])) {
        while let Some(end) = memchr2(b'\r', b'\n', input) {
            let text = &input[..end];
            let after_cr = std::mem::replace(&mut self.after_cr, input[end] == b'\r');
            let half = after_cr && text.is_empty() && input[end] == b'\n';
            input = &input[end + 1..];
            if !self.head.is_empty() {
                self.keep(text);
                line(&self.head);
                self.head.clear();
            } else if !half {
                line(&text[..text.len().min(REACH)]);
            }
        }
        self.keep(input);
    }

    fn keep(&mut self, text: &[u8]) {
        let room = REACH - self.head.len();
        let kept = &text[..text.len().min(room)];
        if !kept.is_empty() {
            self.head.reserve_exact(room);
            self.head.extend_from_slice(kept);
        }
    }
}

/// The value of the field `name`, if the line is such a field.
pub fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = line.strip_prefix(name)?.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.feed(piece, |line| out.push(line.to_vec()));
        }
        assert!(lines.head.capacity() <= REACH, "a cut line is bounded");
        out
    }

    #[test]
    fn every_way_of_cutting_gives_the_same() {
        let long = "y".repeat(1000);
        let text = format!(":\r\nid: 7\ndata: one\r\rdata:{long}\ndata: two\n\nopen");
        let whole = scan([text.as_bytes()].into_iter());
        let heads: Vec<usize> = whole.iter().map(Vec::len).collect();
        assert_eq!(heads, [1, 5, 9, 0, REACH, 9, 0]);
        for size in 1..text.len() {
            assert_eq!(scan(text.as_bytes().chunks(size)), whole, "pieces of {size}");
        }
    }

    #[test]
    fn an_idle_scanner_owns_nothing() {
        let mut lines = Lines::default();
        lines.feed(b"retry: 3000\n\n", |_| {});
        assert_eq!(lines.head.capacity(), 0);
    }

    #[test]
    fn fields_have_one_space_at_most_before_their_value() {
        assert_eq!(field(b"data:  x", b"data"), Some(b" x".as_slice()));
        assert_eq!(field(b"data:x", b"data"), Some(b"x".as_slice()));
        assert_eq!(field(b"database: x", b"data"), None);
    }
}
