//! The progress of a run on a terminal: how many events were published, how fast, and what keeps it
//! from getting on. Of a file it also shows how much is done.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

/// The time over which the rate is measured.
const WINDOW: Duration = Duration::from_secs(5);

/// A progress bar, or a spinner where nobody knows how much is to come.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    size: Option<u64>,
    done: u64,
    published: u64,
    rate: Rate,
}

impl Progress {
    /// Shows progress on standard error. `size` is the bytes of the input, if they are known.
    pub fn on_terminal(size: Option<u64>) -> Self {
        let (bar, template) = match size {
            Some(size) => (ProgressBar::new(size), "{spinner} [{bar:20}] {msg}"),
            None => (ProgressBar::new_spinner(), "{spinner} {msg}"),
        };
        let style = ProgressStyle::with_template(template).expect("the template is valid");
        let bar = bar.with_style(style.progress_chars("=> "));
        bar.enable_steady_tick(Duration::from_millis(200));
        let rate = Rate(VecDeque::new());
        let mut progress = Progress { bar, size, done: 0, published: 0, rate };
        progress.show(Instant::now(), None);
        progress
    }

    /// Records what is done: events published, and bytes of the input.
    pub fn reached(&mut self, published: u64, done: u64) {
        (self.published, self.done) = (published, done);
    }

    /// Shows what is done, and what keeps the run from getting on.
    pub fn show(&mut self, now: Instant, trouble: Option<&str>) {
        let rate = self.rate.measure(now, self.published);
        if self.size.is_some() {
            self.bar.set_position(self.done);
        }
        let percent = self.size.map(|size| percent(self.done, size));
        self.bar.set_message(message(percent, self.published, rate, trouble));
    }

    /// Does something to the terminal while the bar is out of the way.
    pub fn aside(&self, write: impl FnOnce()) {
        self.bar.suspend(write);
    }

    /// Removes the bar.
    pub fn end(self) {
        self.bar.finish_and_clear();
    }
}

fn percent(done: u64, size: u64) -> u64 {
    // A file may grow while it is read.
    u64::try_from(u128::from(done) * 100 / u128::from(size.max(1))).unwrap_or(100).min(100)
}

fn message(percent: Option<u64>, published: u64, rate: u64, trouble: Option<&str>) -> String {
    let percent = percent.map_or_else(String::new, |percent| format!("{percent} %, "));
    let what = match trouble {
        Some(trouble) => format!("; {trouble}"),
        None => format!(", {}/s", HumanCount(rate)),
    };
    let events = if published == 1 { "event" } else { "events" };
    format!("{percent}{} {events}{what}", HumanCount(published))
}

/// Events per second over the last few seconds: counts with the time of each.
#[derive(Debug)]
struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    fn measure(&mut self, now: Instant, count: u64) -> u64 {
        self.0.push_back((now, count));
        while self.0.get(1).is_some_and(|(then, _)| now.saturating_duration_since(*then) >= WINDOW)
        {
            self.0.pop_front();
        }
        let (then, before) = self.0[0];
        let ms = u64::try_from(now.saturating_duration_since(then).as_millis()).unwrap_or(u64::MAX);
        count.saturating_sub(before).saturating_mul(1000) / ms.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_last_seconds() {
        let (mut rate, start) = (Rate(VecDeque::new()), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(rate.measure(start, 0), 0);
        assert_eq!(rate.measure(after(2), 3000), 1500);
        assert_eq!(rate.measure(after(7), 3000), 0);
        assert_eq!(rate.measure(after(8), 3500), 83);
    }

    #[test]
    fn a_message_has_no_decimals_and_says_what_is_wrong() {
        assert_eq!(message(None, 12_345, 1234, None), "12,345 events, 1,234/s");
        assert_eq!(message(Some(percent(1, 3)), 1, 0, None), "33 %, 1 event, 0/s");
        assert_eq!(message(Some(percent(9, 3)), 2, 7, Some("waiting")), "100 %, 2 events; waiting");
        assert_eq!(percent(0, 0), 0);
    }
}
