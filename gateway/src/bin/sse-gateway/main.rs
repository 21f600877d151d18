//! `sse-gateway`: reads its configuration, binds, serves, drains.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod help;
mod operator;
mod partitions;
mod supervisor;
mod top;

use std::io::Write;
use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use sd_notify::NotifyState;
use sse_gateway::access::Access;
use sse_gateway::broker::redis::settings::RedisSettings;
use sse_gateway::config::shown;
use sse_gateway::config::sources::Settings;
use sse_gateway::gateway::RunError;
use sse_gateway::http::certificate::Tls;
use sse_gateway::logging::{self, Log};
use sse_gateway::{Config, Gateway, config, panics};
use tokio::signal::unix::{SignalKind, signal};

/// Chosen by measurement: of the allocators tried, jemalloc keeps the least memory for an idle
/// stream and returns what a rush of clients used. `.cargo/config.toml` sets how soon. It takes
/// long to build, so it is a feature.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit status for an invalid command line or configuration (sysexits.h, EX_USAGE).
const USAGE: u8 = 64;
/// Exit status when a thread or task of the program ended unexpectedly (sysexits.h, EX_SOFTWARE).
const DIED: u8 = 70;

fn main() -> ExitCode {
    let args = Args::try_parse().unwrap_or_else(|error| {
        let _ = error.print();
        std::process::exit(if error.use_stderr() { USAGE.into() } else { 0 });
    });
    if matches!(args.command, Some(Command::Defaults)) {
        return say(config::DEFAULTS.trim_end());
    }
    let (config, settings) = match load(&args) {
        Ok(loaded) => loaded,
        Err(error) => return fail(USAGE, &error),
    };
    if args.print_config {
        return say(shown::with_places(&settings).trim_end());
    }
    if args.command.is_none()
        && let Err(error) = check_files(&config)
    {
        return fail(USAGE, &error);
    }
    if args.check_config {
        return say("the configuration is valid");
    }
    let log = logging::init(&config.log);
    let ending = log.clone();
    panics::hook(move || end(&ending, DIED));
    let system = actix_rt::System::new();
    let ended = system.block_on(async {
        match &args.command {
            None => serve(config, &args, &log).await,
            Some(Command::Healthcheck) => operator::healthcheck(&config).await.map_err(Ended::from),
            Some(Command::Settings { apply, yes }) => {
                operator::settings(config, &settings, *apply, *yes).await.map_err(Ended::from)
            }
            Some(Command::Partitions { to, yes }) => partitions::run(&config, &settings, *to, *yes)
                .await
                .map_err(|failed| match failed {
                    partitions::Failed::Usage(error) => Ended { code: USAGE, error },
                    partitions::Failed::Other(error) => Ended { code: 1, error },
                }),
            Some(Command::Top(args)) => {
                top::run(args, &config).await.map_err(|failed| match failed {
                    top::Failed::Usage(error) => Ended { code: USAGE, error },
                    top::Failed::Other(error) => Ended { code: 1, error },
                })
            }
            Some(Command::Fence) => operator::fence(config).await.map_err(Ended::from),
            Some(Command::Defaults) => Ok(()),
        }
    });
    let code = ended.map_or_else(
        |Ended { code, error }| {
            log.write(&format!("sse-gateway: {error}"));
            code
        },
        |()| 0,
    );
    log.finish();
    ExitCode::from(code)
}

fn load(args: &Args) -> Result<(Config, Settings), String> {
    let loaded = Config::with_settings(args.config.as_deref(), std::env::vars_os(), &args.flags());
    loaded.map_err(|error| error.to_string())
}

/// Reads the files that the configuration names, so that a bad file is a usage error, for a start
/// and for `--check-config` alike.
fn check_files(config: &Config) -> Result<(), String> {
    let of_ports = Tls::of(&config.tls).map(drop);
    let of_redis = RedisSettings::of(config).tls().map(drop);
    let of_access = Access::new(&config.auth, &config.cors).map(drop);
    let files = of_ports.and(of_redis).map_err(|error| error.to_string());
    files.and(of_access).map_err(|error| format!("configuration: {error}"))
}

