//! Follows channels, as an EventSource does. Unlike an EventSource, it tries again after errors
//! that may pass, such as 503.
//!
//! The position moves only when a blank line ends a block, and events are printed before the next
//! read. So a cut connection neither loses nor repeats an event.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::header::{ACCEPT, CACHE_CONTROL, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode, Uri};
use sse_contract::Channel;

use crate::colour::Colour;
use crate::environment::Environment;
use crate::event_stream::{EventStream, StreamEvent};
use crate::exit::{self, Failure};
use crate::http_client::{HttpClient, next_chunk, read_document};
use crate::http_head::{self, media_type, retry_after};
use crate::interrupt::Interrupt;
use crate::plain::of_system;
use crate::retry::{Waits, waits};
use crate::settings::Settings;
use crate::tail_args::TailArguments;
use crate::tail_output::{Form, Printer, Seen, View};
use crate::tail_start::Start;

/// Bytes of the largest event that is accepted.
const MAX_EVENT: usize = 16 << 20;
/// The wait before reconnecting, unless the server sends `retry:`.
const DEFAULT_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a connection ended, or was not made.
#[derive(Debug)]
pub enum End {
    /// For this reason; reconnect, after this time at least.
    Again(String, Option<Duration>),
    /// For good, with this exit code, and what the server is to blame for.
    Final(u8, Option<String>),
    /// For good, because standard output cannot be written.
    Stdout(String),
}

impl End {
    /// The end where another attempt would not help.
    pub fn useless(why: String) -> Self {
        End::Final(exit::FAILED, Some(why))
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // The reader of standard output closed it. That is an ordinary end, for example with
            // `head`.
            io::ErrorKind::BrokenPipe => End::Final(exit::OK, None),
            _ => End::Stdout(of_system(&error)),
        }
    }
}

/// A subscription with all its connections.
struct Tail<O, E> {
    client: HttpClient,
    channels: Vec<Channel>,
    /// Where to begin, until the first connection.
    start: Option<Start>,
    /// Whether the server is asked to put each event's channel before its data.
    annotated: bool,
    /// The path and query of all connections. It names where to begin; once there is an id to
    /// resume after, the server prefers that id.
    path: String,
    last_event_id: String,
    retry: Duration,
    waits: Waits,
    idle_timeout: Duration,
    left: Option<u64>,
    fail_on_gap: bool,
    quiet: bool,
    printer: Printer<O, E>,
}

/// Follows the channels and returns the exit code. The error says why following could not begin.
pub async fn run(
    arguments: TailArguments,
    environment: &Environment,
    mut interrupt: Interrupt,
) -> Result<u8, Failure> {
    let settings = Settings::read(&arguments.http, environment)?;
    let base = settings.gateway(arguments.url.as_deref())?;
    let headers = settings.headers(&arguments.http, &base)?;
    let client = HttpClient::new(base, headers, CONNECT_TIMEOUT, arguments.idle_timeout)
        .map_err(|why| Failure::new(exit::NO_CONNECTION, why))?;
    let mut channels: Vec<Channel> = Vec::new();
    for channel in &arguments.channels {
        if !channels.contains(channel) {
            channels.push(channel.clone());
        }
    }
    let wanted = arguments.channel
        || arguments.format.as_ref().is_some_and(|template| template.needs_channel());
    // Where there is one channel, every event is its.
    let annotated = wanted && channels.len() > 1;
    let mut tail = Tail {
        client,
        path: path(&channels, annotated)?,
        channels,
        start: arguments.from.clone(),
        annotated,
        last_event_id: String::new(),
        retry: DEFAULT_RETRY,
        waits: waits(DEFAULT_RETRY, LONGEST_RETRY),
        idle_timeout: arguments.idle_timeout,
        left: arguments.limit,
        fail_on_gap: arguments.fail_on_gap,
        quiet: arguments.quiet,
        printer: Printer::new(view(&arguments, environment), io::stdout(), io::stderr()),
    };
    Ok(tokio::select! {
        code = tail.follow() => code,
        () = interrupt.pressed() => exit::INTERRUPTED,
    })
}

fn view(arguments: &TailArguments, environment: &Environment) -> View {
    let form = match (arguments.json, arguments.data_only, &arguments.format) {
        (true, _, _) => Form::Json { parse: arguments.parse },
        (_, true, _) => Form::DataOnly,
        (_, _, Some(template)) => Form::Template(template.clone()),
        _ => Form::Human,
    };
    let colour = |terminal| Colour::choose(arguments.color, environment, terminal);
    View {
        form,
        time: arguments.time,
        channel: arguments.channel,
        checkpoints: arguments.checkpoints,
        out: colour(io::stdout().is_terminal()),
        err: colour(io::stderr().is_terminal()),
    }
}

fn path(channels: &[Channel], annotated: bool) -> Result<String, String> {
    let mut query: Vec<String> = channels
        .iter()
        .map(|channel| format!("channel={}", percent_encode(channel.as_str())))
        .collect();
    if annotated {
        query.push("annotate=channel".to_owned());
    }
    let path = format!("/events?{}", query.join("&"));
    path.parse::<Uri>().map_err(|_| "too many channels for one URL".to_owned())?;
    Ok(path)
}

/// Encodes a text for a query or a path segment: all bytes but the unreserved characters.
pub fn percent_encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

