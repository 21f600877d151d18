//! Prints the events of a stream, one per line, and flushes each.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::event_stream::StreamEvent;

/// How events are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `id  event  data`. Control characters are escaped, so that an event cannot move the cursor
    /// of a terminal or look like two events.
    Human,
    /// One JSON object per line.
    Json,
    /// The data, unchanged.
    DataOnly,
}

/// Prints the events of one run.
#[derive(Debug)]
pub struct Printer<O, E> {
    form: Form,
    checkpoints: bool,
    out: O,
    err: E,
}

#[derive(Serialize)]
struct JsonEvent<'a> {
    id: Option<&'a str>,
    event: &'a str,
    data: &'a str,
}

#[derive(Deserialize)]
struct Gap {
    channel: String,
    reason: String,
    after: Option<String>,
    oldest: Option<String>,
}

impl<O: Write, E: Write> Printer<O, E> {
    /// A printer that writes events to `out`, and texts that are only for people to `err`.
    pub fn new(form: Form, checkpoints: bool, out: O, err: E) -> Self {
        Printer { form, checkpoints, out, err }
    }

    /// Prints an event. Returns whether it counts as an event; gaps and checkpoints do not.
    pub fn event(&mut self, event: &StreamEvent) -> io::Result<bool> {
        match event.event.as_str() {
            "checkpoint" if !self.checkpoints => return Ok(false),
            "gap" if self.form != Form::Json => {
                self.say(&gap_text(&event.data));
                return Ok(false);
            }
            _ => {}
        }
        // An EventSource calls an untyped event `message`.
        let name = if event.event.is_empty() { "message" } else { &event.event };
        match self.form {
            Form::Human => {
                let id = event.id.as_deref().unwrap_or("-");
                let (id, name, data) = (escape(id), escape(name), escape(&event.data));
                writeln!(self.out, "{id}  {name}  {data}")?;
            }
            Form::Json => {
                let line = JsonEvent { id: event.id.as_deref(), event: name, data: &event.data };
                serde_json::to_writer(&mut self.out, &line)?;
                self.out.write_all(b"\n")?;
            }
            Form::DataOnly => writeln!(self.out, "{}", event.data)?,
        }
        self.out.flush()?;
        Ok(!matches!(name, "gap" | "checkpoint"))
    }

    /// Prints a line for people.
    pub fn say(&mut self, line: &str) {
        writeln!(self.err, "sse-publish: {}", escape(line)).ok();
    }
}

fn gap_text(data: &str) -> String {
    let Ok(gap) = serde_json::from_str::<Gap>(data) else {
        return format!("gap: {data}");
    };
    let on = if gap.channel == "*" { "all channels" } else { &gap.channel };
    let mut text = format!("gap on {on}: {}", gap.reason);
    for (name, id) in [("after", gap.after), ("oldest", gap.oldest)] {
        if let Some(id) = id.filter(|id| !id.is_empty()) {
            text += &format!(", {name} {id}");
        }
    }
    text
}

/// Escapes control characters, so that a text cannot move the cursor of a terminal or begin another
/// line.
pub fn escape(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(form: Form, checkpoints: bool, events: &[(&str, &str)]) -> (String, String, usize) {
        let mut printer = Printer::new(form, checkpoints, Vec::new(), Vec::new());
        let mut counted = 0;
        for &(event, data) in events {
            let event =
                StreamEvent { id: Some("1-0".into()), event: event.into(), data: data.into() };
            counted += usize::from(printer.event(&event).unwrap());
        }
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(printer.out), text(printer.err), counted)
    }

    const GAP: &str = r#"{"channel":"orders","reason":"trimmed","after":"1-2","oldest":"3-4"}"#;

    #[test]
    fn a_line_is_a_line_whatever_the_data() {
        let (out, _, _) = printed(Form::Human, false, &[("", "a\nb\x1b[2J\u{9b}"), ("tick", "")]);
        assert_eq!(out, "1-0  message  a\\nb\\u{1b}[2J\\u{9b}\n1-0  tick  \n");
    }

    #[test]
    fn gaps_are_told_and_checkpoints_only_when_asked_for() {
        let events = [("gap", GAP), ("checkpoint", ""), ("", "x")];
        let (out, err, counted) = printed(Form::Human, false, &events);
        assert_eq!((out.as_str(), counted), ("1-0  message  x\n", 1));
        assert_eq!(err, "sse-publish: gap on orders: trimmed, after 1-2, oldest 3-4\n");
        let (out, err, counted) = printed(Form::Json, true, &events);
        assert_eq!((out.lines().count(), err.as_str(), counted), (3, "", 1));
        assert_eq!(printed(Form::DataOnly, false, &events).0, "x\n");
    }

    #[test]
    fn a_raw_publish_has_no_id() {
        let mut printer = Printer::new(Form::Json, false, Vec::new(), Vec::new());
        let event = StreamEvent { id: None, event: String::new(), data: "x".into() };
        printer.event(&event).unwrap();
        let want: &[u8] = b"{\"id\":null,\"event\":\"message\",\"data\":\"x\"}\n";
        assert_eq!(printer.out, want);
    }
}
