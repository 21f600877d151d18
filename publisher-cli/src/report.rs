//! Reports the outcomes of events: ids and JSON on stdout, texts for people on stderr. What is
//! printed where depends on the command line, and never on how many events there are. A closed
//! stdout does not stop publishing; the lines that cannot be written are dropped.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::attempt::Reason;
use crate::deliver::{Failing, Ledger, Outcome};
use crate::item::{Event, Place};
use crate::progress::Progress;

/// Bytes of the longest event that some client libraries can read, for example r3labs/sse and
/// go-sse for Go. At a longer event they disconnect, reconnect and fail again, without end. See
/// docs/clients.md.
const READ_BY_ALL: usize = 64 * 1024;
/// Retries that succeed within this time are not worth a line.
const BEFORE_TELLING: Duration = Duration::from_secs(1);
/// The time between two lines about the same trouble.
const TELL_AGAIN: Duration = Duration::from_secs(10);

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

/// What is printed about a run that goes well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The id of each event, on stdout.
    Ids,
    /// The channel and id of each event, on stdout.
    ChannelsAndIds,
    /// A summary, on stderr.
    Summary,
    /// A line of JSON for each event and one for the run, on stdout.
    Json,
    /// Nothing.
    Quiet,
}

/// Writes the reports of a run.
pub struct Report<O, E> {
    form: Form,
    /// The address of the server, for messages.
    to: String,
    out: O,
    err: E,
    progress: Option<Progress>,
    totals: Totals,
    /// Whether the warning about events too long for some clients was printed. It is printed once.
    told_of_length: bool,
    /// When the trouble of this moment was last told of.
    told_of_trouble: Option<Instant>,
}

impl Report<io::Stdout, io::Stderr> {
    /// A report to this process's standard streams. With `progress` and a terminal it shows the
    /// progress, of an input of `size` bytes if that is known.
    pub fn to_terminal(form: Form, to: String, progress: bool, size: Option<u64>) -> Self {
        let mut report = Report::new(form, to, io::stdout(), io::stderr());
        let silent = matches!(form, Form::Json | Form::Quiet);
        if progress && !silent && io::stderr().is_terminal() {
            report.progress = Some(Progress::on_terminal(size));
        }
        report
    }
}

impl<O: Write, E: Write> Report<O, E> {
    /// A report to these writers, without a progress bar.
    pub fn new(form: Form, to: String, out: O, err: E) -> Self {
        Report {
            form,
            to,
            out,
            err,
            progress: None,
            totals: Totals::default(),
            told_of_length: false,
            told_of_trouble: None,
        }
    }

    /// The totals of what was reported so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Reports a line that is not a valid item.
    pub fn refused(&mut self, place: Place, reason: &Reason) {
        self.totals.failed += 1;
        if self.form == Form::Json {
            let mut line = json!({ "outcome": "failed", "error": error(reason) });
            add_place(&mut line, place);
            self.print(&line.to_string());
        }
        self.say(&format!("{}not published: {}", at(place, place), reason.text));
    }

