//! Reports the outcomes of events: ids and JSON on stdout, texts for people on stderr. A closed
//! stdout does not stop publishing; the lines that cannot be written are dropped.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sse_contract::Channel;

use crate::attempt::Reason;
use crate::deliver::{Ledger, Outcome};
use crate::item::{Event, Place};

/// Bytes of the longest event that some client libraries can read, for example r3labs/sse and
/// go-sse for Go. At a longer event they disconnect, reconnect and fail again, without end. See
/// docs/clients.md.
const READ_BY_ALL: usize = 64 * 1024;

/// How many events had which outcome.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Events that were published.
    pub published: u64,
    /// Events that were certainly not published.
    pub failed: u64,
    /// Events that may have been published.
    pub unknown: u64,
}

impl Totals {
    fn summary(self, elapsed: Duration) -> String {
        let events = if self.published == 1 { "event" } else { "events" };
        let mut line =
            format!("published {} {events} in {:.1} s", self.published, elapsed.as_secs_f64());
        for (count, what) in [(self.failed, "not published"), (self.unknown, "unknown")] {
            if count > 0 {
                line += &format!(", {count} {what}");
            }
        }
        line
    }
}

/// Why the run ended before its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Early {
    /// Delivery gave up: nothing succeeded for too long, or retrying was useless.
    GaveUp,
    /// An event failed, and `--strict` was given.
    Strict,
    /// Ctrl-C was pressed.
    Interrupted,
}

/// Writes the reports of a run.
pub struct Report<O, E> {
    json: bool,
    out: O,
    err: E,
    bar: Option<ProgressBar>,
    /// The ids to print at the end: those of the DATA argument's events, or that of the first event
    /// of many, which is printed if it stays the only one.
    ids: Vec<(Channel, String)>,
    totals: Totals,
    /// Whether the warning about events too long for some clients was printed. It is printed once.
    told_of_length: bool,
}

impl Report<io::Stdout, io::Stderr> {
    /// A report to this process's standard streams. With `many` events and a terminal it shows a
    /// progress bar.
    pub fn to_terminal(json: bool, many: bool) -> Self {
        let mut report = Report::new(json, io::stdout(), io::stderr());
        if many && !json && io::stderr().is_terminal() {
            let style =
                ProgressStyle::with_template("{spinner} published {human_pos} events, {per_sec}");
            let bar = ProgressBar::new_spinner().with_style(style.expect("the template is valid"));
            bar.enable_steady_tick(Duration::from_millis(200));
            report.bar = Some(bar);
        }
        report
    }
}

impl<O: Write, E: Write> Report<O, E> {
    /// A report to these writers, without a progress bar.
    pub fn new(json: bool, out: O, err: E) -> Self {
        Report {
            json,
            out,
            err,
            bar: None,
            ids: Vec::new(),
            totals: Totals::default(),
            told_of_length: false,
        }
    }

    /// The totals of what was reported so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Reports a line that is not a valid item.
    pub fn refused(&mut self, place: Place, reason: &Reason) {
        self.totals.failed += 1;
        if self.json {
            let mut line = json!({ "outcome": "failed", "error": error(reason) });
            add_place(&mut line, place);
            self.print(&line.to_string());
        }
        self.say(&format!("{}not published: {}", at(place, place), reason.text));
    }

    /// Reports the outcomes of a batch, also of an interrupted one.
    pub fn batch(&mut self, ledger: &Ledger) {
        let mut failures: Option<Failures> = None;
        for (event, outcome) in ledger.outcomes() {
            self.count(&outcome, event);
            if self.json {
                self.print(&json_line(event, &outcome));
            }
            let (published, reason) = match outcome {
                Outcome::Published(_) => continue,
                Outcome::Failed(reason) => ("not published", reason),
                Outcome::Unknown(reason) => ("unknown whether published", reason),
            };
            match &mut failures {
                Some(run) if run.what == published && run.reason == reason => run.add(event),
                _ => {
                    if let Some(run) = failures.replace(Failures::new(event, published, reason)) {
                        self.say(&run.to_string());
                    }
                }
            }
        }
        if let Some(run) = failures {
            self.say(&run.to_string());
        }
        if let Some(bar) = &self.bar {
            bar.set_position(self.totals.published);
        }
        self.out.flush().ok();
    }

    fn count(&mut self, outcome: &Outcome, event: &Event) {
        match outcome {
            Outcome::Published(id) => {
                self.totals.published += 1;
                if event.place == Place::Argument || self.totals.published == 1 {
                    self.ids.push((event.channel.clone(), id.clone()));
                }
                self.tell_of_length(event);
            }
            Outcome::Failed(_) => self.totals.failed += 1,
            Outcome::Unknown(_) => self.totals.unknown += 1,
        }
    }

    fn tell_of_length(&mut self, event: &Event) {
        let bytes = event.block_bytes();
        if bytes > READ_BY_ALL && !self.told_of_length {
            self.told_of_length = true;
            let (place, channel) = (at(event.place, event.place), &event.channel);
            self.say(&format!(
                "{place}channel {channel}: warning: some clients (r3labs/sse, go-sse) cannot read events over \
                 64 KB unless told to, and this one is {} KB; see docs/clients.md",
                bytes.div_ceil(1024)
            ));
        }
    }