/// The program's exit status and the error that ends it.
struct Ended {
    code: u8,
    error: String,
}

impl<E: ToString> From<E> for Ended {
    fn from(error: E) -> Self {
        Ended { code: 1, error: error.to_string() }
    }
}

async fn serve(config: Config, args: &Args, log: &Log) -> Result<(), Ended> {
    let (broker, open, history) = (config.broker, config.auth.open, config.history.clone());
    let scheme = if config.tls.is_on() { "https" } else { "http" };
    reload_on_hangup(args.clone(), log.clone())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ending = log.clone();
    let mut stop = Box::pin(async move {
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        tracing::info!("stopping; a second signal ends it at once");
        supervisor::tell(NotifyState::Stopping);
        #[expect(clippy::disallowed_methods, reason = "it ends the process")]
        actix_rt::spawn(async move {
            tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
            tracing::warn!("stopped at once by a second signal");
            end(&ending, 1);
        });
    });
    // A signal must also end the wait for Redis. As a container's first process the program would
    // not be ended by the kernel's default action.
    let gateway = tokio::select! {
        gateway = Gateway::bind(config, args.wait_for_redis) => gateway?,
        () = &mut stop => return Ok(()),
    };
    gateway.use_log(log.clone());
    let ((workers, streams), descriptors) = (gateway.size(), gateway.descriptors());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), workers, streams.most = streams,
        descriptors.soft = descriptors.soft, descriptors.hard = descriptors.hard, ?broker,
        history.max_len = history.max_len, history.ttl = ?history.ttl,
        "sse-gateway has started"
    );
    tracing::info!(
        addr = %gateway.addr(), admin.addr = %gateway.admin_addr(),
        "listening; the live console is at {scheme}://{}/", gateway.addr()
    );
    supervisor::tell(NotifyState::Ready);
    supervisor::feed_watchdog(gateway.pulse());
    if open {
        tracing::warn!(
            "auth.open: whoever reaches the public address may subscribe to everything and publish everything"
        );
    }
    gateway.run(stop).await.map_err(|error| Ended {
        code: if matches!(error, RunError::Died(_)) { DIED } else { 1 },
        error: error.to_string(),
    })?;
    tracing::info!("stopped");
    Ok(())
}

/// Reads the configuration again at a hangup (SIGHUP) and applies what can change without a
/// restart: the log level. Without a handler, a closed terminal or `kill -HUP` would end the
/// process and its streams.
fn reload_on_hangup(args: Args, log: Log) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    #[expect(
        clippy::disallowed_methods,
        reason = "without it a hangup changes nothing, and no more"
    )]
    actix_rt::spawn(async move {
        while hangup.recv().await.is_some() {
            match load(&args) {
                Ok((config, _)) => {
                    let level = &config.log.level;
                    log.change_level(level, |before| {
                        tracing::info!(
                            log.level = level.as_ref(), level.before = before.as_ref(),
                            "the log's level was read again; everything else but a certificate takes a restart"
                        );
                    });
                }
                Err(error) => {
                    tracing::error!(%error, "the configuration is of no use; nothing changes")
                }
            }
        }
    });
    Ok(())
}

/// Flushes the log and ends the process at once, whatever still runs.
fn end(log: &Log, code: u8) {
    log.finish();
    std::process::exit(code.into());
}

/// Prints to standard output. An error is ignored: the reader may be gone, as `head` is after some
/// lines.
fn say(text: &str) -> ExitCode {
    let _ = writeln!(std::io::stdout(), "{text}");
    ExitCode::SUCCESS
}

fn fail(code: u8, error: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "sse-gateway: {error}");
    ExitCode::from(code)
}
