//! Parses event streams into blocks: [`Parser`] as the WHATWG standard says, [`Reader`] strictly as
//! gateways write them.

use std::io::{BufRead, BufReader, Read};

/// A block with a field other than `retry`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    /// The `id` field; empty if missing.
    pub id: String,
    /// The `event` field; empty if missing.
    pub event: String,
    /// The `data` fields, joined by line feeds.
    pub data: String,
}

/// Parses an event stream in pieces of any size. A block that the end of the stream cuts off is not
/// returned.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    /// The last line ended with CR, so a following LF belongs to that line end.
    after_cr: bool,
    block: Block,
    lines: Vec<String>,
    any: bool,
    /// The last field was `id`.
    id_last: bool,
}

/// A block that was cut off after its `id:` line.
#[derive(Debug, PartialEq, Eq)]
pub enum CutOff {
    /// More of the block may be missing. A client that adopts the id at once would skip the block.
    Inside(String),
    /// Only the empty line is missing.
    AtTheEnd(Block),
}

impl Parser {
    /// Parses more bytes and returns the blocks that they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Block> {
        let mut blocks = Vec::new();
        for &byte in bytes {
            let after_cr = std::mem::take(&mut self.after_cr);
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    blocks.extend(self.line(&String::from_utf8_lossy(&line)));
                }
                other => self.line.push(other),
            }
        }
        blocks
    }

    /// The block that the end of the stream cut off, if its `id:` line was read.
    pub fn cut_off(&self) -> Option<CutOff> {
        if self.block.id.is_empty() {
            return None;
        }
        if self.id_last && self.line.is_empty() && !self.lines.is_empty() {
            let data = self.lines.join("\n");
            return Some(CutOff::AtTheEnd(Block { data, ..self.block.clone() }));
        }
        Some(CutOff::Inside(self.block.id.clone()))
    }

    fn line(&mut self, line: &str) -> Option<Block> {
        if line.is_empty() {
            let mut block = std::mem::take(&mut self.block);
            block.data = std::mem::take(&mut self.lines).join("\n");
            return std::mem::take(&mut self.any).then_some(block);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        self.id_last = field == "id";
        match field {
            "id" => self.block.id = value.to_owned(),
            "event" => self.block.event = value.to_owned(),
            "data" => self.lines.push(value.to_owned()),
            _ => return None,
        }
        self.any = true;
        None
    }
}

/// Reads a stream block by block. Panics on anything that the standard allows and a gateway never
/// writes.
pub struct Reader<R> {
    reader: BufReader<R>,
    parser: Parser,
    /// How many comments (heartbeats) were read.
    pub comments: usize,
    /// The value of the last `retry:`, in milliseconds.
    pub retry: Option<u64>,
}

impl<R: Read> Reader<R> {
    /// Reads the stream in a response's body, after the head.
    pub fn new(body: R) -> Self {
        let reader = BufReader::new(body);
        Reader { reader, parser: Parser::default(), comments: 0, retry: None }
    }

    /// The bytes that were not read yet.
    pub fn into_inner(self) -> BufReader<R> {
        self.reader
    }

    /// The next block, or none at the end of the stream.
    pub fn read(&mut self) -> Option<Block> {
        loop {
            let line = self.line()?;
            if let Some(block) = self.parser.line(&line) {
                return Some(block);
            }
        }
    }

    /// Reads until the next heartbeat. Skips blocks.
    pub fn heartbeat(&mut self) {
        while self.line().expect("a heartbeat") != ":" {}
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line).expect("UTF-8 within the bound") == 0 {
            return None;
        }
        assert_eq!(line.pop(), Some('\n'), "a whole line: {line:?}");
        match line.split_once(':') {
            None => assert!(line.is_empty(), "a line without a colon: {line:?}"),
            Some(("", _)) => self.comments += 1,
            Some((field, value)) => {
                let value = value.strip_prefix(' ').expect("one space behind the colon");
                match field {
                    "retry" => self.retry = Some(value.parse().expect("digits")),
                    "id" | "event" | "data" => {}
                    other => panic!("a field {other:?}"),
                }
            }
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_blocks_wherever_they_are_cut() {
        let text = "retry: 5\n\nid: 1-65536\r\ndata: a\rdata:\ndata:  b\n\n\
                    :\nevent: gap\ndata: {}\n\ndata: cut";
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let pieces = text.as_bytes().chunks(size);
            let blocks: Vec<Block> = pieces.flat_map(|piece| parser.feed(piece)).collect();
            let [event, gap] = &blocks[..] else { panic!("{blocks:?}") };
            assert_eq!((event.id.as_str(), event.data.as_str()), ("1-65536", "a\n\n b"));
            assert_eq!((gap.event.as_str(), gap.data.as_str()), ("gap", "{}"));
        }
    }

    #[test]
    fn a_block_that_is_cut_off_is_known_by_its_id() {
        let after = |text: &str| {
            let mut parser = Parser::default();
            parser.feed(text.as_bytes());
            parser.cut_off()
        };
        assert_eq!(after("data: a\n\ndata: b\nid: 1-6"), None);
        assert_eq!(after("id: 1-6\ndata: a\n"), Some(CutOff::Inside("1-6".to_owned())));
        let whole = Block { id: "1-6".to_owned(), event: String::new(), data: "a".to_owned() };
        assert_eq!(after("data: a\nid: 1-6\n"), Some(CutOff::AtTheEnd(whole)));
    }

    #[test]
    fn a_reader_counts_what_is_no_block() {
        let text = "retry: 5\n\n:\nid: 1-6\nevent: e\ndata: a\ndata: \n\n:\n:\ndata: cut\n";
        let mut reader = Reader::new(text.as_bytes());
        let block = reader.read().unwrap();
        assert_eq!((block.id.as_str(), block.event.as_str(), &*block.data), ("1-6", "e", "a\n"));
        assert_eq!((reader.comments, reader.retry), (1, Some(5)));
        reader.heartbeat();
        assert_eq!((reader.read(), reader.comments), (None, 3));
    }
}
