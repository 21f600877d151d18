//! `sse-chaos`: breaks gateways, Redis and the network between them, and checks every event that every
//! subscriber sees.
//!
//! Exit code 0: every promise was kept. 1: one was not. 2: the run could not be done.

mod faults;
mod gateways;
mod ledger;
mod namespace;
mod payload;
mod process;
mod proxy;
mod publisher;
mod redis_side;
mod report;
mod resp;
mod run;
mod session;
#[cfg(test)]
mod session_tests;
mod stage;
mod storm;
mod stream;
mod subscriber;
mod tally;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use faults::Fault;
use tokio::signal::unix::{SignalKind, signal};

/// Breaks gateways, Redis and the network between them, and checks every event of every subscriber.
#[derive(Debug, Parser)]
#[command(name = "sse-chaos", version, about)]
struct Args {
    /// Where faults, payloads and habits come from; a number, or "random"
    #[arg(long, default_value = "random")]
    seed: String,
    /// How long things break; some 20 seconds come on top
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only these faults, separated by commas
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// Print the faults there are
    #[arg(long)]
    list: bool,
    /// How many subscribers
    #[arg(long, default_value_t = 30)]
    subscribers: usize,
    /// The gateway's program [default: beside this one, or in target/release or target/debug]
    #[arg(long)]
    gateway: Option<PathBuf>,
    /// A setting of every gateway, over the suite's own; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        Fault::all().for_each(|fault| println!("{:17} {}", fault.name(), fault.about()));
        return ExitCode::SUCCESS;
    }
    let plan = match plan(args) {
        Ok(plan) => plan,
        Err(error) => return trouble(&error),
    };
    println!("seed {}, {} with {} faults", plan.seed, plan.gateway.display(), plan.faults.len());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return trouble(&error.to_string()),
    };
    let done = tokio::task::LocalSet::new().block_on(&runtime, async {
        // However the run ends, it is dropped here, and every process and namespace with it.
        tokio::select! {
            done = run::run(&plan) => done,
            error = interrupted() => Err(error),
        }
    });
    match done {
        Ok(stage) => ExitCode::from(u8::from(!report::print(&plan, &stage))),
        Err(error) => trouble(&error),
    }
}

fn plan(args: Args) -> Result<run::Plan, String> {
    let seed = match args.seed.as_str() {
        "random" => fastrand::u64(..1_000_000),
        number => number.parse().map_err(|_| format!("--seed {number}: not a number"))?,
    };
    let named = |name: &String| {
        Fault::named(name).ok_or_else(|| format!("--faults {name}: unknown; see --list"))
    };
    let faults: Vec<Fault> = match args.faults.is_empty() {
        true => Fault::all().collect(),
        false => args.faults.iter().map(named).collect::<Result<_, _>>()?,
    };
    let gateway = args.gateway.map_or_else(find_gateway, Ok)?;
    let storm = Duration::from_secs(args.seconds);
    let (subscribers, settings) = (args.subscribers, args.settings);
    Ok(run::Plan { seed, storm, faults, gateway, settings, subscribers })
}

fn find_gateway() -> Result<PathBuf, String> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned()));
    let places = beside.into_iter().chain(["target/release", "target/debug"].map(PathBuf::from));
    let found = places.map(|dir| dir.join("sse-gateway")).find(|path| path.is_file());
    found.ok_or_else(|| "no sse-gateway found: build it, or name it with --gateway".to_owned())
}

async fn interrupted() -> String {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        return std::future::pending().await;
    };
    tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
    "interrupted".to_owned()
}

fn trouble(error: &str) -> ExitCode {
    eprintln!("sse-chaos: {error}");
    ExitCode::from(2)
}
