//! Runs `publish`: gathers a batch, delivers it and reports it, until the input ends, delivery
//! gives up, or Ctrl-C is pressed.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::address::{Address, Environment};
use crate::args::PublishArguments;
use crate::attempt::{Reason, Target};
use crate::deliver::{Ending, Ledger, deliver};
use crate::exit::{self, Failure};
use crate::gather::{Batch, Gather};
use crate::http_client::HttpClient;
use crate::http_target::HttpTarget;
use crate::input::read_lines;
use crate::interrupt::Interrupt;
use crate::item::{ItemReader, Place};
use crate::redis_target::RedisTarget;
use crate::report::{Early, Report};
use crate::retry::FIRST_WAIT;

/// Where events come from.
enum Source {
    /// The DATA argument.
    Argument(Option<Batch>),
    /// Lines of a file or of standard input.
    Lines(Box<Gather>),
}

impl Source {
    async fn next(&mut self) -> Option<Batch> {
        match self {
            Source::Argument(batch) => batch.take(),
            Source::Lines(gather) => gather.next().await,
        }
    }

    /// The last line that went into a batch; `None` if the event is an argument.
    fn last_line(&self) -> Option<u64> {
        match self {
            Source::Argument(_) => None,
            Source::Lines(gather) => Some(gather.last_line),
        }
    }
}

/// Publishes and returns the exit code. The error says why publishing could not begin.
pub async fn run(
    arguments: PublishArguments,
    environment: &Environment,
    interrupt: Interrupt,
) -> Result<u8, Failure> {
    let address = environment.address(arguments.url.as_deref(), arguments.redis.as_deref())?;
    let report = Report::to_terminal(arguments.json, arguments.data.is_none());
    match address {
        Address::Gateway(base) => {
            let headers = arguments.http.headers(environment)?;
            let wait = arguments.timeout;
            let client = HttpClient::new(base, headers, wait, wait)
                .map_err(|why| Failure::new(exit::NO_CONNECTION, why))?;
            let target = HttpTarget::new(client, wait);
            Ok(publish(target, source(&arguments)?, report, &arguments, interrupt).await)
        }
        Address::Redis(url) => {
            let target = RedisTarget::new(&url, &arguments.prefix, arguments.timeout)
                .map_err(|why| format!("--redis: {why}"))?;
            Ok(publish(target, source(&arguments)?, report, &arguments, interrupt).await)
        }
    }
}

fn source(arguments: &PublishArguments) -> Result<Source, String> {
    let channels =
        arguments.channels.as_ref().map(|channels| channels.0.clone()).unwrap_or_default();
    let event = arguments.event.clone();
    let items = ItemReader { ndjson: arguments.ndjson, channels, event, run: run_id()? };
    if let Some(data) = &arguments.data {
        let events = items.read(Place::Argument, data).map_err(|reason| reason.text)?;
        return Ok(Source::Argument(Some(Batch::of(events))));
    }
    let lines = match &arguments.file {
        Some(path) => {
            let file =
                File::open(path).map_err(|why| format!("--file {}: {why}", path.display()))?;
            read_lines(file)
        }
        None => {
            if io::stdin().is_terminal() {
                writeln!(io::stderr(), "reading events from the terminal, one a line; Ctrl-D ends")
                    .ok();
            }
            read_lines(io::stdin())
        }
    };
    Ok(Source::Lines(Box::new(Gather::new(lines, items, arguments.rate, arguments.strict))))
}

/// The beginning of this run's idempotency keys: 128 random bits in hex.
fn run_id() -> Result<String, String> {
    let mut bits = [0; 16];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bits)
        .map_err(|_| "the system has no random numbers".to_owned())?;
    Ok(bits.iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn publish<O: Write, E: Write>(
    mut target: impl Target,
    mut source: Source,
    mut report: Report<O, E>,
    arguments: &PublishArguments,
    mut interrupt: Interrupt,
) -> u8 {
    let started = Instant::now();
    let (mut early, mut connected, mut input_failed) = (None, false, false);
    while early.is_none() {
        let batch = tokio::select! {
            batch = source.next() => batch,
            () = interrupt.pressed() => {
                early = Some(Early::Interrupted);
                break;
            }
        };
        let Some(Batch { events, refused, input_error, .. }) = batch else {
            break;
        };
        for (place, reason) in &refused {
            report.refused(*place, reason);
        }
        let mut ledger = Ledger::new(events);
        // Retries may take half a minute. Without this message the program would seem to hang.
        let trying_on = |why: &Reason, left: Duration| {
            let left = humantime::format_duration(left);
            report.say(&format!("{}; trying again for {left}, see --retry-for", why.text));
        };
        let patience = arguments.retry_for;
        early = deliver_or_interrupt(&mut target, &mut ledger, patience, &mut interrupt, trying_on)
            .await;
        report.batch(&ledger);
        connected |= ledger.connected;
        if let Some(why) = input_error {
            input_failed = true;
            let line = source.last_line().unwrap_or_default();
            report.say(&format!("reading failed after line {line}: {why}"));
        }
        let totals = report.totals();
        if early.is_none() && arguments.strict && totals.failed + totals.unknown > 0 {
            early = Some(Early::Strict);
        }
    }
    report.finish(started.elapsed(), early, source.last_line());
    let totals = report.totals();
    match early {
        Some(Early::Interrupted) => exit::INTERRUPTED,
        Some(Early::GaveUp) if !connected => exit::NO_CONNECTION,
        None if totals.failed + totals.unknown == 0 && !input_failed => exit::OK,
        _ => exit::FAILED,
    }
}

async fn deliver_or_interrupt(
    target: &mut impl Target,
    ledger: &mut Ledger,
    patience: Duration,
    interrupt: &mut Interrupt,
    trying_on: impl FnMut(&Reason, Duration),
) -> Option<Early> {
    tokio::select! {
        ending = deliver(target, ledger, patience, FIRST_WAIT, trying_on) => match ending {
            Ending::Settled => return None,
            Ending::GaveUp => return Some(Early::GaveUp),
        },
        () = interrupt.pressed() => {}
    }
    ledger.interrupt();
    Some(Early::Interrupted)
}