impl<O: Write, E: Write> Tail<O, E> {
    async fn follow(&mut self) -> u8 {
        loop {
            let (why, at_least) = match self.connection().await {
                End::Again(why, at_least) => (why, at_least),
                End::Final(code, why) => {
                    if let Some(why) = why {
                        self.printer.say(&format!("{}: {why}", self.client.base()));
                    }
                    return code;
                }
                End::Stdout(why) => {
                    self.printer.say(&format!("stdout: {why}"));
                    return exit::FAILED;
                }
            };
            let wait = self.waits.next().unwrap_or(self.retry).max(at_least.unwrap_or_default());
            let (base, wait_s) = (self.client.base(), wait.as_secs_f64());
            self.note(&format!("{base}: {why}; reconnecting in {wait_s:.1} s"));
            tokio::time::sleep(wait).await;
        }
    }

    async fn connection(&mut self) -> End {
        if let Some(start) = &self.start {
            match start.position(&mut self.client, &self.channels, self.idle_timeout).await {
                Ok(position) => self.path += &format!("&last_event_id={position}"),
                Err(end) => return end,
            }
            self.start = None;
        }
        let mut headers = vec![
            (ACCEPT, HeaderValue::from_static("text/event-stream")),
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        if !self.last_event_id.is_empty() {
            let Ok(id) = HeaderValue::from_bytes(self.last_event_id.as_bytes()) else {
                return End::useless(format!(
                    "the id {:?} cannot be sent back",
                    self.last_event_id
                ));
            };
            headers.push((HeaderName::from_static("last-event-id"), id));
        }
        let mut response =
            match self.client.send(Method::GET, &self.path, &headers, Vec::new()).await {
                Ok(response) => response,
                Err(no_answer) => return End::Again(no_answer.text, None),
            };
        if response.status() != StatusCode::OK {
            return judge(&mut response, self.idle_timeout).await;
        }
        let media_type = media_type(response.headers());
        if media_type != "text/event-stream" {
            let what = if media_type.is_empty() { "nothing" } else { &media_type };
            return End::useless(format!("the server answers {what}, not an event stream"));
        }
        let from = match self.last_event_id.as_str() {
            "" => String::new(),
            id => format!(", going on after {id}"),
        };
        self.note(&format!("connected to {}{from}", self.client.base()));
        let mut stream = EventStream::new(&self.last_event_id, MAX_EVENT);
        loop {
            let chunk = match next_chunk(response.body_mut(), self.idle_timeout).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return End::Again("the stream ended".to_owned(), None),
                Err(why) => return End::Again(why, None),
            };
            if let Err(end) = self.take(&mut stream, &chunk) {
                return end;
            }
        }
    }

    /// Reports a change of the connection, unless the user wants quiet.
    fn note(&mut self, line: &str) {
        if !self.quiet {
            self.printer.say(line);
        }
    }

    /// Reads a chunk of the stream: prints its events, then moves the position.
    fn take(&mut self, stream: &mut EventStream, chunk: &[u8]) -> Result<(), End> {
        let mut events = Vec::new();
        let fed = stream.feed(chunk, &mut events);
        for event in &mut events {
            self.print(event)?;
        }
        let moved = self.last_event_id != stream.last_event_id();
        stream.last_event_id().clone_into(&mut self.last_event_id);
        let retry = stream.retry().unwrap_or(self.retry);
        if moved || !events.is_empty() || retry != self.retry {
            // A connection that brought something new resets the waits. An overloaded gateway sends
            // only `retry:` and closes; that resets them only if the value is new.
            self.retry = retry;
            self.waits = waits(retry, LONGEST_RETRY);
        }
        // No reconnect: the server would send the same event again.
        fed.map_err(|error| End::useless(error.to_string()))
    }

    fn print(&mut self, event: &mut StreamEvent) -> Result<(), End> {
        let seen = Seen::of(event);
        let annotation = match (seen, self.annotated) {
            (Seen::Event, true) => Some(take_first_line(&mut event.data)),
            _ => None,
        };
        let channel = match (&annotation, self.channels.as_slice()) {
            (Some(channel), _) => Some(channel.as_str()),
            (None, [only]) => Some(only.as_str()),
            _ => None,
        };
        if let Some(channel) = &annotation
            && !self.channels.iter().any(|known| known.as_str() == channel)
        {
            let why = "the server does not tell the channel of an event (annotate=channel)";
            return Err(End::useless(why.to_owned()));
        }
        self.printer.event(event, channel)?;
        match (seen, &mut self.left) {
            (Seen::Gap, _) if self.fail_on_gap => Err(End::Final(exit::GAP, None)),
            (Seen::Event, Some(left)) => {
                *left -= 1;
                if *left == 0 { Err(End::Final(exit::OK, None)) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }
}

/// Takes the first line off a text.
fn take_first_line(text: &mut String) -> String {
    match text.split_once('\n') {
        Some((first, rest)) => {
            let (first, rest) = (first.to_owned(), rest.to_owned());
            *text = rest;
            first
        }
        None => std::mem::take(text),
    }
}

/// How the connection ends if the answer's status is not 200. `wait` is the longest silence in the
/// answer.
pub async fn judge(response: &mut Response<Incoming>, wait: Duration) -> End {
    let status = response.status();
    if status == StatusCode::NO_CONTENT {
        return End::Final(exit::OK, Some("the server asks not to come back (204)".to_owned()));
    }
    let document = read_document(response.body_mut(), wait).await.unwrap_or_default();
    let reason = http_head::reason(status, response.headers(), &document).text;
    let why = if reason.starts_with("HTTP") { reason } else { format!("HTTP {status}: {reason}") };
    let passing = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
    if passing {
        End::Again(why, retry_after(response.headers(), SystemTime::now()))
    } else {
        End::useless(why)
    }
}
