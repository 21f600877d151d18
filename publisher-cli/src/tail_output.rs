//! Prints the events of a stream, one per line, and flushes each.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sse_contract::{EventId, compact_json};

use crate::colour::{Colour, Paint};
use crate::event_stream::StreamEvent;
use crate::plain::kind;
use crate::tail_format::{Parts, Template};

/// How events are printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// `id  event  data`. Control characters are escaped, so that an event cannot move the cursor
    /// of a terminal or look like two events.
    Human,
    /// One JSON object per line.
    Json {
        /// Whether data that are JSON, other than a string, are printed as JSON.
        parse: bool,
    },
    /// The data, unchanged.
    DataOnly,
    /// As a template says.
    Template(Template),
}

/// What is printed, and how.
#[derive(Debug, Clone)]
pub struct View {
    /// How events are printed.
    pub form: Form,
    /// Whether the time of publication is shown.
    pub time: bool,
    /// Whether the channel is shown.
    pub channel: bool,
    /// Whether checkpoints are shown.
    pub checkpoints: bool,
    /// The colours of stdout.
    pub out: Colour,
    /// The colours of stderr.
    pub err: Colour,
}

/// What a block of the stream was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// An event.
    Event,
    /// A gap: events may be missing.
    Gap,
    /// A block that only says where the stream is, or that it is alive.
    Sign,
}

/// Prints the events of one run.
#[derive(Debug)]
pub struct Printer<O, E> {
    view: View,
    out: O,
    err: E,
    /// The channels that were seen, each of which has a colour.
    channels: Vec<String>,
}

#[derive(Serialize)]
struct JsonEvent<'a> {
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    event: &'a str,
    data: Box<RawValue>,
}

#[derive(Deserialize)]
struct Gap {
    channel: String,
    reason: String,
    after: Option<String>,
    oldest: Option<String>,
}

impl Seen {
    /// What a block of this type is.
    pub fn of(event: &StreamEvent) -> Self {
        match event.event.as_str() {
            "gap" => Seen::Gap,
            "checkpoint" | "alive" => Seen::Sign,
            _ => Seen::Event,
        }
    }
}

impl<O: Write, E: Write> Printer<O, E> {
    /// A printer that writes events to `out`, and texts that are only for people to `err`.
    pub fn new(view: View, out: O, err: E) -> Self {
        Printer { view, out, err, channels: Vec::new() }
    }

    /// Prints a block of the stream. `channel` is the event's channel, if it is known.
    pub fn event(&mut self, event: &StreamEvent, channel: Option<&str>) -> io::Result<()> {
        match Seen::of(event) {
            Seen::Sign if !self.view.checkpoints => return Ok(()),
            Seen::Gap if !matches!(self.view.form, Form::Json { .. }) => {
                self.alarm(&gap_text(&event.data));
                return Ok(());
            }
            _ => {}
        }
        // An EventSource calls an untyped event `message`.
        let name = if event.event.is_empty() { "message" } else { &event.event };
        match &self.view.form {
            Form::Human => self.human(event, name, channel)?,
            Form::Json { parse } => {
                let time = self.view.time.then(|| time(event));
                let (id, data) = (event.id.as_deref(), json_data(&event.data, *parse)?);
                let channel = channel.filter(|_| self.view.channel);
                let line = JsonEvent { id, time, channel, event: name, data };
                serde_json::to_writer(&mut self.out, &line)?;
                self.out.write_all(b"\n")?;
            }
            Form::DataOnly => writeln!(self.out, "{}", event.data)?,
            Form::Template(template) => {
                let time = time(event).unwrap_or_else(|| "-".to_owned());
                let json = json_data(&event.data, true)?;
                let line = template.fill(&Parts {
                    id: &escape(event.id.as_deref().unwrap_or("-")),
                    time: &time,
                    channel: channel.unwrap_or("-"),
                    kind: &escape(name),
                    data: &escape(&event.data),
                    raw: &event.data,
                    json: json.get(),
                });
                writeln!(self.out, "{line}")?;
            }
        }
        self.out.flush()
    }

    fn human(&mut self, event: &StreamEvent, name: &str, channel: Option<&str>) -> io::Result<()> {
        let colour = self.view.out;
        let mut columns = Vec::new();
        if self.view.time {
            let time = time(event).unwrap_or_else(|| "-".to_owned());
            columns.push(colour.paint(Paint::Dim, time));
        }
        columns.push(colour.paint(Paint::Dim, escape(event.id.as_deref().unwrap_or("-"))));
        if self.view.channel {
            let channel = channel.unwrap_or("-");
            columns.push(colour.paint(Paint::Name(self.number_of(channel)), escape(channel)));
        }
        columns.push(colour.paint(Paint::Kind, escape(name)));
        writeln!(self.out, "{}  {}", columns.join("  "), escape(&event.data))
    }

    /// The number of a channel, in the order in which they were seen.
    fn number_of(&mut self, channel: &str) -> usize {
        let known = self.channels.iter().position(|known| known == channel);
        known.unwrap_or_else(|| {
            self.channels.push(channel.to_owned());
            self.channels.len() - 1
        })
    }

    /// Prints a line for people.
    pub fn say(&mut self, line: &str) {
        writeln!(self.err, "sse-publish: {}", escape(line)).ok();
    }

    /// Prints a line for people about something that went wrong.
    fn alarm(&mut self, line: &str) {
        let line = self.view.err.paint(Paint::Alarm, escape(line));
        writeln!(self.err, "sse-publish: {line}").ok();
    }
}

