//! An event stream's bytes to blocks, as the standard has it, whatever the framing of the body.

/// A block that had a field besides `retry`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    /// The `id` field, if it was there.
    pub id: Option<String>,
    /// The `event` field; empty for a plain event.
    pub event: String,
    /// The `data` fields, joined.
    pub data: String,
}

/// Reads an event stream in pieces of any size. A block that is cut off by the end is never shown.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    /// The last line ended with CR: a LF that follows belongs to it.
    after_cr: bool,
    block: Block,
    lines: Vec<String>,
    any: bool,
    /// The last field was an id.
    id_last: bool,
}

/// A block that was cut off behind its `id:` line.
#[derive(Debug, PartialEq, Eq)]
pub enum CutOff {
    /// More of it was to come: whoever takes the cursor at once skips it.
    Inside(String),
    /// Nothing of it is missing but the empty line.
    AtTheEnd(Block),
}

impl Parser {
    /// What is left of a block at the end of a stream, if its `id:` line was read.
    pub fn cut_off(&self) -> Option<CutOff> {
        let id = self.block.id.clone()?;
        if self.id_last && self.line.is_empty() && !self.lines.is_empty() {
            return Some(CutOff::AtTheEnd(Block {
                data: self.lines.join("\n"),
                ..self.block.clone()
            }));
        }
        Some(CutOff::Inside(id))
    }

    /// Takes bytes; answers the blocks that are whole now.
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
            "id" => self.block.id = Some(value.to_owned()),
            "event" => self.block.event = value.to_owned(),
            "data" => self.lines.push(value.to_owned()),
            _ => return None,
        }
        self.any = true;
        None
    }
}

/// Takes the chunks' framing off a body. A body that is not in chunks passes as it is.
#[derive(Debug)]
pub enum Body {
    /// Until the connection closes.
    Plain,
    /// In chunks: what is left of the current one, and the size line as far as it was read.
    Chunked(usize, Vec<u8>),
}

impl Body {
    /// The framing that a response's head announces.
    pub fn of(head: &str) -> Body {
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            Body::Chunked(0, Vec::new())
        } else {
            Body::Plain
        }
    }

    /// The content in `bytes`.
    pub fn decode(&mut self, bytes: &[u8]) -> Vec<u8> {
        let Body::Chunked(left, size) = self else { return bytes.to_vec() };
        let mut content = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        while let Some(&byte) = rest.first() {
            if *left > 0 {
                let n = rest.len().min(*left);
                content.extend_from_slice(&rest[..n]);
                *left -= n;
                rest = &rest[n..];
                continue;
            }
            rest = &rest[1..];
            // The line end behind a chunk is an empty size line, and says nothing.
            match byte {
                b'\n' => {
                    let text = String::from_utf8_lossy(size);
                    // What stands behind a semicolon is an extension.
                    let text = text.split(';').next().unwrap_or_default();
                    *left = usize::from_str_radix(text.trim(), 16).unwrap_or(0);
                    size.clear();
                }
                other => size.push(other),
            }
        }
        content
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_blocks_wherever_they_are_cut() {
        let text = "retry: 5\n\nid: 1-65536\r\ndata: a\rdata:\ndata:  b\n\n:\nevent: gap\ndata: {}\n\ndata: cut";
        let framed =
            format!("3\r\n{}\r\n{:x};x=y\r\n{}\r\n", &text[..3], text.len() - 3, &text[3..]);
        for (head, bytes) in [("", text), ("Transfer-Encoding: chunked", framed.as_str())] {
            for size in 1..bytes.len() {
                let (mut parser, mut body) = (Parser::default(), Body::of(head));
                let pieces = bytes.as_bytes().chunks(size);
                let blocks: Vec<Block> =
                    pieces.flat_map(|piece| parser.feed(&body.decode(piece))).collect();
                let [event, gap] = &blocks[..] else { panic!("{blocks:?}") };
                assert_eq!(
                    (event.id.as_deref(), event.data.as_str()),
                    (Some("1-65536"), "a\n\n b")
                );
                assert_eq!((gap.event.as_str(), gap.data.as_str()), ("gap", "{}"));
            }
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
        let whole =
            Block { id: Some("1-6".to_owned()), event: String::new(), data: "a".to_owned() };
        assert_eq!(after("data: a\nid: 1-6\n"), Some(CutOff::AtTheEnd(whole)));
    }
}
