//! The `sse-publish` program: parses the command line, runs one task, and returns its exit code.

use std::io::Write;
use std::process::ExitCode;

use sse_publish::args::{self, Command};
use sse_publish::environment::Environment;
use sse_publish::exit::{self, Failure};
use sse_publish::interrupt::Interrupt;
use sse_publish::{api_key, bench, pages, publish, tail, token};

fn main() -> ExitCode {
    // HTTP and Redis use rustls without a built-in crypto provider. Installing one fails only the
    // second time.
    rustls::crypto::ring::default_provider().install_default().ok();
    let command = match args::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => {
            error.print().ok();
            return if error.use_stderr() { exit::USAGE } else { exit::OK }.into();
        }
    };
    let code = execute(command).unwrap_or_else(|failure| {
        writeln!(std::io::stderr(), "sse-publish: {}", failure.why).ok();
        failure.code
    });
    code.into()
}

fn execute(command: Command) -> Result<u8, Failure> {
    match command {
        Command::Publish(arguments) => wait(async |e, i| publish::run(*arguments, e, i).await),
        Command::Bench(arguments) => wait(async |e, i| bench::run(*arguments, e, i).await),
        Command::Tail(arguments) => wait(async |e, i| tail::run(*arguments, e, i).await),
        Command::Token(arguments) => token::run(&arguments),
        Command::Key(arguments) => api_key::run(&arguments),
        Command::Completions(arguments) => pages::completions(&arguments),
        Command::Man(arguments) => pages::man(&arguments),
    }
}

/// Runs a job that waits for the network and for Ctrl-C.
fn wait(
    job: impl AsyncFnOnce(&Environment, Interrupt) -> Result<u8, Failure>,
) -> Result<u8, Failure> {
    let broken = |error: std::io::Error| Failure::new(exit::FAILED, error);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(broken)?;
    let interrupt = Interrupt::listen().map_err(broken)?;
    let environment = Environment::read();
    let done = runtime.block_on(job(&environment, interrupt));
    // Does not wait for a name that is still being resolved.
    runtime.shutdown_background();
    done
}
