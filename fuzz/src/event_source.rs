//! A browser's event stream parser: WHATWG HTML §9.2.6 implemented literally, on the whole stream
//! at once.

/// A dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The event's type; `message` if the stream gave none.
    pub kind: String,
    /// The event's data.
    pub data: String,
    /// The event's `lastEventId`.
    pub id: String,
}

/// The events that a page gets, and the last event id with which it would reconnect.
pub fn read(bytes: &[u8]) -> (Vec<Event>, String) {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = text.split('\n').collect();
    // An unterminated last line is not processed.
    lines.pop();
    let (mut events, mut data, mut kind) = (Vec::new(), String::new(), String::new());
    let (mut id, mut last) = (String::new(), String::new());
    for line in lines {
        if line.is_empty() {
            last.clone_from(&id);
            if let Some(data) = data.strip_suffix('\n') {
                let kind = if kind.is_empty() { "message" } else { &kind };
                events.push(Event { kind: kind.to_owned(), data: data.to_owned(), id: id.clone() });
            }
            data.clear();
            kind.clear();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                data += value;
                data.push('\n');
            }
            "event" => value.clone_into(&mut kind),
            "id" if !value.contains('\0') => value.clone_into(&mut id),
            _ => {}
        }
    }
    (events, last)
}

/// The text with every line end as LF, as every parser returns it.
pub fn normal(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// The content of a chunked body (RFC 9112 §7.1); none unless the bytes are whole chunks only.
pub fn unchunked(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).ok()?, 16).ok()?;
        bytes = &bytes[end + 2..];
        whole.extend_from_slice(bytes.get(..size)?);
        bytes = bytes[size..].strip_prefix(b"\r\n")?;
    }
    Some(whole)
}
