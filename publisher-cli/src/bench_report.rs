//! The result of a load test: as text for people, as JSON for programs, and whether it is good.

use std::fmt::Write;

use hyper::StatusCode;
use serde_json::{Value, json};
use sse_bench::load::report::Report;
use sse_bench::load::{Measured, Opened, Settled};

use crate::bench_publish::Published;
use crate::http_head::advice;

/// If the load used more than this share of a core, the latency contains the load's own delays.
const BUSY: f64 = 0.8;

/// Everything that a load test measured.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// How many connections were to be opened.
    pub asked: usize,
    /// The result of opening them.
    pub opened: Opened,
    /// The counts when listening began.
    pub before: Measured,
    /// The counts when listening ended.
    pub window: Measured,
    /// The counts after the last event arrived.
    pub total: Measured,
    /// What was published, if anything, and whether the streams received it.
    pub published: Option<(Published, Settled)>,
    /// How many seconds the load took to answer when the time was over, because it was still
    /// reading.
    pub load_behind: f64,
    /// Whether Ctrl-C was pressed.
    pub interrupted: bool,
}

/// The load did not keep up with reading if its answer took longer than this, in seconds.
const LATE: f64 = 0.5;

/// What happened to stamped events.
struct Judgement {
    lost: u64,
    duplicated: u64,
    out_of_order: u64,
}

impl Findings {
    /// Whether all connections opened and stayed open, nothing was lost, no gap arrived, and
    /// everything was published.
    pub fn good(&self) -> bool {
        let lost = self.judgement().is_some_and(|judgement| judgement.lost > 0);
        let published = self.published.as_ref().is_none_or(|(published, settled)| {
            published.events > 0
                && published.failed + published.in_doubt == 0
                && settled.behind == 0
        });
        self.opened.open == self.asked
            && self.closed() == 0
            && self.gaps() == 0
            && !lost
            && published
    }

    fn readers(&self) -> &Report {
        &self.total.readers
    }

    fn still_open(&self) -> usize {
        self.total.readers.connections + self.total.stalled.connections
    }

    fn closed(&self) -> usize {
        self.opened.open.saturating_sub(self.still_open())
    }

    fn gaps(&self) -> u64 {
        self.total.readers.gaps + self.total.stalled.gaps
    }

    fn seconds(&self) -> f64 {
        self.window.readers.seconds - self.before.readers.seconds
    }

    fn events(&self) -> u64 {
        self.readers().events + self.readers().unstamped
    }

    fn rate(&self) -> f64 {
        let events = |measured: &Measured| measured.readers.events + measured.readers.unstamped;
        let during = events(&self.window).saturating_sub(events(&self.before));
        during as f64 / self.seconds().max(f64::MIN_POSITIVE)
    }

    fn opened_per_second(&self) -> f64 {
        self.opened.open as f64 / self.opened.seconds.max(f64::MIN_POSITIVE)
    }

    /// The share of a core that the load's thread used.
    fn own_share(&self) -> f64 {
        let cpu = self.window.own_cpu - self.before.own_cpu;
        cpu / self.seconds().max(f64::MIN_POSITIVE)
    }

