//! Load-tests an event stream: opens the connections, listens, publishes if asked to, and reports.
//!
//! The load runs on its own thread, see `sse_bench::load`. Calls to it block, so they run as
//! blocking tasks. Otherwise the publishers would miss their schedule while a call waits.

use std::io::{self, IsTerminal, Write};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use rustls::pki_types::ServerName;
use sse_bench::load::report::Report;
use sse_bench::load::{Expected, Load, Measured, Opened, Plan, Settled};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use crate::bench_args::BenchArguments;
use crate::bench_publish::{PublishPlan, Published, Publishers};
use crate::bench_report::Findings;
use crate::bench_target::{self, BenchUrl};
use crate::environment::Environment;
use crate::exit::{self, Failure};
use crate::http_client::{USER_AGENT_TEXT, tls_config};
use crate::interrupt::Interrupt;
use crate::settings::Settings;
use crate::tail::percent_encode;

/// Opening ends if no connection has opened or failed for this long.
const NO_PROGRESS: Duration = Duration::from_secs(15);
/// The time limit of [`Load::open`]. Only a lack of progress ends the opening.
const FOR_EVER: Duration = Duration::from_secs(1 << 32);
/// The pause between the last stream's head and the first event. A server may send the head before
/// it has subscribed the stream.
const ATTACHING: Duration = Duration::from_millis(500);
/// After publishing has stopped, the wait for missing events ends if none arrived for this long.
const SILENCE: Duration = Duration::from_secs(5);
/// The wait for missing events after Ctrl-C.
const AFTER_CTRL_C: Duration = Duration::from_millis(500);
/// The longest wait for missing events while some still arrive.
const SETTLING: Duration = Duration::from_secs(60);

/// Runs the load test and returns the exit code. The error says why there is no report.
pub async fn run(
    arguments: BenchArguments,
    environment: &Environment,
    mut interrupt: Interrupt,
) -> Result<u8, Failure> {
    let failed = |why: String| Failure::new(exit::FAILED, why);
    let settings = Settings::read(&arguments.http, environment)?;
    let headers = settings.headers(&arguments.http, &arguments.url.origin)?;
    let publish = arguments.publish.as_ref().map(|channel| PublishPlan {
        origin: arguments.url.origin.clone(),
        headers: headers.clone(),
        path: format!("/channels/{}", percent_encode(channel.as_str())),
        rate: arguments.rate,
        size: arguments.size,
    });
    bench_target::allow_descriptors(arguments.connections).map_err(failed)?;
    let (addresses, notes) = bench_target::resolve(&arguments.url.origin).await.map_err(failed)?;
    for note in notes {
        writeln!(io::stderr(), "sse-publish: {note}").ok();
    }
    let mut plan = plan(&arguments, &addresses, &headers).map_err(failed)?;
    plan.first = publish.is_some().then_some(1);
    let load = Load::start(plan).map_err(|error| failed(format!("epoll: {error}")))?;
    let mut bench = Bench {
        load: Arc::new(load),
        progress: Progress::new(),
        findings: Findings { asked: arguments.connections, ..Findings::default() },
    };
    let time = arguments.listening();
    bench.run(publish.as_ref(), time, &mut interrupt).await.map_err(failed)?;
    let findings = bench.findings;
    let report = if arguments.json { format!("{}\n", findings.json()) } else { findings.text() };
    io::stdout().write_all(report.as_bytes()).ok();
    Ok(match findings {
        Findings { interrupted: true, .. } => exit::INTERRUPTED,
        findings if findings.good() => exit::OK,
        _ => exit::FAILED,
    })
}

fn plan(
    arguments: &BenchArguments,
    addresses: &[std::net::SocketAddr],
    headers: &[(HeaderName, HeaderValue)],
) -> Result<Plan, String> {
    let BenchUrl { origin, target } = &arguments.url;
    let [first, more @ ..] = addresses else {
        return Err(format!("{}: no address", origin.host()));
    };
    let mut plan = Plan::new(*first, arguments.connections, target.as_str());
    plan.more_addrs = more.to_vec();
    plan.sources = bench_target::sources(addresses, arguments.connections)?;
    plan.in_flight = arguments.ramp;
    plan.stalled = arguments.stalled;
    plan.any_server = true;
    plan.host = Some(origin.authority().to_owned());
    let mut lines = String::new();
    if !headers.iter().any(|(name, _)| name == USER_AGENT) {
        lines += &format!("User-Agent: {USER_AGENT_TEXT}\r\n");
    }
    for (name, value) in headers {
        let value = value.to_str().map_err(|_| format!("{name}: not a header's value"))?;
        if name == HOST {
            plan.host = Some(value.to_owned());
        } else {
            lines += &format!("{name}: {value}\r\n");
        }
    }
    plan.headers = Some(Arc::new(move |_| lines.clone()));
    if origin.is_tls() {
        let name = ServerName::try_from(origin.host().to_owned());
        let name = name.map_err(|error| format!("{}: {error}", origin.host()))?;
        plan.tls = Some((tls_config()?, name));
    }
    Ok(plan)
}

struct Bench {
    load: Arc<Load>,
    progress: Progress,
    findings: Findings,
}

