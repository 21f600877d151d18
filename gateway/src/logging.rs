//! Log lines, as text or JSON, on standard error.
//!
//! A separate thread writes the lines. So a reader of standard error that is slow or gone (journald
//! restarts, a container's log driver blocks) costs log lines, which are counted, and never an
//! event.

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

/// The name of the thread that waits for the last lines.
pub const FINISHING: &str = "sse-log-end";

/// How many lines may wait to be written. Lines beyond that are dropped and counted. A line takes
/// some hundred bytes.
const WAITING_LINES: usize = 8192;

/// The log of this process. Clones share it.
#[derive(Debug, Clone)]
pub struct Log {
    writer: NonBlocking,
    /// Dropping the guard writes the lines that wait, and ends the writing thread.
    thread: Arc<Mutex<Option<WorkerGuard>>>,
    passing: reload::Handle<Passing, Registry>,
    /// What passes now. Whoever changes the level holds the lock meanwhile.
    level: Arc<Mutex<LogFilter>>,
}

/// The number of lines dropped because too many waited. Clones share it.
#[derive(Debug, Clone)]
pub struct DroppedLines(ErrorCounter);

/// Decides which lines pass.
#[derive(Debug, Clone)]
struct Passing {
    targets: Targets,
    /// Whether lines about what clients send pass.
    clients: bool,
    /// Limits lines about what clients send.
    sampler: Arc<Mutex<Sampler>>,
}

/// Sends this process's log lines where the configuration says.
///
/// # Panics
///
/// Panics if this process has a log already.
pub fn init(config: &LogConfig) -> Log {
    let (writer, thread) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING_LINES)
        .lossy(true)
        .thread_name("sse-log")
        .finish(io::stderr());
    let (filter, passing) = reload::Layer::new(Passing::new(&config.level));
    let lines = lines(config.format, writer.clone()).with_filter(filter);
    tracing_subscriber::registry().with(lines).init();
    let level = Arc::new(Mutex::new(config.level.clone()));
    Log { writer, thread: Arc::new(Mutex::new(Some(thread))), passing, level }
}

fn lines(format: LogFormat, writer: NonBlocking) -> Box<dyn Layer<Registry> + Send + Sync> {
    let lines = fmt::layer().with_writer(writer);
    match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    }
}

impl Log {
    /// Which lines pass.
    pub fn level(&self) -> LogFilter {
        self.level.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes which lines pass, and returns which passed before. `tell` gets the same and logs the
    /// change, at `info`. It is called once the new level holds, so that whoever reads the line can
    /// rely on it; or before, if the new level lets no such line pass, so that the log says why it
    /// falls silent.
    pub fn change_level(&self, level: &LogFilter, tell: impl FnOnce(&LogFilter)) -> LogFilter {
        let mut current = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, level.clone());
        // Fails only if the log is gone, and then nothing can report it.
        let change = || drop(self.passing.reload(Passing::new(level)));
        if level.targets().would_enable("sse_gateway", &Level::INFO) {
            change();
            tell(&before);
        } else {
            tell(&before);
            change();
        }
        before
    }

    /// The count of dropped lines.
    pub fn dropped(&self) -> DroppedLines {
        DroppedLines(self.writer.error_counter())
    }

    /// Writes a line as it is, after all others.
    pub fn write(&self, line: &str) {
        // Cannot fail: a line that does not fit is dropped and counted.
        let _ = self.writer.clone().write_all(format!("{line}\n").as_bytes());
    }

    /// Waits until every line is written, for at most 1.2 seconds. Lines logged later are not
    /// written.
    pub fn finish(&self) {
        // Locked until the end, so that a second caller waits as well and does not end the process
        // early.
        let mut slot = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(thread) = slot.take() else { return };
        let (done, ended) = mpsc::channel();
        // A separate thread, because the library prints to standard output if the writer stalls. If
        // nobody reads standard output either, that blocks or panics.
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
    /// How many lines were dropped.
    pub fn get(&self) -> u64 {
        self.0.dropped_lines() as u64
    }
}

impl Passing {
    fn new(level: &LogFilter) -> Self {
        let targets = level.targets().clone();
        let clients = targets.would_enable(CLIENTS, &Level::DEBUG);
        Passing { targets, clients, sampler: Arc::new(Mutex::new(Sampler::new(CLIENT_LINES))) }
    }

    fn passes(&self, line: &Metadata<'_>) -> bool {
        self.targets.would_enable(line.target(), line.level())
            && (!line.target().starts_with(CLIENTS)
                || (self.clients && (*line.level() != Level::ERROR || self.in_time())))
    }

    /// Whether one more line about what a client sent may be written in this second.
    fn in_time(&self) -> bool {
        self.sampler.lock().unwrap_or_else(PoisonError::into_inner).pass().is_some()
    }
}

/// The target of errors that clients cause. Anyone who can connect could fill the log with them.
/// They are counted (`sse_rejected_requests_total`), and logged only where the `debug` level of
/// this target passes, at most `CLIENT_LINES` a second.
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

/// Lets some lines of a kind pass each second, and counts the others. For lines that each stream or
/// client can cause: a reset tells every stream of a gap at once.
#[derive(Debug)]
pub struct Sampler {
    /// Lines in one second at most.
    most: u32,
    began: Instant,
    /// The second in which lines passed last, counted from `began`, and how many did.
    passed: (u64, u32),
    left_out: u64,
}

impl Sampler {
    /// A sampler that lets this many lines pass in a second, and has let none pass yet.
    pub fn new(most: u32) -> Self {
        Sampler { most, began: Instant::now(), passed: (0, 0), left_out: 0 }
    }

    /// Whether one more line may be written now: then how many lines were left out since the last
    /// one.
    pub fn pass(&mut self) -> Option<u64> {
        self.pass_at(self.began.elapsed())
    }

    fn pass_at(&mut self, at: Duration) -> Option<u64> {
        if self.passed.0 != at.as_secs() {
            self.passed = (at.as_secs(), 0);
        }
        if self.passed.1 == self.most {
            self.left_out += 1;
            return None;
        }
        self.passed.1 += 1;
        Some(std::mem::take(&mut self.left_out))
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
    fn what_a_sampler_leaves_out_is_told_with_the_next_line() {
        let mut sampler = Sampler::new(5);
        let mut at = |ms| sampler.pass_at(Duration::from_millis(ms));
        assert_eq!([(); 7].map(|()| at(10)), [[Some(0); 5].as_slice(), &[None; 2]].concat()[..]);
        assert_eq!([at(999), at(1000), at(1001)], [None, Some(3), Some(0)]);
    }
}
