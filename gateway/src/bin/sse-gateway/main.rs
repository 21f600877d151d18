//! `sse-gateway`: reads its configuration, binds, serves, drains.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod operator;

use std::io::Write;
use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use sse_gateway::access::Access;
use sse_gateway::broker::redis::settings::RedisSettings;
use sse_gateway::gateway::RunError;
use sse_gateway::http::certificate::Tls;
use sse_gateway::logging::{self, Log};
use sse_gateway::{Config, Gateway, config, panics};
use tokio::signal::unix::{SignalKind, signal};

/// Chosen by measurement: of the allocators tried it keeps least for an idle stream, and gives back what a rush of
/// clients took. `.cargo/config.toml` says how soon. Building it takes long, so it is a feature.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A command line or configuration that is of no use (sysexits.h, EX_USAGE).
const USAGE: u8 = 64;
/// A part of the program ended before its time (sysexits.h, EX_SOFTWARE).
const DIED: u8 = 70;

fn main() -> ExitCode {
    let args = Args::try_parse().unwrap_or_else(|error| {
        let _ = error.print();
        std::process::exit(if error.use_stderr() { USAGE.into() } else { 0 });
    });
    if matches!(args.command, Some(Command::Defaults)) {
        return say(config::DEFAULTS.trim_end());
    }
    let config = match load(&args) {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &error),
    };
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
            Some(Command::Settings { apply }) => {
                operator::settings(config, *apply).await.map_err(Ended::from)
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

fn load(args: &Args) -> Result<Config, String> {
    let loaded = Config::read(args.config.as_deref(), std::env::vars_os(), &args.flags());
    loaded.map_err(|error| error.to_string())
}

/// Reads the files that the configuration names, as what starts does.
fn check_files(config: &Config) -> Result<(), String> {
    let of_ports = Tls::of(&config.tls).map(drop);
    let of_redis = RedisSettings::of(config).tls().map(drop);
    let of_access = Access::new(&config.auth, &config.cors).map(drop);
    let files = of_ports.and(of_redis).map_err(|error| error.to_string());
    files.and(of_access).map_err(|error| format!("configuration: {error}"))
}

/// Why the program ends, and its exit status.
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
    let (broker, open) = (config.broker, config.auth.open);
    let scheme = if config.tls.is_on() { "https" } else { "http" };
    reload_on_hangup(args.clone(), log.clone())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ending = log.clone();
    let mut stop = Box::pin(async move {
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        tracing::info!("stopping; a second signal ends it at once");
        #[expect(clippy::disallowed_methods, reason = "it ends the process")]
        actix_rt::spawn(async move {
            tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
            tracing::warn!("stopped at once by a second signal");
            end(&ending, 1);
        });
    });
    // Waiting for Redis can be ended as well: the first process of a container has no default action.
    let gateway = tokio::select! {
        gateway = Gateway::bind(config, args.wait_for_redis) => gateway?,
        () = &mut stop => return Ok(()),
    };
    gateway.metrics().count_dropped_lines(log.dropped());
    tracing::info!(
        addr = %gateway.addr(), admin.addr = %gateway.admin_addr(), ?broker,
        "listening; the live console is at {scheme}://{}/", gateway.addr()
    );
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

/// A hangup (SIGHUP) is the wish to read the configuration again. What can change without a restart changes: the log's
/// level. Terminals and `kill -HUP` would otherwise end the process and every stream with it.
fn reload_on_hangup(args: Args, log: Log) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    #[expect(
        clippy::disallowed_methods,
        reason = "without it a hangup changes nothing, and no more"
    )]
    actix_rt::spawn(async move {
        while hangup.recv().await.is_some() {
            match load(&args) {
                Ok(config) => {
                    log.set_level(&config.log.level);
                    tracing::info!(
                        log.level = config.log.level.as_ref(),
                        "the log's level was read again; everything else but a certificate takes a restart"
                    );
                }
                Err(error) => {
                    tracing::error!(%error, "the configuration is of no use; nothing changes")
                }
            }
        }
    });
    Ok(())
}

/// Ends the process now, and with it whatever still runs.
fn end(log: &Log, code: u8) {
    log.finish();
    std::process::exit(code.into());
}

/// An answer on standard output. Its reader may be gone, as `head` is after some lines: that is no fault of ours.
fn say(text: &str) -> ExitCode {
    let _ = writeln!(std::io::stdout(), "{text}");
    ExitCode::SUCCESS
}

fn fail(code: u8, error: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "sse-gateway: {error}");
    ExitCode::from(code)
}