/// When an event was published, which its id says.
fn time(event: &StreamEvent) -> Option<String> {
    let id: EventId = event.id.as_ref()?.parse().ok()?;
    let time = UNIX_EPOCH + Duration::from_millis(id.ms);
    Some(humantime::format_rfc3339_millis(time).to_string())
}

/// Data as a JSON value: itself, if that is asked for and it is JSON other than a string, or else a
/// string. A string would lose its quotes when the line is published again.
fn json_data(data: &str, parse: bool) -> io::Result<Box<RawValue>> {
    let value = parse.then(|| serde_json::from_str::<&RawValue>(data).ok()).flatten();
    let value = value.filter(|value| kind(value.get()) != "a string");
    let text: Cow<'_, str> = match value {
        Some(value) => compact_json(value.get()).into(),
        None => serde_json::to_string(data)?.into(),
    };
    Ok(RawValue::from_string(text.into_owned())?)
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
    use crate::environment::Environment;

    const JSON: Form = Form::Json { parse: false };

    fn view(form: Form) -> View {
        let plain = Colour::choose(clap::ColorChoice::Never, &Environment::default(), false);
        View { form, time: false, channel: false, checkpoints: false, out: plain, err: plain }
    }

    fn printed(view: View, events: &[(&str, &str)]) -> (String, String) {
        let mut printer = Printer::new(view, Vec::new(), Vec::new());
        for &(event, data) in events {
            let event =
                StreamEvent { id: Some("1-0".into()), event: event.into(), data: data.into() };
            printer.event(&event, Some("orders")).unwrap();
        }
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(printer.out), text(printer.err))
    }

    const GAP: &str = r#"{"channel":"orders","reason":"trimmed","after":"1-2","oldest":"3-4"}"#;

    #[test]
    fn a_line_is_a_line_whatever_the_data() {
        let (out, _) = printed(view(Form::Human), &[("", "a\nb\x1b[2J\u{9b}"), ("tick", "")]);
        assert_eq!(out, "1-0  message  a\\nb\\u{1b}[2J\\u{9b}\n1-0  tick  \n");
    }

    #[test]
    fn gaps_are_told_and_checkpoints_only_when_asked_for() {
        let events = [("gap", GAP), ("checkpoint", ""), ("alive", ""), ("", "x")];
        let (out, err) = printed(view(Form::Human), &events);
        assert_eq!(out, "1-0  message  x\n");
        assert_eq!(err, "sse-publish: gap on orders: trimmed, after 1-2, oldest 3-4\n");
        let all = View { checkpoints: true, ..view(JSON) };
        let (out, err) = printed(all, &events);
        assert_eq!((out.lines().count(), err.as_str()), (4, ""));
        assert_eq!(printed(view(Form::DataOnly), &events).0, "x\n");
    }

    #[test]
    fn time_and_channel_are_shown_when_asked_for() {
        let more = |form| View { time: true, channel: true, ..view(form) };
        let human = "1970-01-01T00:00:00.001Z  1-0  orders  tick  x\n";
        assert_eq!(printed(more(Form::Human), &[("tick", "x")]).0, human);
        let json = "{\"id\":\"1-0\",\"time\":\"1970-01-01T00:00:00.001Z\",\"channel\":\"orders\",\
            \"event\":\"message\",\"data\":\"x\"}\n";
        assert_eq!(printed(more(JSON), &[("", "x")]).0, json);
        let template = Form::Template("{channel}:{data}|{json}".parse().unwrap());
        assert_eq!(
            printed(view(template), &[("", "{ \"a\":1}\n")]).0,
            "orders:{ \"a\":1}\\n|{\"a\":1}\n"
        );
    }

    #[test]
    fn colours_are_of_parts_of_a_line() {
        let bright = Colour::choose(clap::ColorChoice::Always, &Environment::default(), false);
        let view = View { channel: true, out: bright, err: bright, ..view(Form::Human) };
        let (out, err) = printed(view, &[("gap", GAP), ("tick", "\x1b[0m")]);
        let line = "\x1b[2m1-0\x1b[0m  \x1b[36morders\x1b[0m  \x1b[1mtick\x1b[0m  \\u{1b}[0m\n";
        assert_eq!(out, line);
        assert!(err.starts_with("sse-publish: \x1b[31mgap on orders"), "{err:?}");
    }

    #[test]
    fn data_are_parsed_only_where_they_come_back_unchanged() {
        for (data, want) in [
            ("{\"a\": [1.10,\n 2]}", "{\"a\":[1.10,2]}"),
            ("7", "7"),
            ("null", "null"),
            ("\"x\"", "\"\\\"x\\\"\""),
            ("x", "\"x\""),
            ("", "\"\""),
        ] {
            let line = printed(view(Form::Json { parse: true }), &[("", data)]).0;
            assert_eq!(line, format!("{{\"id\":\"1-0\",\"event\":\"message\",\"data\":{want}}}\n"));
        }
    }

    #[test]
    fn a_raw_publish_has_no_id() {
        let mut printer = Printer::new(view(JSON), Vec::new(), Vec::new());
        let event = StreamEvent { id: None, event: String::new(), data: "x".into() };
        printer.event(&event, None).unwrap();
        let want: &[u8] = b"{\"id\":null,\"event\":\"message\",\"data\":\"x\"}\n";
        assert_eq!(printer.out, want);
    }
}
