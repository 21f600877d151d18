//! `sse-gateway top`: a live view of one or several gateways, made of what their admin ports
//! answer. It changes nothing.

mod ask;
mod model;
mod readers;
mod scrape;
#[cfg(test)]
mod tests;
mod view;
mod words;

use std::io::{IsTerminal as _, Write as _};
use std::pin::Pin;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::join_all;
use ratatui::DefaultTerminal;
use ratatui::backend::{Backend, ClearType, TestBackend};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use sse_gateway::Config;
use sse_gateway::http::listener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use ask::{Answered, Target};
use model::Model;
use view::{SORTS, View};

/// Characters in a line of `--once`, unless `COLUMNS` says how many.
const WIDTH: u16 = 100;
/// Streams that `--once` shows at most.
const ONCE: usize = 10;

/// The arguments of `top`.
#[derive(Debug, Clone, Args)]
pub struct TopArgs {
    /// An admin port, such as http://10.0.0.5:9090; may be repeated. A name with several addresses
    /// is as many gateways [default: the gateway on this machine]
    #[arg(long = "admin", value_name = "URL")]
    admin: Vec<String>,
    /// How often the gateways are asked
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// Print one frame as plain text and exit: 0 if every gateway answers, else 1
    #[arg(long)]
    once: bool,
    /// An API key with admin=true, without which other machines' gateways do not list their streams
    #[arg(long, value_name = "KEY", env = "SSE_KEY", hide_env_values = true)]
    key: Option<String>,
}

/// Why `top` ended.
#[derive(Debug)]
pub enum Failed {
    /// The command line is wrong.
    Usage(String),
    /// A gateway does not answer, or the terminal is gone.
    Other(String),
}

/// Shows the view until it is ended, or prints one frame of it.
pub async fn run(args: &TopArgs, config: &Config) -> Result<(), Failed> {
    let targets = targets(args, config).map_err(Failed::Usage)?;
    let interval = humantime::format_duration(args.interval).to_string();
    let view = View { interval, once: args.once, ..View::default() };
    if args.once {
        return once(&targets, args.interval, &view).await;
    }
    if !std::io::stdout().is_terminal() {
        let why = "standard output is no terminal; --once prints one frame as plain text";
        return Err(Failed::Usage(why.to_owned()));
    }
    live(&targets, args.interval, view).await.map_err(|error| Failed::Other(error.to_string()))
}

fn targets(args: &TopArgs, config: &Config) -> Result<Vec<Target>, String> {
    if !args.admin.is_empty() {
        let key = args.key.as_deref();
        return args.admin.iter().map(|url| Target::of(url, key)).collect();
    }
    let tls = (config.tls.is_on() && config.tls.admin).then(listener::own_tls);
    Ok(vec![Target::here(listener::from_here(config.admin.listen), tls)])
}

/// Asks every gateway.
async fn ask_all(targets: &[Target], sort: &str) -> Vec<Answered> {
    let answers = join_all(targets.iter().map(|target| target.ask(sort))).await;
    answers.into_iter().flatten().collect()
}

/// Prints one frame. Rates need two scrapes, so this takes one interval.
async fn once(targets: &[Target], interval: Duration, view: &View) -> Result<(), Failed> {
    let (mut model, sort) = (Model::default(), SORTS[view.sort]);
    model.take(ask_all(targets, sort).await, sort, Instant::now());
    tokio::time::sleep(interval).await;
    model.take(ask_all(targets, sort).await, sort, Instant::now());
    model.readers.truncate(ONCE);
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let text = plain(&model, view, columns.unwrap_or(WIDTH).max(80));
    // An error is ignored, because the reader of standard output may be gone.
    let _ = write!(std::io::stdout(), "{text}");
    let silent: Vec<&str> = model
        .gateways
        .iter()
        .filter(|gateway| gateway.now.is_err())
        .map(|gateway| gateway.name.as_str())
        .collect();
    match silent.is_empty() {
        true => Ok(()),
        false => Err(Failed::Other(format!("no answer from {}", silent.join(", ")))),
    }
}

