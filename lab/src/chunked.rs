//! Reads the body of an HTTP/1.1 response, chunked or not, however the network splits it.

use std::io::{BufRead, BufReader, ErrorKind, Read};

/// The size line of a chunk contains no size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Removes the chunked framing from a body. A body that is not chunked passes unchanged.
#[derive(Debug)]
pub struct Framing {
    chunked: bool,
    ended: bool,
    /// Bytes left in the current chunk.
    left: usize,
    /// The part of the current size line that was read so far.
    size: Vec<u8>,
}

impl Framing {
    /// The framing that a response's head declares.
    pub fn of(head: &str) -> Self {
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        Framing { chunked, ended: false, left: 0, size: Vec::new() }
    }

    /// The content in these bytes, which follow those of the last call.
    pub fn decode(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut content = Vec::with_capacity(bytes.len());
        while !bytes.is_empty() {
            let (piece, used) = self.next(bytes)?;
            content.extend_from_slice(piece);
            bytes = &bytes[used..];
        }
        Ok(content)
    }

    /// The next piece of content (possibly empty), and how many input bytes it and its framing
    /// took; at least one.
    fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<(&'a [u8], usize), Malformed> {
        if !self.chunked {
            return Ok((bytes, bytes.len()));
        }
        if self.left > 0 {
            let here = bytes.len().min(self.left);
            self.left -= here;
            return Ok((&bytes[..here], here));
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(bytes.len(), |end| end + 1);
        if self.ended {
            return Ok((&[], used));
        }
        self.size.extend_from_slice(&bytes[..used]);
        if end.is_some() {
            let line = std::mem::take(&mut self.size);
            let line = String::from_utf8_lossy(&line);
            // A chunk extension follows the semicolon.
            let size = line.split(';').next().unwrap_or_default().trim();
            // The line end after a chunk looks like an empty size line.
            if !size.is_empty() {
                self.left = usize::from_str_radix(size, 16).map_err(|_| Malformed)?;
                self.ended = self.left == 0;
            }
        }
        Ok((&[], used))
    }
}

/// Reads the content of a body.
pub struct Body<R> {
    reader: BufReader<R>,
    framing: Framing,
}

impl<R: Read> Body<R> {
    /// The body that follows this head.
    pub fn new(reader: BufReader<R>, head: &str) -> Self {
        Body { reader, framing: Framing::of(head) }
    }

    /// Whether the last chunk was read; false if the connection ended before it.
    pub fn is_whole(&self) -> bool {
        self.framing.ended
    }
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while !self.framing.ended {
            let bytes = self.reader.fill_buf()?;
            let bytes = &bytes[..bytes.len().min(into.len())];
            let piece = self.framing.next(bytes);
            let (content, used) = piece.map_err(|_| ErrorKind::InvalidData)?;
            let count = content.len();
            into[..count].copy_from_slice(content);
            self.reader.consume(used);
            if count > 0 || used == 0 {
                return Ok(count);
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n";
    const WIRE: &[u8] = b"5\r\nhello\r\n1;a=b\r\n \r\n0A\r\nbeautiful \r\n0\r\nTrailer: x\r\n\r\n";

    #[test]
    fn every_way_of_cutting_gives_the_same() {
        for size in 1..=WIRE.len() {
            let mut framing = Framing::of(HEAD);
            let pieces = WIRE.chunks(size).map(|piece| framing.decode(piece).unwrap());
            assert_eq!(
                pieces.collect::<Vec<_>>().concat(),
                b"hello beautiful ",
                "pieces of {size}"
            );
            let mut body = Body::new(BufReader::with_capacity(size, WIRE), HEAD);
            let mut text = String::new();
            body.read_to_string(&mut text).unwrap();
            assert_eq!((text.as_str(), body.is_whole()), ("hello beautiful ", true));
        }
    }

    #[test]
    fn what_is_cut_off_is_not_whole_and_nonsense_is_refused() {
        let read = |wire: &'static [u8], head| {
            let mut body = Body::new(BufReader::new(wire), head);
            let read = body.read_to_end(&mut Vec::new());
            (read.ok(), body.is_whole())
        };
        assert_eq!(read(b"5\r\nhello\r\n", HEAD), (Some(5), false));
        assert_eq!(read(b"5\r\nhello\r\n", ""), (Some(10), false));
        assert_eq!(read(b"x\r\n", HEAD), (None, false));
    }
}
