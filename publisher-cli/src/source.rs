//! Opens what a run publishes: an argument, a file, or standard input.

use std::fs::File;
use std::io::{self, IsTerminal, Seek, Write};
use std::os::fd::AsFd;

use sse_token::random::random_hex;
use tokio::sync::mpsc;

use crate::exit::{self, Failure};
use crate::gather::Gather;
use crate::input::{self, Chunk, Split};
use crate::item::{Counting, ItemReader, KeySource};
use crate::plain::of_system;
use crate::publish_args::PublishArguments;

/// What a run publishes.
pub struct Source {
    /// The events, in batches.
    pub gather: Gather,
    /// Whether there may be many events.
    pub many: bool,
    /// Whether somebody types the input, so that a progress bar would be in the way.
    pub typed: bool,
    /// The bytes of the input, if they are known.
    pub size: Option<u64>,
}

/// An input before it is read.
struct Opened {
    chunks: mpsc::Receiver<Chunk>,
    typed: bool,
    size: Option<u64>,
}

/// Opens what these arguments name.
pub fn open(arguments: &PublishArguments) -> Result<Source, Failure> {
    let many = !arguments.whole && arguments.data.is_none() || arguments.count.is_some();
    let counting = match (many, arguments.count.is_some() || arguments.delimiter.is_some()) {
        (false, _) => Counting::One,
        (true, false) => Counting::Lines,
        (true, true) => Counting::Parts,
    };
    let channels =
        arguments.channels.as_ref().map(|channels| channels.0.clone()).unwrap_or_default();
    let (ndjson, event, keys) = (arguments.ndjson, arguments.event.clone(), keys(arguments)?);
    let items = ItemReader { ndjson, counting, channels, event, keys };
    let Opened { chunks, typed, size } = match &arguments.data {
        Some(data) => argument(data, arguments)?,
        None => input(arguments)?,
    };
    let gather = Gather::new(chunks, items, arguments.rate, arguments.strict);
    Ok(Source { gather, many, typed, size })
}

fn keys(arguments: &PublishArguments) -> Result<KeySource, Failure> {
    Ok(match (&arguments.idempotency_key, &arguments.key_field) {
        (Some(key), _) => KeySource::Given(key.clone()),
        (None, Some(member)) => KeySource::Member(member.clone()),
        // 128 random bits begin this run's keys.
        (None, None) => {
            let run = random_hex::<16>().map_err(|why| Failure::new(exit::FAILED, why))?;
            KeySource::Run(run)
        }
    })
}

/// DATA, or the file that it names.
fn argument(data: &str, arguments: &PublishArguments) -> Result<Opened, Failure> {
    let text = match data.strip_prefix('@') {
        None => data.to_owned(),
        Some(literal) if literal.starts_with('@') => literal.to_owned(),
        Some(path) => {
            let wrong = |why: String| {
                format!("{path}: {why}; for a text that begins with @, write @{data}")
            };
            let bytes = std::fs::read(path).map_err(|error| wrong(of_system(&error)))?;
            input::whole(bytes).map_err(|why| wrong(why.to_string()))?
        }
    };
    let chunks = match arguments.count {
        Some(count) => input::repeated(text, count),
        None => input::once(text),
    };
    Ok(Opened { chunks, typed: false, size: None })
}

fn input(arguments: &PublishArguments) -> Result<Opened, Failure> {
    let split = match &arguments.delimiter {
        _ if arguments.whole => Split::Nowhere,
        Some(split) => split.clone(),
        None => Split::Lines,
    };
    Ok(match &arguments.file {
        Some(path) => {
            let file = File::open(path)
                .map_err(|why| format!("--file {}: {}", path.display(), of_system(&why)))?;
            Opened { typed: false, size: size(&file), chunks: input::read(file, split) }
        }
        None => {
            let stdin = io::stdin();
            let typed = stdin.is_terminal();
            if typed {
                let what = if arguments.whole { "one event" } else { "events, one a line" };
                writeln!(io::stderr(), "reading {what} from the terminal; Ctrl-D ends").ok();
            }
            let size = stdin.as_fd().try_clone_to_owned().ok();
            let size = size.and_then(|file| size_of_rest(&File::from(file)));
            Opened { typed, size, chunks: input::read(stdin, split) }
        }
    })
}

/// The bytes of a regular file; of a pipe nobody knows them.
fn size(file: &File) -> Option<u64> {
    file.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len())
}

/// The bytes of a regular file behind the place where it stands.
fn size_of_rest(mut file: &File) -> Option<u64> {
    let size = size(file)?;
    Some(size.saturating_sub(file.stream_position().ok()?))
}
