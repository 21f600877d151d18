//! The lines of an NDJSON body: they do not depend on how the body is split, and at most one line
//! is buffered.
//!
//! Input: a byte for the size of the pieces, then the body.

use sse_gateway::http::lines::{Line, Lines};

const LONGEST: usize = 32;

/// Reads the body in pieces.
pub fn run(data: &[u8]) {
    let Some((size, body)) = data.split_first() else { return };
    let mut lines = Lines::new(LONGEST);
    let mut read = Vec::new();
    for piece in body.chunks(usize::from(*size) + 1) {
        lines.add(piece);
        read.extend(std::iter::from_fn(|| lines.next(false)));
    }
    read.extend(std::iter::from_fn(|| lines.next(true)));
    let whole: Vec<&[u8]> = body.split(|byte| *byte == b'\n').collect();
    let line = |number: u64| {
        let line = whole[number as usize - 1];
        // A byte order mark does not belong to the first line.
        if number == 1 { line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line) } else { line }
    };
    let mut last = 0;
    for read in &read {
        let number = match read {
            Line::Nothing => continue,
            Line::Text(number, text) => {
                assert!(text.len() <= LONGEST && !text.trim_ascii().is_empty());
                assert_eq!(text, line(*number));
                *number
            }
            Line::TooLong(number) => {
                assert!(whole[*number as usize - 1].len() > LONGEST);
                *number
            }
        };
        assert!(number > last, "each is handed out once, and in order");
        last = number;
    }
    // No line with content is skipped.
    for number in 1..=whole.len() as u64 {
        let told = read.iter().any(|read| match read {
            Line::Text(n, _) | Line::TooLong(n) => *n == number,
            Line::Nothing => false,
        });
        assert!(told || line(number).trim_ascii().is_empty(), "line {number} is gone");
    }
}
