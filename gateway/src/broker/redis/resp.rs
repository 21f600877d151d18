//! Parses RESP3 from a buffer without copying, as far as the ingest's connection needs it.
//!
//! This parser is our own for two reasons. Pushes and answers must be seen in the order in which
//! Redis wrote them, and a client library hands them out on separate paths. And a live event should
//! cost no allocation here. The protocol is RESP3 of github.com/redis/redis-specifications.

/// One value. It borrows from the buffer that it was parsed from.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// `+`, `$`, `=` (without its format), `,`, `(`.
    Text(&'a [u8]),
    /// `-`, `!`.
    Error(&'a [u8]),
    /// `:`.
    Integer(i64),
    /// `_`, and RESP2's `$-1` and `*-1`.
    Null,
    /// `#`.
    Boolean(bool),
    /// `*`, `~`; for a map (`%`), its keys and values alternate.
    Array(Vec<Value<'a>>),
    /// `>`.
    Push(Vec<Value<'a>>),
}

/// The peer does not speak RESP3.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not RESP3: {0}")]
pub struct ProtocolError(String);

impl<'a> Value<'a> {
    /// The content of a text; `None` if it is not UTF-8, or for any other value.
    pub fn text(&self) -> Option<&'a str> {
        match self {
            Value::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// An integer, or a text that spells one; `None` for any other value.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Value::Integer(n) => Some(*n),
            Value::Text(_) => self.text()?.parse().ok(),
            _ => None,
        }
    }

    /// The elements of an array or push; empty for any other value.
    pub fn elements(&self) -> &[Value<'a>] {
        match self {
            Value::Array(elements) | Value::Push(elements) => elements,
            _ => &[],
        }
    }
}

/// Bytes of the longest text a peer may announce: Redis' own limit.
const LONGEST: i64 = 512 * 1024 * 1024;
/// How deeply values may be nested.
const DEEPEST: u8 = 8;

/// Parses one value from the front of `buffer` and returns it with the number of bytes it took.
/// Returns `None` if the value is still incomplete.
pub fn parse(buffer: &[u8]) -> Result<Option<(Value<'_>, usize)>, ProtocolError> {
    let mut reader = Reader { buffer, at: 0 };
    Ok(reader.value(0)?.map(|value| (value, reader.at)))
}

struct Reader<'a> {
    buffer: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn line(&mut self) -> Option<&'a [u8]> {
        let rest = &self.buffer[self.at..];
        let end = memchr::memchr(b'\n', rest)?;
        self.at += end + 1;
        Some(rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]))
    }

    fn value(&mut self, depth: u8) -> Result<Option<Value<'a>>, ProtocolError> {
        let Some(line) = self.line() else { return Ok(None) };
        let Some((&kind, rest)) = line.split_first() else {
            return Err(ProtocolError("an empty line".to_owned()));
        };
        Ok(match kind {
            b'+' | b',' | b'(' => Some(Value::Text(rest)),
            b'-' => Some(Value::Error(rest)),
            b':' => Some(Value::Integer(number(rest)?)),
            b'_' => Some(Value::Null),
            b'#' => Some(Value::Boolean(rest == b"t")),
            b'$' => self.bulk(rest)?.map(|text| text.map_or(Value::Null, Value::Text)),
            b'!' => self.bulk(rest)?.map(|text| text.map_or(Value::Null, Value::Error)),
            // A verbatim string begins with three bytes of format and a colon.
            b'=' => self.bulk(rest)?.map(|text| {
                text.map_or(Value::Null, |text| Value::Text(text.get(4..).unwrap_or_default()))
            }),
            b'*' | b'~' => self
                .elements(number(rest)?, depth)?
                .map(|elements| elements.map_or(Value::Null, Value::Array)),
            b'%' => self
                .elements(number(rest)?.saturating_mul(2), depth)?
                .map(|elements| elements.map_or(Value::Null, Value::Array)),
            b'>' => self
                .elements(number(rest)?, depth)?
                .map(|elements| elements.map_or(Value::Null, Value::Push)),
            other => {
                return Err(ProtocolError(format!("a value begins with {:?}", char::from(other))));
            }
        })
    }

    fn bulk(&mut self, length: &[u8]) -> Result<Option<Option<&'a [u8]>>, ProtocolError> {
        let length = number(length)?;
        if length < 0 {
            return Ok(Some(None));
        }
        if length > LONGEST {
            return Err(ProtocolError(format!("a text of {length} bytes")));
        }
        let end = self.at + length as usize;
        if self.buffer.len() < end + 2 {
            return Ok(None);
        }
        let text = &self.buffer[self.at..end];
        self.at = end + 2;
        Ok(Some(Some(text)))
    }

    fn elements(
        &mut self,
        count: i64,
        depth: u8,
    ) -> Result<Option<Option<Vec<Value<'a>>>>, ProtocolError> {
        if count < 0 {
            return Ok(Some(None));
        }
        if depth >= DEEPEST {
            return Err(ProtocolError("values too deep in one another".to_owned()));
        }
        let mut elements = Vec::with_capacity(count.min(64) as usize);
        for _ in 0..count {
            let Some(element) = self.value(depth + 1)? else { return Ok(None) };
            elements.push(element);
        }
        Ok(Some(Some(elements)))
    }
}

fn number(digits: &[u8]) -> Result<i64, ProtocolError> {
    let text = std::str::from_utf8(digits).ok();
    text.and_then(|text| text.parse().ok()).ok_or_else(|| {
        ProtocolError(format!("a number reads {:?}", String::from_utf8_lossy(digits)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_prefix_is_incomplete_and_the_whole_is_read() {
        let wire = b">3\r\n$7\r\nmessage\r\n$8\r\nsse:demo\r\n$5\r\nh\r\ni!\r\n*2\r\n:7\r\n%1\r\n+a\r\n_\r\n";
        for end in 0..41 {
            assert_eq!(parse(&wire[..end]).unwrap(), None, "{end}");
        }
        let (push, used) = parse(wire).unwrap().unwrap();
        let text = |t: &'static str| Value::Text(t.as_bytes());
        assert_eq!(push, Value::Push(vec![text("message"), text("sse:demo"), text("h\r\ni!")]));
        let (array, rest) = parse(&wire[used..]).unwrap().unwrap();
        assert_eq!(
            array,
            Value::Array(vec![Value::Integer(7), Value::Array(vec![text("a"), Value::Null])])
        );
        assert_eq!(used + rest, wire.len());
    }

    #[test]
    fn other_protocols_are_refused() {
        assert!(parse(b"HTTP/1.1 400 Bad Request\r\n").is_err());
        assert!(parse(b"$999999999999\r\n").is_err());
        assert!(parse(&b"*1\r\n".repeat(9)).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(proptest::sample::select(&b"*>$:+-_#%=!0123456789\r\nab"[..]), 0..60)) {
            if let Ok(Some((_, used))) = parse(&bytes) {
                prop_assert!(used <= bytes.len());
            }
        }
    }
}
