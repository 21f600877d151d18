//! RESP3 from Redis, or whatever else answers on its port: the values or the error do not depend on
//! where the input is split.

use sse_gateway::broker::redis::resp::{Value, parse};

/// The most bytes of input; every prefix is parsed.
const MOST: usize = 512;

/// Parses the input and all of its prefixes.
pub fn run(data: &[u8]) {
    let data = &data[..data.len().min(MOST)];
    let whole = parse(data);
    match &whole {
        Ok(Some((value, used))) => {
            assert!(*used <= data.len());
            bounded(value, 0);
            // The bytes after a value do not change it, and a proper prefix of it is incomplete.
            assert_eq!(parse(&data[..*used]), whole);
            for end in 0..*used {
                assert_eq!(parse(&data[..end]), Ok(None), "{end} of {used}");
            }
        }
        Ok(None) => {
            for end in 0..data.len() {
                assert_eq!(parse(&data[..end]), Ok(None), "{end}");
            }
        }
        // The error may show only after some bytes, and then persists.
        Err(_) => {
            let mut broken = false;
            for end in 0..=data.len() {
                let read = parse(&data[..end]);
                assert!(!matches!(read, Ok(Some(_))), "{end} is a value");
                broken |= read.is_err();
                assert_eq!(read.is_err(), broken, "{end}");
            }
        }
    }
    // All values in the buffer, one after the other, as the connection reads them.
    let mut rest = data;
    while let Ok(Some((_, used))) = parse(rest) {
        assert!(used > 0, "a value of no bytes would be read for ever");
        rest = &rest[used..];
    }
}

fn bounded(value: &Value<'_>, depth: usize) {
    assert!(depth <= 8, "too deep");
    let _ = (value.text(), value.integer());
    for element in value.elements() {
        bounded(element, depth + 1);
    }
}
