//! `sse-gateway`: reads its configuration, binds, serves, drains.

mod args;
mod operator;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use sse_gateway::server::RunError;
use sse_gateway::{Config, Gateway, config, logging};
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
        print!("{}", config::DEFAULTS);
        return ExitCode::SUCCESS;
    }
    let loaded = Config::read(args.config.as_deref(), std::env::vars_os(), &args.flags());
    let config = match loaded {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &error.to_string()),
    };
    if args.check_config {
        println!("the configuration is valid");
        return ExitCode::SUCCESS;
    }
    if let Err(error) = logging::init(&config.log) {
        return fail(USAGE, &error);
    }
    let system = actix_rt::System::new();
    let ended = system.block_on(async {
        match args.command {
            None => serve(config, args.wait_for_redis).await,
            Some(Command::Healthcheck) => operator::healthcheck(&config).await.map_err(Ended::from),
            Some(Command::Settings { apply }) => {
                operator::settings(config, apply).await.map_err(Ended::from)
            }
            Some(Command::Fence) => operator::fence(config).await.map_err(Ended::from),
            Some(Command::Defaults) => Ok(()),
        }
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(Ended { code, error }) => fail(code, &error),
    }
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

async fn serve(config: Config, patience: std::time::Duration) -> Result<(), Ended> {
    let broker = config.broker;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut stop = Box::pin(async move {
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        tracing::info!("stopping; a second signal ends it at once");
        actix_rt::spawn(async move {
            tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
            tracing::warn!("stopped at once by a second signal");
            std::process::exit(1);
        });
    });
    // Waiting for Redis can be ended as well: the first process of a container has no default action.
    let gateway = tokio::select! {
        gateway = Gateway::bind(config, patience) => gateway?,
        () = &mut stop => return Ok(()),
    };
    tracing::info!(
        addr = %gateway.addr(), admin.addr = %gateway.admin_addr(), ?broker,
        "listening; the live console is at http://{}/", gateway.addr()
    );
    gateway.run(stop).await.map_err(|error| Ended {
        code: if matches!(error, RunError::Died(_)) { DIED } else { 1 },
        error: error.to_string(),
    })?;
    tracing::info!("stopped");
    Ok(())
}

fn fail(code: u8, error: &str) -> ExitCode {
    eprintln!("sse-gateway: {error}");
    ExitCode::from(code)
}