    /// Reports the outcomes of a batch, also of an interrupted one. `done` is the bytes of the input
    /// up to its end.
    pub fn batch(&mut self, ledger: &Ledger, done: u64) {
        let mut failures: Option<Failures> = None;
        for (event, outcome) in ledger.outcomes() {
            self.count(&outcome, event);
            match (self.form, &outcome) {
                (Form::Json, _) => self.print(&json_line(event, &outcome)),
                (Form::Ids, Outcome::Published(id)) => self.print(id),
                (Form::ChannelsAndIds, Outcome::Published(id)) => {
                    self.print(&format!("{} {id}", event.channel));
                }
                _ => {}
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
                        self.say(&run.text(&self.to));
                    }
                }
            }
        }
        if let Some(run) = failures {
            self.say(&run.text(&self.to));
        }
        if let Some(progress) = &mut self.progress {
            progress.reached(self.totals.published, done);
        }
        self.out.flush().ok();
    }

    /// Shows the progress of this moment and the trouble, if there is any. Without a progress bar,
    /// trouble is told after a second, and again now and then.
    pub fn watch(&mut self, now: Instant, trouble: Option<&Failing>) {
        let text = trouble.map(|Failing { why, until, .. }| {
            let left = until.saturating_duration_since(now).as_millis().div_ceil(1000);
            format!("retrying {}: {why} ({left} s left)", self.to)
        });
        let lasting = trouble.is_some_and(|failing| now >= failing.since + BEFORE_TELLING);
        if let Some(progress) = &mut self.progress {
            return progress.show(now, text.as_deref().filter(|_| lasting));
        }
        let told_lately = self.told_of_trouble.is_some_and(|told| now < told + TELL_AGAIN);
        match text {
            None => self.told_of_trouble = None,
            Some(text) if lasting && !told_lately => {
                self.told_of_trouble = Some(now);
                self.say(&text);
            }
            Some(_) => {}
        }
    }

    fn count(&mut self, outcome: &Outcome, event: &Event) {
        match outcome {
            Outcome::Published(_) => {
                self.totals.published += 1;
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

    /// Ends the report, with a summary if the form has one. `last` is the place of the last line that
    /// was tried.
    pub fn finish(&mut self, elapsed: Duration, early: Option<Early>, last: Place) {
        if let Some(progress) = self.progress.take() {
            progress.end();
        }
        let (what, number) = match last {
            Place::Argument => ("", None),
            Place::Line(number) => ("line", Some(number)),
            Place::Number(number) => ("event", Some(number)),
        };
        if let (Some(early), Some(number)) = (early, number) {
            let why = match early {
                Early::GaveUp => "gave up",
                Early::Strict => "stopped, as --strict asks",
                Early::Interrupted => "interrupted",
            };
            self.say(&format!("{why}; nothing after {what} {number} was tried"));
        }
        match self.form {
            Form::Json => {
                let Totals { published, failed, unknown } = self.totals;
                let mut summary = json!({
                    "published": published, "failed": failed, "unknown": unknown,
                    "seconds": elapsed.as_secs_f64(), "to": self.to,
                });
                if let (Some(_), Some(number)) = (early, number) {
                    summary[format!("nothing_tried_after_{what}")] = number.into();
                }
                self.print(&json!({ "summary": summary }).to_string());
            }
            Form::Summary => self.say_plainly(&self.totals.summary(elapsed)),
            Form::Ids | Form::ChannelsAndIds | Form::Quiet => {}
        }
        self.out.flush().ok();
    }

    /// Prints a line for people.
    pub fn say(&mut self, line: &str) {
        self.say_plainly(&format!("sse-publish: {line}"));
    }

    fn say_plainly(&mut self, line: &str) {
        let err = &mut self.err;
        let mut write = || drop(writeln!(err, "{line}"));
        match &self.progress {
            Some(progress) => progress.aside(write),
            None => write(),
        }
    }

    fn print(&mut self, line: &str) {
        let out = &mut self.out;
        let mut write = || drop(writeln!(out, "{line}"));
        match &self.progress {
            // Both may be the same terminal.
            Some(progress) => progress.aside(write),
            None => write(),
        }
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

    fn text(&self, to: &str) -> String {
        let place = at(self.first.place, self.last.place);
        let channel = if self.first.channel == self.last.channel {
            format!("channel {}: ", self.first.channel)
        } else {
            String::new()
        };
        format!("{place}{channel}{}: {to}: {}", self.what, self.reason.text)
    }
}

fn at(first: Place, last: Place) -> String {
    match (first, last) {
        (Place::Line(first), Place::Line(last)) if first != last => {
            format!("lines {first} to {last}: ")
        }
        (Place::Number(first), Place::Number(last)) if first != last => {
            format!("events {first} to {last}: ")
        }
        (Place::Line(line), _) => format!("line {line}: "),
        (Place::Number(number), _) => format!("event {number}: "),
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
    match place {
        Place::Argument => {}
        Place::Line(number) => line["line"] = number.into(),
        Place::Number(number) => line["number"] = number.into(),
    }
}

fn error(reason: &Reason) -> serde_json::Value {
    match &reason.kind {
        Some(kind) => json!({ "type": kind, "detail": reason.text }),
        None => json!({ "detail": reason.text }),
    }
}

#[cfg(test)]
mod tests;