    /// Prints the ids, or a summary. `last_line` is the last line that was tried; `None` if the
    /// event was an argument.
    pub fn finish(&mut self, elapsed: Duration, early: Option<Early>, last_line: Option<u64>) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let early = early.zip(last_line);
        if let Some((early, last_line)) = early {
            let why = match early {
                Early::GaveUp => "gave up",
                Early::Strict => "stopped, as --strict asks",
                Early::Interrupted => "interrupted",
            };
            self.say(&format!("{why}; nothing after line {last_line} was tried"));
        }
        if self.json {
            let Totals { published, failed, unknown } = self.totals;
            let mut summary = json!({
                "published": published, "failed": failed, "unknown": unknown,
                "seconds": elapsed.as_secs_f64(),
            });
            if let Some((_, last_line)) = early {
                summary["nothing_tried_after_line"] = last_line.into();
            }
            self.print(&json!({ "summary": summary }).to_string());
        } else if self.totals == (Totals { published: 1, failed: 0, unknown: 0 }) {
            for (_, id) in std::mem::take(&mut self.ids) {
                self.print(&id);
            }
        } else if last_line.is_none() {
            for (channel, id) in std::mem::take(&mut self.ids) {
                self.print(&format!("{channel} {id}"));
            }
        } else {
            self.say_plainly(&self.totals.summary(elapsed));
        }
        self.out.flush().ok();
    }

    /// Prints a line for people.
    pub fn say(&mut self, line: &str) {
        self.say_plainly(&format!("sse-publish: {line}"));
    }

    fn say_plainly(&mut self, line: &str) {
        let err = &mut self.err;
        let mut write = || writeln!(err, "{line}").ok();
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        };
    }

    fn print(&mut self, line: &str) {
        writeln!(self.out, "{line}").ok();
    }
}

/// Consecutive events that failed for the same reason, reported in one line.
struct Failures {
    first: Event,
    last: Event,
    what: &'static str,
    reason: Reason,
}

impl Failures {
    fn new(event: &Event, what: &'static str, reason: Reason) -> Self {
        Failures { first: event.clone(), last: event.clone(), what, reason }
    }

    fn add(&mut self, event: &Event) {
        self.last = event.clone();
    }
}

impl std::fmt::Display for Failures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&at(self.first.place, self.last.place))?;
        if self.first.channel == self.last.channel {
            write!(f, "channel {}: ", self.first.channel)?;
        }
        write!(f, "{}: {}", self.what, self.reason.text)
    }
}

fn at(first: Place, last: Place) -> String {
    match (first, last) {
        (Place::Line(first), Place::Line(last)) if first != last => {
            format!("lines {first} to {last}: ")
        }
        (Place::Line(line), _) => format!("line {line}: "),
        (Place::Argument, _) => String::new(),
    }
}

fn json_line(event: &Event, outcome: &Outcome) -> String {
    let channel = event.channel.as_str();
    let mut line = match outcome {
        Outcome::Published(id) => json!({ "channel": channel, "outcome": "published", "id": id }),
        Outcome::Failed(why) => {
            json!({ "channel": channel, "outcome": "failed", "error": error(why) })
        }
        Outcome::Unknown(why) => {
            json!({ "channel": channel, "outcome": "unknown", "error": error(why) })
        }
    };
    add_place(&mut line, event.place);
    line.to_string()
}

fn add_place(line: &mut serde_json::Value, place: Place) {
    if let Place::Line(number) = place {
        line["line"] = number.into();
    }
}

fn error(reason: &Reason) -> serde_json::Value {
    match &reason.kind {
        Some(kind) => json!({ "type": kind, "detail": reason.text }),
        None => json!({ "detail": reason.text }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::{ItemReader, parse_channels};

    fn ledger(places: &[Place], channels: &str) -> Ledger {
        let channels = parse_channels(channels.split(',')).unwrap();
        let items = ItemReader { ndjson: false, channels, event: None, run: "r".into() };
        Ledger::new(places.iter().flat_map(|&place| items.read(place, "x").unwrap()).collect())
    }

    fn finished(
        json: bool,
        ledger: &Ledger,
        early: Option<Early>,
        last: Option<u64>,
    ) -> (String, String) {
        let mut report = Report::new(json, Vec::new(), Vec::new());
        report.batch(ledger);
        report.finish(Duration::from_millis(1234), early, last);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(report.out), text(report.err))
    }

    #[test]
    fn neighbours_that_failed_alike_are_one_line() {
        let ledger = ledger(&[Place::Line(3), Place::Line(4), Place::Line(5)], "a");
        let (out, err) = finished(false, &ledger, Some(Early::GaveUp), Some(5));
        assert_eq!(out, "");
        let want = "sse-publish: lines 3 to 5: channel a: not published: not sent\n\
            sse-publish: gave up; nothing after line 5 was tried\n\
            published 0 events in 1.2 s, 3 not published\n";
        assert_eq!(err, want);
    }

    #[test]
    fn json_has_a_line_for_each_and_one_for_all() {
        let ledger = ledger(&[Place::Line(1)], "a,b");
        let (out, _) = finished(true, &ledger, None, Some(1));
        let want = "{\"channel\":\"a\",\"error\":{\"detail\":\"not sent\"},\"line\":1,\"outcome\":\"failed\"}";
        assert_eq!(out.lines().next(), Some(want));
        let want = "{\"summary\":{\"failed\":2,\"published\":0,\"seconds\":1.234,\"unknown\":0}}";
        assert_eq!(out.lines().nth(2), Some(want));
    }
}
