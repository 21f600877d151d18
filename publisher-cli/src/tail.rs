//! Follows channels, as an EventSource does. Unlike an EventSource, it tries again after errors
//! that may pass, such as 503.
//!
//! The position moves only when a blank line ends a block, and events are printed before the next
//! read. So a cut connection neither loses nor repeats an event.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::header::{ACCEPT, CACHE_CONTROL, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode, Uri};

use crate::address::Environment;
use crate::args::TailArguments;
use crate::event_stream::EventStream;
use crate::exit::{self, Failure};
use crate::http_client::{HttpClient, next_chunk, read_document};
use crate::http_head::{self, media_type, retry_after};
use crate::interrupt::Interrupt;
use crate::retry::{Waits, waits};
use crate::tail_output::{Form, Printer};

/// Bytes of the largest event that is accepted.
const MAX_EVENT: usize = 16 << 20;
/// The wait before reconnecting, unless the server sends `retry:`.
const DEFAULT_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a connection ended.
enum End {
    /// For this reason; reconnect, after this time at least.
    Again(String, Option<Duration>),
    /// For good, with this exit code and text.
    Final(u8, Option<String>),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // The reader of standard output closed it. That is an ordinary end, for example with
            // `head`.
            io::ErrorKind::BrokenPipe => End::Final(exit::OK, None),
            _ => End::Final(exit::FAILED, Some(format!("stdout: {error}"))),
        }
    }
}

/// A subscription with all its connections.
struct Tail<O, E> {
    client: HttpClient,
    /// The path and query of all connections. It names where to begin; once there is an id to
    /// resume after, the server prefers that id.
    path: String,
    last_event_id: String,
    retry: Duration,
    waits: Waits,
    idle_timeout: Duration,
    left: Option<u64>,
    quiet: bool,
    printer: Printer<O, E>,
}

/// Follows the channels and returns the exit code. The error says why following could not begin.
pub async fn run(
    arguments: TailArguments,
    environment: &Environment,
    mut interrupt: Interrupt,
) -> Result<u8, Failure> {
    let base = arguments.gateway(environment)?;
    let headers = arguments.http.headers(environment)?;
    let client = HttpClient::new(base, headers, CONNECT_TIMEOUT, arguments.idle_timeout)
        .map_err(|why| Failure::new(exit::NO_CONNECTION, why))?;
    let form = match (arguments.json, arguments.data_only) {
        (true, _) => Form::Json,
        (_, true) => Form::DataOnly,
        _ => Form::Human,
    };
    let mut tail = Tail {
        client,
        path: path(&arguments)?,
        last_event_id: String::new(),
        retry: DEFAULT_RETRY,
        waits: waits(DEFAULT_RETRY, LONGEST_RETRY),
        idle_timeout: arguments.idle_timeout,
        left: arguments.limit,
        quiet: arguments.quiet,
        printer: Printer::new(form, arguments.checkpoints, io::stdout(), io::stderr()),
    };
    Ok(tokio::select! {
        code = tail.follow() => code,
        () = interrupt.pressed() => exit::INTERRUPTED,
    })
}

fn path(arguments: &TailArguments) -> Result<String, String> {
    let mut query: Vec<String> = arguments
        .channels
        .iter()
        .map(|channel| format!("channel={}", percent_encode(channel.as_str())))
        .collect();
    match arguments.from.as_deref() {
        None => {}
        Some("oldest") => query.push("last_event_id=0".to_owned()),
        Some(id) => query.push(format!("last_event_id={}", percent_encode(id))),
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
                        self.printer.say(&why);
                    }
                    return code;
                }
            };
            let wait = self.waits.next().unwrap_or(self.retry).max(at_least.unwrap_or_default());
            self.note(&format!("{why}; reconnecting in {:.1} s", wait.as_secs_f64()));
            tokio::time::sleep(wait).await;
        }
    }

    async fn connection(&mut self) -> End {
        let mut headers = vec![
            (ACCEPT, HeaderValue::from_static("text/event-stream")),
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        if !self.last_event_id.is_empty() {
            let Ok(id) = HeaderValue::from_bytes(self.last_event_id.as_bytes()) else {
                let why = format!("the id {:?} cannot be sent back", self.last_event_id);
                return End::Final(exit::FAILED, Some(why));
            };
            headers.push((HeaderName::from_static("last-event-id"), id));
        }
        let mut response =
            match self.client.send(Method::GET, &self.path, &headers, Vec::new()).await {
                Ok(response) => response,
                Err(no_answer) => return End::Again(no_answer.text, None),
            };
        if let Some(end) = self.judge(&mut response).await {
            return end;
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

    /// How the connection ends if the answer is not an event stream; `None` if it is one.
    async fn judge(&self, response: &mut Response<Incoming>) -> Option<End> {
        let status = response.status();
        if status == StatusCode::OK {
            let media_type = media_type(response.headers());
            if media_type == "text/event-stream" {
                return None;
            }
            let what = if media_type.is_empty() { "nothing" } else { &media_type };
            let why = format!("the server answers {what}, not an event stream");
            return Some(End::Final(exit::FAILED, Some(why)));
        }
        if status == StatusCode::NO_CONTENT {
            let why = "the server asks not to come back (204)".to_owned();
            return Some(End::Final(exit::OK, Some(why)));
        }
        let document =
            read_document(response.body_mut(), self.idle_timeout).await.unwrap_or_default();
        let reason = http_head::reason(status, response.headers(), &document).text;
        let why =
            if reason.starts_with("HTTP") { reason } else { format!("HTTP {status}: {reason}") };
        let passing = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
        Some(if passing {
            End::Again(why, retry_after(response.headers(), SystemTime::now()))
        } else {
            End::Final(exit::FAILED, Some(why))
        })
    }

    /// Reads a chunk of the stream: prints its events, then moves the position.
    fn take(&mut self, stream: &mut EventStream, chunk: &[u8]) -> Result<(), End> {
        let mut events = Vec::new();
        let fed = stream.feed(chunk, &mut events);
        for event in &events {
            if self.printer.event(event)?
                && let Some(left) = &mut self.left
            {
                *left -= 1;
                if *left == 0 {
                    return Err(End::Final(exit::OK, None));
                }
            }
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
        fed.map_err(|error| End::Final(exit::FAILED, Some(error.to_string())))
    }
}
