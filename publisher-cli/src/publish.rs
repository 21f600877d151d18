//! Runs `publish`: gathers a batch, delivers it and reports it, until the input ends, delivery
//! gives up, or Ctrl-C is pressed.

use std::io::Write;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::address::Address;
use crate::attempt::Target;
use crate::deliver::{Ending, Ledger, Trouble, deliver};
use crate::environment::Environment;
use crate::exit::{self, Failure};
use crate::gather::{Batch, Gather};
use crate::http_client::HttpClient;
use crate::http_target::HttpTarget;
use crate::interrupt::Interrupt;
use crate::item::Place;
use crate::publish_args::PublishArguments;
use crate::redis_target::RedisTarget;
use crate::report::{Early, Form, Report};
use crate::retry::FIRST_WAIT;
use crate::settings::Settings;
use crate::source::{self, Source};

/// How often the progress is shown, and trouble looked for.
const WATCH: Duration = Duration::from_millis(250);

/// Publishes and returns the exit code. The error says why publishing could not begin.
pub async fn run(
    arguments: PublishArguments,
    environment: &Environment,
    interrupt: Interrupt,
) -> Result<u8, Failure> {
    let settings = Settings::read(&arguments.http, environment)?;
    let wait = arguments.timeout;
    match settings.address(arguments.url.as_deref(), arguments.redis.as_deref())? {
        Address::Gateway(base) => {
            let headers = settings.headers(&arguments.http, &base)?;
            let client = HttpClient::new(base, headers, wait, wait)
                .map_err(|why| Failure::new(exit::NO_CONNECTION, why))?;
            publish(HttpTarget::new(client, wait), &arguments, interrupt).await
        }
        Address::Redis(url) => {
            let prefix = settings.prefix(arguments.prefix.as_deref());
            let target = RedisTarget::new(&url, &prefix, arguments.partitions, wait)
                .map_err(|why| format!("--redis: {why}"))?;
            publish(target, &arguments, interrupt).await
        }
    }
}

async fn publish(
    target: impl Target,
    arguments: &PublishArguments,
    interrupt: Interrupt,
) -> Result<u8, Failure> {
    let Source { gather, many, typed, size } = source::open(arguments)?;
    let report = Report::to_terminal(form(arguments), target.place(), many && !typed, size);
    let mut watch = interval(WATCH);
    watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let run = Run {
        target,
        gather,
        report,
        patience: arguments.retry_for,
        strict: arguments.strict,
        interrupt,
        watch,
    };
    Ok(run.until_the_end().await)
}

fn form(arguments: &PublishArguments) -> Form {
    let single = arguments.data.is_some() || arguments.whole;
    let channels = arguments.channels.as_ref().map_or(0, |channels| channels.0.len());
    match (arguments.json, arguments.quiet, single) {
        (true, _, _) => Form::Json,
        (false, true, _) => Form::Quiet,
        (false, false, true) if channels == 1 => Form::Ids,
        (false, false, true) => Form::ChannelsAndIds,
        (false, false, false) => Form::Summary,
    }
}

/// One run, from its input to its report.
struct Run<T, O, E> {
    target: T,
    gather: Gather,
    report: Report<O, E>,
    patience: Duration,
    strict: bool,
    interrupt: Interrupt,
    watch: Interval,
}

impl<T: Target, O: Write, E: Write> Run<T, O, E> {
    /// Publishes everything and returns the exit code.
    async fn until_the_end(mut self) -> u8 {
        let started = Instant::now();
        let (mut early, mut connected, mut input_failed) = (None, false, false);
        while early.is_none() {
            let Batch { events, refused, input_error, .. } = match self.next().await {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                Err(why) => {
                    early = Some(why);
                    break;
                }
            };
            for (place, reason) in &refused {
                self.report.refused(*place, reason);
            }
            let mut ledger = Ledger::new(events);
            early = self.deliver(&mut ledger).await;
            self.report.batch(&ledger, self.gather.read);
            connected |= ledger.connected;
            if let Some(why) = input_error {
                input_failed = true;
                self.report.say(&reading_failed(self.gather.last(), &why));
            }
            let totals = self.report.totals();
            if early.is_none() && self.strict && totals.failed + totals.unknown > 0 {
                early = Some(Early::Strict);
            }
        }
        self.report.finish(started.elapsed(), early, self.gather.last());
        let totals = self.report.totals();
        match early {
            Some(Early::Interrupted) => exit::INTERRUPTED,
            Some(Early::GaveUp) if !connected => exit::NO_CONNECTION,
            None if totals.failed + totals.unknown == 0 && !input_failed => exit::OK,
            _ => exit::FAILED,
        }
    }

    /// Waits for the next batch; `None` at the end of the input.
    async fn next(&mut self) -> Result<Option<Batch>, Early> {
        let mut next = pin!(self.gather.next());
        loop {
            tokio::select! {
                batch = &mut next => return Ok(batch),
                () = self.interrupt.pressed() => return Err(Early::Interrupted),
                _ = self.watch.tick() => self.report.watch(Instant::now(), None),
            }
        }
    }

    /// Delivers a batch. Returns why the run is to end, if it is.
    async fn deliver(&mut self, ledger: &mut Ledger) -> Option<Early> {
        let trouble = Trouble::default();
        let early = {
            let (target, patience) = (&mut self.target, self.patience);
            let mut delivery = pin!(deliver(target, ledger, patience, FIRST_WAIT, &trouble));
            loop {
                tokio::select! {
                    ending = &mut delivery => break (ending == Ending::GaveUp).then_some(Early::GaveUp),
                    () = self.interrupt.pressed() => break Some(Early::Interrupted),
                    // Retries may take half a minute; without a word the program would seem to hang.
                    _ = self.watch.tick() => {
                        self.report.watch(Instant::now(), trouble.now().as_ref());
                    }
                }
            }
        };
        if early == Some(Early::Interrupted) {
            ledger.interrupt();
        }
        early
    }
}

fn reading_failed(last: Place, why: &str) -> String {
    match last {
        Place::Argument => format!("reading failed: {why}"),
        Place::Line(line) => format!("reading failed after line {line}: {why}"),
        Place::Number(number) => format!("reading failed after event {number}: {why}"),
    }
}
