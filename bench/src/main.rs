//! `sse-bench`: compares servers of Server-Sent Events on this machine.
//!
//! Exit code 0: the run is complete, whatever its tables say. 2: it could not run.

mod results;

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;
use sse_bench::floor::Floor;
use sse_bench::scenario::{Options, Scenario, compared};
use sse_bench::servers::{Kind, Settings};
use sse_bench::table::Output;

/// Compares servers of Server-Sent Events on this machine.
#[derive(Debug, Parser)]
#[command(name = "sse-bench", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scenarios, on servers that are started afresh each time
    Run(Run),
    /// Run the floor, a server that only writes prebuilt bytes to sockets: the least a delivery can
    /// cost
    Floor {
        /// The address to listen on
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// The number of threads
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
        threads: u8,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// One short round with fewer connections, on the servers that the targets compare
    #[arg(long)]
    quick: bool,
    /// Run only these scenarios
    #[arg(long, value_enum, num_args = 1.., value_delimiter = ',')]
    only: Vec<Scenario>,
    /// Run only these servers; an unknown name lists all names
    #[arg(long, num_args = 1.., value_delimiter = ',', value_parser = kind)]
    server: Vec<Kind>,
    /// The gateway's program [default: sse-gateway in the directory of this program]
    #[arg(long)]
    gateway: Option<PathBuf>,
    /// Set an environment variable of the gateway: SSE_STREAM__HEARTBEAT=5s
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    set: Vec<(String, String)>,
    /// The number of connections, instead of the scenario's own
    #[arg(long)]
    connections: Option<usize>,
    /// Events per second, instead of the scenario's own
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds to measure, instead of the scenario's own
    #[arg(long)]
    seconds: Option<u64>,
    /// In "stalled": let the stalled readers read again after 20 s, and check that nothing is
    /// missing
    #[arg(long)]
    resume: bool,
    /// User-space instructions of a delivery, as scripts/instructions counted them, to compare with
    /// the target
    #[arg(long, value_name = "N")]
    instructions: Option<u64>,
    /// Also write each result to this file, as one line of JSON
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Write a page of Markdown that says what was measured and which targets were met
    #[arg(long, value_name = "PATH")]
    results: Option<PathBuf>,
}

fn main() -> ExitCode {
    raise_open_files();
    let done = match Cli::parse().command {
        Command::Run(args) => run(args),
        Command::Floor { listen, threads } => floor(listen, threads),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sse-bench: {error}");
            ExitCode::from(2)
        }
    }
}

/// Raises the limit of open files, because every stream is one. The servers inherit the limit.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        eprintln!("sse-bench: the limit of open files stays as it is: {error}");
    }
}

fn run(args: Run) -> Result<(), String> {
    let json = args
        .json
        .map(|path| File::create(&path).map_err(|error| format!("{}: {error}", path.display())));
    let mut output = Output::new(json.transpose()?);
    let wanted = match args.server.is_empty() {
        true => Kind::ALL.into_iter().filter(|kind| !args.quick || compared(*kind)).collect(),
        false => args.server,
    };
    let gateway = match args.gateway {
        Some(path) => path,
        None => beside()?,
    };
    if wanted.iter().any(|kind| kind.is_gateway()) && !gateway.is_file() {
        return Err(format!("{}: no such program; use --gateway", gateway.display()));
    }
    let settings = Settings::new(gateway, args.set);
    let (mut servers, mut versions) = (Vec::new(), Vec::new());
    for kind in wanted {
        match kind.version(&settings) {
            Ok(version) => {
                servers.push(kind);
                versions.push((kind.name(), version));
            }
            Err(error) => output.remark(&format!("{}: {error}", kind.name())),
        }
    }
    let page = args.results.map(|path| (path, results::Setting::here(versions, args.quick)));
    let options = Options {
        quick: args.quick,
        servers,
        settings,
        connections: args.connections,
        rate: args.rate,
        seconds: args.seconds,
        resume: args.resume,
    };
    let in_time = |scenario: &Scenario| !args.quick || *scenario != Scenario::SteadyHalf;
    let scenarios = match args.only.is_empty() {
        true => Scenario::ALL.into_iter().filter(in_time).collect(),
        false => args.only,
    };
    if let Some(delivery) = args.instructions {
        let server = Kind::GatewayMemory.name();
        output
            .record(json!({ "scenario": "instructions", "server": server, "delivery": delivery }));
    }
    let estimate: f64 = scenarios.iter().map(|scenario| scenario.estimate(&options)).sum();
    output.note(&format!("this takes about {:.0} s, {:.1} min", estimate, estimate / 60.0));
    for scenario in scenarios {
        scenario.run(&options, &mut output);
    }
    if let Some((path, setting)) = page {
        let page = results::page(&setting, &output);
        std::fs::write(&path, page).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("the page is {}", path.display());
    }
    Ok(())
}

fn floor(listen: SocketAddr, threads: u8) -> Result<(), String> {
    let floor = Floor::start(listen, usize::from(threads));
    let floor = floor.map_err(|error| format!("{listen}: {error}"))?;
    println!("the floor listens on {}", floor.addr());
    floor.join();
    Ok(())
}

fn beside() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    Ok(own.with_file_name("sse-gateway"))
}

fn kind(name: &str) -> Result<Kind, String> {
    let found = Kind::ALL.into_iter().find(|kind| kind.name() == name);
    let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    found.ok_or_else(|| format!("one of {}", names.join(", ")))
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