/// The view as plain text, without spaces at the ends of lines.
fn plain(model: &Model, view: &View, width: u16) -> String {
    let Ok(mut terminal) = ratatui::Terminal::new(TestBackend::new(width, view::height(model)));
    let Ok(_) = terminal.draw(|frame| view::draw(frame, model, view));
    let buffer = terminal.backend().buffer();
    let lines = buffer.content.chunks(usize::from(width).max(1));
    let text = lines.map(|cells| {
        let line: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
        format!("{}\n", line.strip_prefix(' ').unwrap_or(&line).trim_end())
    });
    text.collect()
}

/// The terminal while the view has it. Dropping it gives it back as it was; a panic does so, too,
/// by the hook that `ratatui` sets.
struct Screen(DefaultTerminal);

impl Drop for Screen {
    fn drop(&mut self) {
        // After a change of size, tmux would otherwise leave lines of the view behind.
        let _ = self.0.backend_mut().clear_region(ClearType::All);
        ratatui::restore();
    }
}

async fn live(targets: &[Target], interval: Duration, mut view: View) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut screen = Screen(ratatui::try_init()?);
    let mut input = input();
    let (mut model, mut shown) = (Model::default(), Model::default());
    let mut asking = asking(targets, view.sort, Duration::ZERO);
    loop {
        if !view.paused {
            shown.clone_from(&model);
        }
        screen.0.draw(|frame| view::draw(frame, &shown, &view))?;
        tokio::select! {
            (sort, answers) = &mut asking => {
                // An answer in another order than is wanted now is not shown.
                if sort == view.sort {
                    model.take(answers, SORTS[sort], Instant::now());
                }
                asking = self::asking(targets, view.sort, interval);
            }
            key = input.recv() => match key {
                None => return Err(std::io::Error::other("the terminal is gone")),
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    let sort = view.sort;
                    if !press(&mut view, key, model.readers.len()) {
                        return Ok(());
                    }
                    if view.sort != sort {
                        asking = self::asking(targets, view.sort, Duration::ZERO);
                    }
                }
                // Of a new size, only that the view is drawn again.
                Some(_) => {}
            },
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
        }
    }
}

/// Asks all gateways after `pause`. Returns also the order of the streams in the answers.
fn asking<'a>(
    targets: &'a [Target],
    sort: usize,
    pause: Duration,
) -> Pin<Box<dyn Future<Output = (usize, Vec<Answered>)> + 'a>> {
    Box::pin(async move {
        tokio::time::sleep(pause).await;
        (sort, ask_all(targets, SORTS[sort]).await)
    })
}

/// Reads keys and sizes on a thread of its own, which ends with the process. The channel closes if
/// the terminal is gone.
fn input() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Does what a key asks for. Returns false if that is the end. `streams` is how many there are to
/// scroll through.
fn press(view: &mut View, key: KeyEvent, streams: usize) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let most = streams.saturating_sub(1);
    match key.code {
        KeyCode::Char('c') if control => return false,
        KeyCode::Esc if view.help => view.help = false,
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('p' | ' ') => view.paused = !view.paused,
        KeyCode::Char('?' | 'h') => view.help = !view.help,
        KeyCode::Char('s') => {
            view.sort = (view.sort + 1) % SORTS.len();
            view.scroll = 0;
        }
        KeyCode::Down | KeyCode::Char('j') => view.scroll = (view.scroll + 1).min(most),
        KeyCode::Up | KeyCode::Char('k') => view.scroll = view.scroll.saturating_sub(1),
        KeyCode::PageDown => view.scroll = (view.scroll + 10).min(most),
        KeyCode::PageUp => view.scroll = view.scroll.saturating_sub(10),
        KeyCode::Home => view.scroll = 0,
        _ => {}
    }
    true
}

fn interval(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text)
        .map_err(|error| format!("write a duration such as 500ms, 1s or 1m ({error})"))?;
    let allowed = Duration::from_millis(100)..=Duration::from_secs(3600);
    if allowed.contains(&time) { Ok(time) } else { Err("must be 100ms to 1h".to_owned()) }
}
