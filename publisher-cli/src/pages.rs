//! Writes what packagers and shells want: completions, and manual pages.

use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_mangen::Man;

use crate::args::{CompletionsArguments, ManArguments, definition};
use crate::exit::{self, Failure};
use crate::help::INVISIBLE;
use crate::plain::of_system;

/// In bash's completions, clap_complete 4.6 gives the subcommands of a program with a hyphen in its
/// name two spellings, so none is completed. This is the wrong one.
const MISSPELT: &str = "sse__subcmd__publish__";
/// And this is the right one.
const SPELT: &str = "sse__publish__";

/// Prints the completions of a shell. Returns the exit code.
pub fn completions(arguments: &CompletionsArguments) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut definition(), "sse-publish", &mut script);
    let script = String::from_utf8_lossy(&visible(&script)).replace(MISSPELT, SPELT);
    print(script.as_bytes())
}

/// Prints the manual page, or writes one for each command. Returns the exit code.
pub fn man(arguments: &ManArguments) -> Result<u8, Failure> {
    let mut all = definition();
    all.build();
    match &arguments.out {
        None => print(&page(&all, "sse-publish")?),
        Some(directory) => {
            write_all(&all, "sse-publish", directory)?;
            Ok(exit::OK)
        }
    }
}

/// Writes the page of a command and those of its subcommands: `sse-publish-token-check.1`.
fn write_all(command: &Command, name: &str, directory: &Path) -> Result<(), Failure> {
    let path = directory.join(format!("{name}.1"));
    std::fs::write(&path, page(command, name)?).map_err(|error| {
        Failure::new(exit::FAILED, format!("{}: {}", path.display(), of_system(&error)))
    })?;
    for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write_all(subcommand, &format!("{name}-{}", subcommand.get_name()), directory)?;
    }
    Ok(())
}

fn page(command: &Command, name: &str) -> Result<Vec<u8>, Failure> {
    let mut page = Vec::new();
    let written = Man::new(command.clone())
        .title(name)
        .source(concat!("sse-publish ", env!("CARGO_PKG_VERSION")));
    written.render(&mut page).map_err(|why| Failure::new(exit::FAILED, why))?;
    Ok(visible(&page))
}

/// The text without what is only there to be invisible on a terminal.
fn visible(text: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(text).replace(INVISIBLE, "").into_bytes()
}

fn print(text: &[u8]) -> Result<u8, Failure> {
    match io::stdout().write_all(text) {
        // Whoever reads it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(exit::OK),
        Err(error) => Err(Failure::new(exit::FAILED, format!("stdout: {}", of_system(&error)))),
        Ok(()) => Ok(exit::OK),
    }
}
