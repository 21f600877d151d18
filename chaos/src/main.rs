//! `sse-chaos`: causes faults in gateways, Redis and the network between them, and checks every
//! event that every subscriber receives.
//!
//! Exit code 0: every promise was kept. 1: a promise was broken. 2: a run could not be completed.

mod by_http;
mod by_redis;
mod census;
mod clock;
mod faults;
mod gateways;
mod ledger;
mod namespace;
mod nginx;
mod payload;
mod publisher;
mod reading;
mod redis_side;
mod report;
mod resp;
mod run;
mod session;
#[cfg(test)]
mod session_tests;
mod settings;
mod stage;
mod storm;
mod subscriber;
mod sums;
mod tally;
mod topology;
mod truth;
mod verdict;
mod wire_rules;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use faults::Fault;
use sums::Sums;
use tokio::signal::unix::{SignalKind, signal};
use topology::Topology;

/// Breaks gateways, Redis and the network between them, and checks every event of every subscriber.
#[derive(Debug, Parser)]
#[command(name = "sse-chaos", version, about)]
struct Args {
    /// Run on a master behind Sentinels or on a Redis Cluster, with faults of their own, instead of on
    /// one Redis
    #[arg(long)]
    topology: Option<Topology>,
    /// Seed of settings, faults, payloads and client behaviour: a number, or "random"
    #[arg(long, default_value = "random")]
    seed: String,
    /// How many runs, each with the next seed; their sums are printed at the end
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// How long faults happen, in seconds; a run takes some 20 seconds more
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only these faults, separated by commas
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// Print all faults
    #[arg(long)]
    list: bool,
    /// How many subscribers, besides those that publish on open
    #[arg(long, default_value_t = 32)]
    subscribers: usize,
    /// The gateway's program [default: beside this one, or in target/release or target/debug]
    #[arg(long)]
    gateway: Option<PathBuf>,
    /// A setting of every gateway, which overrides what the seed draws; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(topology) = args.topology {
        return on_topology(&args, topology);
    }
    if args.list {
        Fault::all().for_each(|fault| println!("{:17} {}", fault.name(), fault.about()));
        return ExitCode::SUCCESS;
    }
    let one = |seed, sums: &mut Sums| perform(&plan(&args, seed)?, sums);
    seeds(&args, one, report::print_sums)
}

fn on_topology(args: &Args, topology: Topology) -> ExitCode {
    let catalogue = topology::Plan::catalogue(topology);
    if args.list {
        catalogue.iter().for_each(|(name, about)| println!("{name:17} {about}"));
        return ExitCode::SUCCESS;
    }
    let named = |name: &String| {
        let known = catalogue.iter().find(|(known, _)| known == name).map(|(known, _)| *known);
        known.ok_or_else(|| format!("--faults {name}: unknown; see --list"))
    };
    let faults = match args.faults.is_empty() {
        true => Ok(catalogue.iter().map(|(name, _)| *name).collect()),
        false => args.faults.iter().map(named).collect::<Result<Vec<_>, _>>(),
    };
    let gateway = args.gateway.clone().map_or_else(find_gateway, Ok);
    let (faults, gateway) = match (faults, gateway) {
        (Ok(faults), Ok(gateway)) => (faults, gateway),
        (Err(error), _) | (_, Err(error)) => return trouble(&error),
    };
    let one = |seed, sums: &mut Sums| {
        let plan = topology::Plan {
            topology,
            seed,
            storm: Duration::from_secs(args.seconds),
            faults: faults.clone(),
            gateway: gateway.clone(),
            over: args.settings.clone(),
            subscribers: args.subscribers,
        };
        println!("{} seed {seed}, {}", topology.name(), plan.gateway.display());
        block_on(async {
            tokio::select! {
                done = topology::perform(&plan, sums) => done,
                error = interrupted() => Err(error),
            }
        })
    };
    seeds(args, one, topology::print_sums)
}

/// Performs a run for each seed, and prints their sums.
fn seeds(
    args: &Args,
    mut one: impl FnMut(u64, &mut Sums) -> Result<(), String>,
    print: fn(&Sums),
) -> ExitCode {
    let first = match seed(&args.seed) {
        Ok(seed) => seed,
        Err(error) => return trouble(&error),
    };
    let mut sums = Sums::default();
    for seed in first..first.saturating_add(args.seeds) {
        if let Err(error) = one(seed, &mut sums) {
            trouble(&error);
            sums.undone(seed);
            if args.seeds == 1 || error == INTERRUPTED {
                return ExitCode::from(2);
            }
        }
    }
    if args.seeds > 1 {
        println!("{} seeds from {first} on, all together", args.seeds);
        print(&sums);
        println!("{}", sums.json());
    }
    ExitCode::from(sums.exit_code())
}

/// Runs everything on this thread. Dropping the future, however the run ends, ends all processes.
fn block_on<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

fn perform(plan: &run::Plan, sums: &mut Sums) -> Result<(), String> {
    println!("seed {}, {} with {} faults", plan.seed, plan.gateway.display(), plan.faults.len());
    println!("  {}", plan.settings.words().join(" "));
    let stage = block_on(async {
        // Dropping this future also deletes the namespace.
        tokio::select! {
            done = run::run(plan) => done,
            error = interrupted() => Err(error),
        }
    })?;
    report::print(plan, &stage);
    report::add(sums, plan, &stage);
    Ok(())
}

fn seed(text: &str) -> Result<u64, String> {
    match text {
        "random" => Ok(fastrand::u64(..1_000_000)),
        number => number.parse().map_err(|_| format!("--seed {number}: not a number")),
    }
}

fn plan(args: &Args, seed: u64) -> Result<run::Plan, String> {
    let named = |name: &String| {
        Fault::named(name).ok_or_else(|| format!("--faults {name}: unknown; see --list"))
    };
    let faults: Vec<Fault> = match args.faults.is_empty() {
        true => Fault::all().collect(),
        false => args.faults.iter().map(named).collect::<Result<_, _>>()?,
    };
    Ok(run::Plan {
        seed,
        storm: Duration::from_secs(args.seconds),
        faults,
        gateway: args.gateway.clone().map_or_else(find_gateway, Ok)?,
        settings: settings::Settings::draw(seed, &args.settings)?,
        over: args.settings.clone(),
        subscribers: args.subscribers,
    })
}

fn find_gateway() -> Result<PathBuf, String> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned()));
    let places = beside.into_iter().chain(["target/release", "target/debug"].map(PathBuf::from));
    let found = places.map(|dir| dir.join("sse-gateway")).find(|path| path.is_file());
    found.ok_or_else(|| "no sse-gateway found: build it, or name it with --gateway".to_owned())
}

const INTERRUPTED: &str = "interrupted";

async fn interrupted() -> String {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        return std::future::pending().await;
    };
    tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
    INTERRUPTED.to_owned()
}

fn trouble(error: &str) -> ExitCode {
    eprintln!("sse-chaos: {error}");
    ExitCode::from(2)
}
