//! The stamp that every published event carries: when it was sent, and its number.
//!
//! The text is `t=<ns> s=<sequence> c=<stream> ` and padding. It contains nothing that JSON would
//! escape, so it can be found in any format that a server puts around it.

use memchr::memmem;

/// How many bytes of a line are searched for a stamp. Some servers put text before it.
pub const REACH: usize = 256;

/// An event's stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// When the event was sent or due, by [`crate::clock::now`].
    pub time: u64,
    /// The number of the event in its stream of numbers, in which numbers rise by one.
    pub sequence: u64,
    /// The stream of numbers; numbers of different streams are not compared. It is the publisher's
    /// number if all publish to one channel, and the channel's number if there are many channels.
    pub stream: u32,
}

impl Stamp {
    /// Appends the stamp, padded to `size` bytes. A stamp that is longer is not cut.
    pub fn write(self, size: usize, out: &mut Vec<u8>) {
        let start = out.len();
        let text = format!("t={} s={} c={} ", self.time, self.sequence, self.stream);
        out.extend_from_slice(text.as_bytes());
        out.resize(out.len().max(start + size), b'x');
    }

    /// Finds a stamp in the first [`REACH`] bytes of a line.
    pub fn find(line: &[u8]) -> Option<Stamp> {
        let line = &line[..line.len().min(REACH)];
        memmem::find_iter(line, b"t=").find_map(|at| Stamp::parse(&line[at..]))
    }

    fn parse(text: &[u8]) -> Option<Stamp> {
        let (time, text) = number(text.strip_prefix(b"t=")?)?;
        let (sequence, text) = number(text.strip_prefix(b"s=")?)?;
        let (stream, _) = number(text.strip_prefix(b"c=")?)?;
        Some(Stamp { time, sequence, stream: u32::try_from(stream).ok()? })
    }
}

/// Parses digits and the space after them. Returns the number and the rest.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
            }
            b' ' if at > 0 => return Some((value, &text[at + 1..])),
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { time: 123_456_789, sequence: 42, stream: 7 };

    #[test]
    fn is_found_where_it_was_written() {
        let mut text = Vec::new();
        STAMP.write(200, &mut text);
        assert_eq!(text.len(), 200);
        assert_eq!(Stamp::find(&text), Some(STAMP));
    }

    #[test]
    fn is_found_in_an_envelope_that_looks_alike() {
        let mut line = br#"data: {"at=t=1 x":"event= t=5","pub":{"data":""#.to_vec();
        STAMP.write(0, &mut line);
        line.extend_from_slice(b"\"}}");
        assert_eq!(Stamp::find(&line), Some(STAMP));
    }

    #[test]
    fn is_not_invented() {
        let long = [b"99999999999999999999999 s=1 c=1 ".as_slice()].concat();
        for text in
            [b"".as_slice(), b"t=", b"t=1 s=2 c=3", b"t= s=1 c=1 ", &[b"t=", &long[..]].concat()]
        {
            assert_eq!(Stamp::find(text), None, "{text:?}");
        }
    }
}
