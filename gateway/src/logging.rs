//! Log lines, as text or JSON, on standard error.
//!
//! A line is handed to a thread that does nothing but write. So a reader of standard error that is slow or gone
//! (journald restarts, a container's log driver blocks) costs log lines, which are counted, and never an event.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{Level, Metadata};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::log_filter::LogFilter;
use crate::config::{LogConfig, LogFormat};

/// The thread that waits for the last lines.
pub const FINISHING: &str = "sse-log-end";

/// Lines that may wait to be written; what does not fit is dropped and counted. One takes some hundred bytes.
const WAITING_LINES: usize = 8192;

/// The log of this process. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Log {
    writer: NonBlocking,
    /// Dropped, it writes what waits, and ends the thread that does.
    thread: Arc<Mutex<Option<WorkerGuard>>>,
    level: reload::Handle<Passing, Registry>,
}

/// Lines that were not written because too many waited. Cloning shares it.
#[derive(Debug, Clone)]
pub struct DroppedLines(ErrorCounter);

/// Which lines pass.
#[derive(Debug, Clone)]
struct Passing {
    targets: Targets,
    /// Whether lines about what clients send pass as well.
    clients: bool,
    /// Of those: since the log began, the second of the last one, and how many there were in it.
    second: Arc<Mutex<(u64, u32)>>,
    began: Instant,
}

/// Sends this process's log lines where the configuration says.
///
/// # Panics
///
/// This process has a log already.
pub fn init(config: &LogConfig) -> Log {
    let (writer, thread) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING_LINES)
        .lossy(true)
        .thread_name("sse-log")
        .finish(io::stderr());
    let (passing, level) = reload::Layer::new(Passing::new(&config.level));
    let lines = lines(config.format, writer.clone()).with_filter(passing);
    tracing_subscriber::registry().with(lines).init();
    Log { writer, thread: Arc::new(Mutex::new(Some(thread))), level }
}

fn lines(format: LogFormat, writer: NonBlocking) -> Box<dyn Layer<Registry> + Send + Sync> {
    let lines = fmt::layer().with_writer(writer);
    match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    }
}

impl Log {
    /// From now on lines of this level pass.
    pub fn set_level(&self, level: &LogFilter) {
        // It fails only where the log is gone, and nobody would read about it.
        let _ = self.level.reload(Passing::new(level));
    }

    /// The count of lines that were not written.
    pub fn dropped(&self) -> DroppedLines {
        DroppedLines(self.writer.error_counter())
    }

    /// Writes a line as it is, behind all others.
    pub fn write(&self, line: &str) {
        // It never fails, and what does not fit is counted.
        let _ = self.writer.clone().write_all(format!("{line}\n").as_bytes());
    }

    /// Waits until everything is written, for a second at most. What comes later is not written any more.
    pub fn finish(&self) {
        // Held to the end: whoever comes meanwhile waits as well, and does not end the process before that.
        let mut slot = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(thread) = slot.take() else { return };
        let (done, ended) = mpsc::channel();
        // On a thread of its own, because the library prints a word on standard output if the reader stalls. Where
        // nobody reads that either, it would block or panic.
        let finishing = thread::Builder::new().name(FINISHING.to_owned()).spawn(move || {
            drop(thread);
            let _ = done.send(());
        });
        if finishing.is_ok() {
            let _ = ended.recv_timeout(Duration::from_millis(1200));
        }
    }
}

impl DroppedLines {
    /// How many there are.
    pub fn get(&self) -> u64 {
        self.0.dropped_lines() as u64
    }
}

impl Passing {
    fn new(level: &LogFilter) -> Self {
        let targets = level.targets().clone();
        let clients = targets.would_enable(CLIENTS, &Level::DEBUG);
        Passing { targets, clients, second: Arc::default(), began: Instant::now() }
    }

    fn passes(&self, line: &Metadata<'_>) -> bool {
        self.targets.would_enable(line.target(), line.level())
            && (!line.target().starts_with(CLIENTS)
                || (self.clients
                    && (*line.level() != Level::ERROR || self.in_time(self.began.elapsed()))))
    }

    /// Whether one more line about what a client sent may be written in this second.
    fn in_time(&self, at: Duration) -> bool {
        let mut second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        if second.0 != at.as_secs() {
            *second = (at.as_secs(), 0);
        }
        second.1 += 1;
        second.1 <= CLIENT_LINES
    }
}

/// Whose errors are caused by what clients send: anybody who can connect could fill the log with them. They are counted
/// (`sse_rejected_requests_total`), and pass only where this target's `debug` does, some a second.
const CLIENTS: &str = "actix_http";
const CLIENT_LINES: u32 = 10;

impl<S> Filter<S> for Passing {
    fn enabled(&self, line: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.passes(line)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Filter::<S>::max_level_hint(&self.targets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_cause_passes_where_debug_does() {
        let passes = |level: &str, target: &'static str| {
            let level = LogFilter::try_from(level.to_owned()).unwrap();
            Passing::new(&level).clients || !target.starts_with(CLIENTS)
        };
        assert!(!passes("info", "actix_http::h1::dispatcher"));
        assert!(passes("info", "sse_gateway::broker::redis::ingest"));
        assert!(passes("debug", "actix_http::h1::dispatcher"));
        assert!(passes("info,actix_http=debug", "actix_http::h1::dispatcher"));
    }

    #[test]
    fn ten_a_second_pass_of_what_clients_cause() {
        let passing = Passing::new(&LogFilter::try_from("debug".to_owned()).unwrap());
        let at = |ms| (0..30).filter(|_| passing.in_time(Duration::from_millis(ms))).count();
        assert_eq!([at(0), at(900), at(1000), at(5000)], [10, 0, 10, 10]);
    }
}