    /// The verdict on stamped events; none if no stamped event arrived or was published. Only
    /// events that this run published have a known last number. So only then do events missing at
    /// the end count as lost.
    fn judgement(&self) -> Option<Judgement> {
        match &self.published {
            Some((published, settled)) if !published.last.is_empty() => Some(Judgement {
                lost: settled.lost,
                duplicated: settled.duplicated,
                out_of_order: settled.out_of_order,
            }),
            _ if self.readers().events > 0 => {
                let Report { lost, duplicated, out_of_order, .. } = *self.readers();
                Some(Judgement { lost, duplicated, out_of_order })
            }
            _ => None,
        }
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            writeln!(text, "{name:<13}{value}").expect("a String takes everything");
        };
        line("connections", self.connections_text());
        if self.total.stalled.connections > 0 {
            let count = self.total.stalled.connections;
            line("stalled", format!("{count} of them read nothing and are not counted below"));
        }
        if let Some((published, _)) = &self.published {
            line("published", published_text(published));
        }
        let (events, bytes) = (self.events(), self.readers().bytes as f64 / 1e6);
        line(
            "received",
            format!(
                "{events} events, {bytes:.1} MB; {:.0} events/s over {:.1} s",
                self.rate(),
                self.seconds()
            ),
        );
        if let Some(Judgement { lost, duplicated, out_of_order }) = self.judgement() {
            line("lost", lost.to_string());
            line("duplicated", duplicated.to_string());
            line("out of order", out_of_order.to_string());
        }
        line("gap events", self.gaps().to_string());
        if self.readers().events > 0 {
            let latency = self.readers().latency;
            line(
                "latency",
                format!(
                    "p50 {:.2} ms, p90 {:.2}, p99 {:.2}, p99.9 {:.2}, max {:.2}",
                    latency.p50, latency.p90, latency.p99, latency.p999, latency.max
                ),
            );
        }
        for note in self.notes() {
            line("note", note);
        }
        text
    }

    fn connections_text(&self) -> String {
        let opened = &self.opened;
        let mut text = format!(
            "{} open in {:.2} s ({:.0}/s), {} failed, {} closed",
            opened.open,
            opened.seconds,
            self.opened_per_second(),
            opened.failed,
            self.closed()
        );
        match self.asked.saturating_sub(opened.open + opened.failed) {
            0 => {}
            more => text += &format!(", {more} not opened"),
        }
        if let Some(why) = &opened.error {
            text += &format!("; the first failed: {why}");
        }
        if let Some(why) = self.total.closed_because.as_ref().filter(|_| self.closed() > 0) {
            text += &format!("; the first closed: {why}");
        }
        text
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN] {
            let answered = format!("answered {}", status.as_u16());
            if self.opened.error.as_ref().is_some_and(|why| why.ends_with(&answered)) {
                notes.extend(advice(status).map(str::to_owned));
            }
        }
        if self.readers().unstamped > 0 {
            let all = if self.readers().events == 0 { "the events" } else { "some events" };
            notes.push(format!(
                "{all} carry no stamp of bench --publish: their latency and loss cannot be told"
            ));
        } else if self.events() == 0 {
            notes.push("nothing came, so latency and loss cannot be told".to_owned());
        }
        if self.published.is_none() && self.readers().events > 0 {
            notes.push(
                "the stamps are another process's: the latency holds only if that ran on this machine, \
                 and what lacks at the end is not seen as lost"
                    .to_owned(),
            );
        }
        if let Some((_, settled)) = self.published.as_ref().filter(|(_, s)| s.behind > 0) {
            notes.push(format!(
                "{} streams still lacked events when no more came; those count as lost",
                settled.behind
            ));
        }
        if self.load_behind > LATE {
            notes.push(format!(
                "this program itself was {:.1} s behind in reading: the latency is partly its own; ask for \
                 less, or use a faster or idler machine",
                self.load_behind
            ));
        } else if self.own_share() > BUSY {
            notes.push(format!(
                "this program's reading took {:.0} % of a core: the latency is partly its own",
                100.0 * self.own_share()
            ));
        }
        if self.interrupted {
            notes.push("ended by Ctrl-C".to_owned());
        }
        notes
    }

    /// The report for programs. A value that cannot be known is `null`.
    pub fn json(&self) -> Value {
        let judgement = self.judgement();
        let judgement = judgement.as_ref();
        let latency = (self.readers().events > 0).then(|| {
            let latency = self.readers().latency;
            json!({
                "p50": latency.p50, "p90": latency.p90, "p99": latency.p99,
                "p999": latency.p999, "max": latency.max,
            })
        });
        let published = self.published.as_ref().map(|(published, _)| {
            json!({
                "events": published.events, "failed": published.failed,
                "in_doubt": published.in_doubt, "error": published.error,
                "behind_seconds": published.behind, "seconds": published.seconds,
            })
        });
        json!({
            "connections": {
                "asked": self.asked, "open": self.opened.open, "failed": self.opened.failed,
                "closed": self.closed(), "stalled": self.total.stalled.connections,
                "seconds": self.opened.seconds, "per_second": self.opened_per_second(),
                "first_failure": self.opened.error, "first_close": self.total.closed_because,
            },
            "events": self.events(), "stamped": self.readers().events, "gaps": self.gaps(),
            "bytes": self.readers().bytes, "seconds": self.seconds(),
            "events_per_second": self.rate(),
            "lost": judgement.map(|j| j.lost), "duplicated": judgement.map(|j| j.duplicated),
            "out_of_order": judgement.map(|j| j.out_of_order),
            "latency_ms": latency, "published": published, "load_cpu_share": self.own_share(),
            "load_behind_seconds": self.load_behind,
            "interrupted": self.interrupted,
        })
    }
}

fn published_text(published: &Published) -> String {
    let Published { events, failed, in_doubt, error, behind, seconds, .. } = published;
    let rate = *events as f64 / seconds.max(f64::MIN_POSITIVE);
    let mut text = format!("{events} events in {seconds:.1} s ({rate:.1}/s)");
    if *behind > 0.1 {
        text += &format!(", up to {behind:.1} s behind the schedule");
    }
    if *failed > 0 {
        text += &format!(", {failed} refused");
    }
    if *in_doubt > 0 {
        text += &format!(", {in_doubt} without a clear answer (they may count as lost)");
    }
    if let Some(why) = error {
        text += &format!("; the first: {why}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listened(open: usize, still: usize, unstamped: u64) -> Findings {
        let mut findings = Findings { asked: 2, ..Findings::default() };
        findings.opened = Opened { open, failed: 2 - open, error: None, seconds: 0.5 };
        findings.total.readers =
            Report { connections: still, unstamped, seconds: 12.0, ..Report::default() };
        findings.before.readers.seconds = 2.0;
        findings.window = findings.total.clone();
        findings
    }

    #[test]
    fn what_cannot_be_told_is_not() {
        let findings = listened(2, 2, 30);
        assert!(findings.good());
        let want = "connections  2 open in 0.50 s (4/s), 0 failed, 0 closed\n\
            received     30 events, 0.0 MB; 3 events/s over 10.0 s\n\
            gap events   0\n\
            note         the events carry no stamp of bench --publish: their latency and loss cannot be told\n";
        assert_eq!(findings.text(), want);
        let json = findings.json();
        assert!(json["lost"].is_null() && json["latency_ms"].is_null());
        assert_eq!(json["events_per_second"], 3.0);
    }

    #[test]
    fn anything_failed_closed_or_lost_is_not_good() {
        assert!(!listened(1, 1, 0).good());
        assert!(!listened(2, 1, 0).good());
        let mut findings = listened(2, 2, 0);
        findings.total.readers.gaps = 1;
        assert!(!findings.good());
        let mut findings = listened(2, 2, 0);
        let published = Published { events: 9, last: vec![(0, 9)], ..Published::default() };
        findings.published = Some((published, Settled { lost: 1, ..Settled::default() }));
        assert!(!findings.good());
        assert!(findings.text().contains("\nlost         1\n"), "{}", findings.text());
        findings.published.as_mut().unwrap().1.lost = 0;
        assert!(findings.good());
        findings.published.as_mut().unwrap().0.failed = 1;
        assert!(!findings.good());
    }
}