impl Bench {
    async fn run(
        &mut self,
        publish: Option<&PublishPlan>,
        time: Duration,
        interrupt: &mut Interrupt,
    ) -> Result<(), String> {
        self.findings.opened = self.open(interrupt).await;
        self.findings.before = self.measured().await;
        self.findings.window = self.findings.before.clone();
        if self.findings.opened.open > 0 && !self.findings.interrupted {
            let publishers = match publish {
                Some(plan) => {
                    sleep(ATTACHING).await;
                    self.findings.before = self.measured().await;
                    Some(Publishers::start(plan)?)
                }
                None => None,
            };
            self.listen(time, interrupt).await;
            // The publishers stop at once, even if the load takes long to answer.
            let stopped = async {
                match publishers {
                    Some(publishers) => Some(publishers.stop().await),
                    None => None,
                }
            };
            let asked = Instant::now();
            let window = async { (self.measured().await, asked.elapsed()) };
            let (published, (window, answered)) = tokio::join!(stopped, window);
            (self.findings.window, self.findings.load_behind) = (window, answered.as_secs_f64());
            if let Some(published) = published {
                let settled = self.settle(&published, interrupt).await;
                self.findings.published = Some((published, settled));
            }
        }
        self.findings.total = self.measured().await;
        Ok(())
    }

    async fn open(&mut self, interrupt: &mut Interrupt) -> Opened {
        let mut opening = pin!(self.ask(|load| load.open(FOR_EVER)));
        let mut tick = ticks();
        let (mut reached, mut since) = (0, Instant::now());
        loop {
            tokio::select! {
                opened = &mut opening => return opened,
                () = interrupt.pressed(), if !self.findings.interrupted => {
                    self.findings.interrupted = true;
                    self.ask(Load::cut_opening).await;
                }
                _ = tick.tick() => {
                    let so_far = self.ask(Load::opening).await;
                    let asked = self.findings.asked;
                    self.progress.say(&format!(
                        "opening: {} of {asked} open, {} failed", so_far.open, so_far.failed
                    ));
                    if so_far.open + so_far.failed > reached {
                        (reached, since) = (so_far.open + so_far.failed, Instant::now());
                    } else if since.elapsed() > NO_PROGRESS {
                        self.ask(Load::cut_opening).await;
                    }
                }
            }
        }
    }

    /// Waits until the time is over, Ctrl-C is pressed, or no stream is left.
    async fn listen(&mut self, time: Duration, interrupt: &mut Interrupt) {
        let pressed = tokio::select! {
            () = interrupt.pressed() => true,
            () = sleep(time) => false,
            () = self.watch() => false,
        };
        self.findings.interrupted = pressed;
    }

    /// Reports the progress every second until no stream is left.
    async fn watch(&self) {
        let (began, mut tick) = (Instant::now(), ticks());
        let mut last = self.findings.before.readers.clone();
        loop {
            tick.tick().await;
            let Measured { readers, stalled, .. } = self.measured().await;
            self.progress.second(began.elapsed(), &readers, &last);
            last = readers;
            if last.connections + stalled.connections == 0 {
                return;
            }
        }
    }

    /// Waits until every stream has received what was published, or until nothing arrives any more.
    async fn settle(&mut self, published: &Published, interrupt: &mut Interrupt) -> Settled {
        let began = Instant::now();
        let mut received = self.measured().await.readers.events;
        loop {
            let expected = Expected::All(published.last.clone());
            let at_once = expected.clone();
            let settled = tokio::select! {
                settled = self.ask(move |load| load.settle(expected, SILENCE)) => settled,
                () = interrupt.pressed() => {
                    self.findings.interrupted = true;
                    return self.ask(move |load| load.settle(at_once, AFTER_CTRL_C)).await;
                }
            };
            let now = self.measured().await.readers.events;
            if settled.behind == 0 || now == received || began.elapsed() > SETTLING {
                return settled;
            }
            received = now;
        }
    }

    async fn measured(&self) -> Measured {
        self.ask(Load::end).await
    }

    /// Asks the load in a blocking task, so that other tasks go on.
    fn ask<T, F>(&self, question: F) -> impl Future<Output = T> + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(&Load) -> T + Send + 'static,
    {
        let load = self.load.clone();
        let answer = tokio::task::spawn_blocking(move || question(&load));
        async { answer.await.expect("the load answers everything") }
    }
}

fn ticks() -> tokio::time::Interval {
    let second = Duration::from_secs(1);
    let mut ticks = interval_at(Instant::now() + second, second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Prints progress if standard error is a terminal.
struct Progress {
    shown: bool,
}

impl Progress {
    fn new() -> Self {
        Progress { shown: io::stderr().is_terminal() }
    }

    fn say(&self, line: &str) {
        if self.shown {
            writeln!(io::stderr(), "{line}").ok();
        }
    }

    fn second(&self, time: Duration, now: &Report, last: &Report) {
        let events = |report: &Report| report.events + report.unstamped;
        let time_since = (now.seconds - last.seconds).max(f64::MIN_POSITIVE);
        let mut line = format!(
            "{:4.0} s: {} open, {} closed, {} events, {:.0}/s",
            time.as_secs_f64(),
            now.connections,
            now.closed,
            events(now),
            events(now).saturating_sub(events(last)) as f64 / time_since,
        );
        if now.events > 0 {
            line += &format!(", {} lost, p99 {:.2} ms", now.lost, now.latency.p99);
        }
        self.say(&line);
    }
}
