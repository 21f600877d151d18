//! Decodes `Transfer-Encoding: chunked`, however the network splits it.

/// The input is not chunked encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// A decoder. It buffers no part of the body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chunked(State);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Inside a chunk's size: its value so far, and whether a digit was read.
    Size(u64, bool),
    /// Behind the digits of a chunk's size, before the LF: the size.
    Extension(u64),
    /// Inside a chunk: how many of its bytes are still to come.
    Data(u64),
    /// Behind a chunk's bytes, before the LF that ends them.
    End,
    /// Inside the trailer: whether the current line has any text.
    Trailer(bool),
    /// The body has ended.
    Done,
}

impl Default for State {
    fn default() -> Self {
        State::Size(0, false)
    }
}

impl Chunked {
    /// Takes the next bytes from the network and passes those of the body to `body`.
    pub fn feed(&mut self, mut input: &[u8], mut body: impl FnMut(&[u8])) -> Result<(), Malformed> {
        while let Some(&byte) = input.first() {
            if let State::Data(left) = self.0 {
                let here = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                body(&input[..here]);
                input = &input[here..];
                let left = left - here as u64;
                self.0 = if left == 0 { State::End } else { State::Data(left) };
                continue;
            }
            self.0 = self.0.next(byte)?;
            input = &input[1..];
        }
        Ok(())
    }

    /// Whether the body has ended.
    pub fn done(&self) -> bool {
        self.0 == State::Done
    }
}

impl State {
    /// The state after a byte of the framing.
    fn next(self, byte: u8) -> Result<State, Malformed> {
        Ok(match (self, byte) {
            (State::Size(size, digits), _) => match (char::from(byte).to_digit(16), byte) {
                (Some(digit), _) if size >> 56 == 0 => {
                    State::Size(size << 4 | u64::from(digit), true)
                }
                (None, b'\n') if digits => State::behind_size(size),
                (None, b'\r' | b';' | b' ' | b'\t') if digits => State::Extension(size),
                _ => return Err(Malformed),
            },
            (State::Extension(size), b'\n') => State::behind_size(size),
            (State::Extension(size), _) => State::Extension(size),
            (State::End, b'\r') => State::End,
            (State::End, b'\n') => State::default(),
            (State::Trailer(false), b'\n') => State::Done,
            (State::Trailer(_), b'\n') => State::Trailer(false),
            (State::Trailer(text), _) => State::Trailer(text || byte != b'\r'),
            _ => return Err(Malformed),
        })
    }

    fn behind_size(size: u64) -> State {
        if size == 0 { State::Trailer(false) } else { State::Data(size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIRE: &[u8] = b"5\r\nhello\r\n1;a=b\r\n \r\n0A\r\nbeautiful \r\n0\r\nTrailer: x\r\n\r\n";

    fn decode(pieces: impl Iterator<Item = Vec<u8>>) -> Result<(Vec<u8>, bool), Malformed> {
        let (mut decoder, mut out) = (Chunked::default(), Vec::new());
        for piece in pieces {
            decoder.feed(&piece, |bytes| out.extend_from_slice(bytes))?;
        }
        Ok((out, decoder.done()))
    }

    #[test]
    fn every_way_of_cutting_gives_the_same() {
        let whole = (b"hello beautiful ".to_vec(), true);
        for size in 1..=WIRE.len() {
            let pieces = WIRE.chunks(size).map(<[u8]>::to_vec);
            assert_eq!(decode(pieces).as_ref(), Ok(&whole), "pieces of {size}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for wire in ["\r\n", "x\r\n", "3\r\nabcd\r\n", "11111111111111111111\r\n", "0\r\n\r\nmore"]
        {
            assert_eq!(decode([wire.as_bytes().to_vec()].into_iter()), Err(Malformed), "{wire:?}");
        }
    }
}
