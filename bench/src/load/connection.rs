//! One connection: sends its request, reads the answer, and checks each event.
//!
//! An idle connection takes the memory of this struct (some 200 bytes) and no heap: the loop owns
//! the read buffer, and the start of a line is stored only while the line is incomplete. The
//! kernel's socket takes far more.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use rustix::net::{bind, connect, recv, send, socket_with};

use super::account::Tracker;
use super::lines::{Lines, field};
use super::report::Tally;
use super::tls::{self, Tls};
use crate::chunked::Chunked;
use crate::clock;
use crate::stamp::Stamp;

/// A longer head is an error.
const LONGEST_HEAD: usize = 16 * 1024;

/// How all connections of a load treat what they read.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// The first number of every stream of numbers; `None`: the first that is received.
    pub first: Option<u64>,
    /// The head opens the stream, and must declare an event stream.
    pub any_server: bool,
    /// Keep the last event id.
    pub remember_ids: bool,
}

#[derive(Debug)]
pub struct Connection {
    /// Its socket.
    pub socket: OwnedFd,
    /// Whether it stops reading once it is open.
    pub stalled: bool,
    /// Whether it has stopped reading for now.
    pub paused: bool,
    /// Its position in each stream of numbers.
    pub tracker: Tracker,
    /// The last event id, if it is kept.
    pub last_id: Option<Box<[u8]>>,
    phase: Phase,
    tls: Option<Tls>,
    event: Event,
}

/// The facts about an event whose lines are still arriving.
#[derive(Debug, Default)]
struct Event {
    /// It has a data line without a stamp.
    unstamped: bool,
    /// It is a stamped event, a `gap` or a `checkpoint`, none of which counts as unstamped.
    apart: bool,
}

#[derive(Debug)]
enum Phase {
    /// Waiting for the kernel to connect.
    Connecting,
    /// Collecting the head of the answer.
    Head(Vec<u8>),
    /// Reading events.
    Body { chunked: Option<Chunked>, lines: Lines, open: bool },
}

/// The result of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// This read did not open the stream.
    Going,
    /// This read opened the stream.
    Opened,
}

impl Connection {
    /// Starts to connect, from the address `from` if there is one.
    pub fn begin(
        to: SocketAddr,
        from: Option<SocketAddr>,
        stalled: bool,
        receive_buffer: Option<usize>,
    ) -> Result<Connection, String> {
        let text = |what: &'static str| move |error: Errno| format!("{what}: {error}");
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket =
            socket_with(family, SocketType::STREAM, flags, None).map_err(text("socket"))?;
        if let Some(bytes) = receive_buffer {
            // This must precede connecting, because it determines the window that the handshake
            // offers.
            sockopt::set_socket_recv_buffer_size(&socket, bytes).map_err(text("SO_RCVBUF"))?;
        }
        if let Some(from) = from {
            bind(&socket, &from).map_err(text("bind"))?;
        }
        match connect(&socket, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(format!("connect: {error}")),
        }
        Ok(Connection {
            socket,
            stalled,
            paused: false,
            tracker: Tracker::default(),
            last_id: None,
            phase: Phase::Connecting,
            tls: None,
            event: Event::default(),
        })
    }

    /// Whether it is still connecting.
    pub fn connecting(&self) -> bool {
        matches!(self.phase, Phase::Connecting)
    }

    /// Whether the stream is open.
    pub fn open(&self) -> bool {
        matches!(self.phase, Phase::Body { open: true, .. })
    }

    /// Sends the request, once the kernel is done with connecting. Fails if it could not connect.
    pub fn connected(&mut self, request: &[u8], tls: Option<&tls::Settings>) -> Result<(), String> {
        match sockopt::socket_error(&self.socket) {
            Ok(Ok(())) => {}
            Ok(Err(error)) | Err(error) => return Err(format!("connect: {error}")),
        }
        if let Some(settings) = tls {
            self.tls.insert(Tls::begin(settings, request)?).flush(&self.socket)?;
            self.phase = Phase::Head(Vec::new());
            return Ok(());
        }
        // A request is small and the socket's buffer is empty, so a partial send is an error.
        match send(&self.socket, request, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == request.len() => {
                // Delays acknowledgements. Sending them is half of what a read costs the load, and
                // the server can use the CPU that this saves. If the kernel refuses, the results
                // are still valid.
                let _ = sockopt::set_tcp_quickack(&self.socket, false);
            }
            Ok(_) => return Err("the request was not taken whole".to_owned()),
            Err(error) => return Err(format!("send: {error}")),
        }
        self.phase = Phase::Head(Vec::new());
        Ok(())
    }

    /// Reads once. The error says how the stream ended.
    pub fn read(
        &mut self,
        buffer: &mut [u8],
        rules: Rules,
        tally: &mut Tally,
    ) -> Result<Progress, String> {
        let count = match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
            Ok((0, _)) => return Err("the server closed the connection".to_owned()),
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Progress::Going),
            Err(error) => return Err(format!("recv: {error}")),
        };
        // The clock is read for each read, not once for a batch of epoll events. Otherwise the last
        // event of a batch of a thousand would seem some milliseconds faster than it was. Reading
        // the clock takes 25 ns, the system call 2,000 ns.
        let now = clock::now();
        tally.bytes += count as u64;
        let Some(mut tls) = self.tls.take() else {
            return self.take(&buffer[..count], now, rules, tally);
        };
        let mut progress = Progress::Going;
        tls.take(&buffer[..count], |said| {
            if self.take(said, now, rules, tally)? == Progress::Opened {
                progress = Progress::Opened;
            }
            Ok(())
        })?;
        tls.flush(&self.socket)?;
        self.tls = Some(tls);
        Ok(progress)
    }

    fn take(
        &mut self,
        input: &[u8],
        now: u64,
        rules: Rules,
        tally: &mut Tally,
    ) -> Result<Progress, String> {
        match &mut self.phase {
            Phase::Connecting => Ok(Progress::Going),
            Phase::Head(head) => {
                head.extend_from_slice(input);
                let head = std::mem::take(head);
                let Some((length, chunked)) = parse_head(&head, rules.any_server)? else {
                    self.phase = Phase::Head(head);
                    return Ok(Progress::Going);
                };
                let chunked = chunked.then(Chunked::default);
                self.phase =
                    Phase::Body { chunked, lines: Lines::default(), open: rules.any_server };
                let progress = self.take(&head[length..], now, rules, tally)?;
                Ok(if rules.any_server { Progress::Opened } else { progress })
            }
            Phase::Body { chunked, lines, open } => {
                let mut some = false;
                let (tracker, last_id) = (&mut self.tracker, &mut self.last_id);
                let event = &mut self.event;
                let mut body = |bytes: &[u8]| {
                    some |= !bytes.is_empty();
                    lines.feed(bytes, |line| {
                        judge(line, now, rules, tracker, last_id, event, tally)
                    });
                };
                match chunked {
                    Some(decoder) => {
                        decoder.feed(input, body).map_err(|_| "malformed chunks".to_owned())?;
                        if decoder.done() {
                            return Err("the server ended the answer".to_owned());
                        }
                    }
                    None => body(input),
                }
                let opened = some && !std::mem::replace(open, *open || some);
                Ok(if opened { Progress::Opened } else { Progress::Going })
            }
        }
    }
}

fn judge(
    line: &[u8],
    now: u64,
    rules: Rules,
    tracker: &mut Tracker,
    last_id: &mut Option<Box<[u8]>>,
    event: &mut Event,
    tally: &mut Tally,
) {
    if line.is_empty() {
        let event = std::mem::take(event);
        tally.unstamped += u64::from(event.unstamped && !event.apart);
    } else if let Some(data) = field(line, b"data") {
        if let Some(stamp) = Stamp::find(data) {
            tracker.take(stamp.stream, stamp.sequence, rules.first, &mut tally.counts);
            tally.latency.saturating_record(now.saturating_sub(stamp.time) / 1000);
            event.apart = true;
        } else {
            event.unstamped = true;
        }
    } else if let Some(name) = field(line, b"event") {
        tally.counts.gaps += u64::from(name == b"gap");
        event.apart |= matches!(name, b"gap" | b"checkpoint");
    } else if rules.remember_ids
        && let Some(id) = field(line, b"id")
    {
        *last_id = Some(id.into());
    }
}

/// The length of the head, and whether the body is chunked. `None` while the head is incomplete. If
/// `strict`, the head must declare an event stream.
fn parse_head(head: &[u8], strict: bool) -> Result<Option<(usize, bool)>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(head) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if head.len() <= LONGEST_HEAD => return Ok(None),
        Ok(httparse::Status::Partial) => return Err("the answer's head does not end".to_owned()),
        Err(error) => return Err(format!("not HTTP: {error}")),
    };
    if response.code != Some(200) {
        return Err(format!("answered {}", response.code.unwrap_or_default()));
    }
    let value = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map_or(b"".as_slice(), |header| header.value)
    };
    let media_type = value("content-type").split(|byte| *byte == b';').next().unwrap_or_default();
    if strict && !media_type.trim_ascii().eq_ignore_ascii_case(b"text/event-stream") {
        let what = if media_type.is_empty() {
            "nothing".into()
        } else {
            String::from_utf8_lossy(media_type)
        };
        return Err(format!("answered {what}, not an event stream"));
    }
    let chunked = value("transfer-encoding").eq_ignore_ascii_case(b"chunked");
    Ok(Some((length, chunked)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> Connection {
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::empty(), None)
                .unwrap();
        let (tracker, last_id, phase) = (Tracker::default(), None, Phase::Head(Vec::new()));
        let (tls, event) = (None, Event::default());
        Connection { socket, stalled: false, paused: false, tracker, last_id, phase, tls, event }
    }

    fn judged(wire: &[u8], size: usize) -> (Tally, Option<Box<[u8]>>, bool) {
        let rules = Rules { first: Some(1), any_server: false, remember_ids: true };
        let (mut connection, mut tally) = (fresh(), Tally::default());
        for piece in wire.chunks(size) {
            connection.take(piece, 5_000_000, rules, &mut tally).unwrap();
        }
        let open = connection.open();
        (tally, connection.last_id, open)
    }

    /// An answer with the events 1 and 3 of a stream of numbers, in chunks that end at awkward
    /// places.
    fn chunked_answer() -> Vec<u8> {
        let mut body = b":\n\nid: a-1\ndata: ".to_vec();
        Stamp { time: 1_000_000, sequence: 1, stream: 3 }.write(300, &mut body);
        body.extend_from_slice(b"\n\nid: a-3\r\ndata: {\"data\":\"");
        Stamp { time: 2_000_000, sequence: 3, stream: 3 }.write(60, &mut body);
        body.extend_from_slice(b"\"}\r\n\r\n");
        let mut wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for piece in body.chunks(23) {
            wire.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            wire.extend_from_slice(piece);
            wire.extend_from_slice(b"\r\n");
        }
        wire
    }

    #[test]
    fn an_answer_reads_the_same_however_it_is_cut() {
        let wire = chunked_answer();
        for size in 1..=wire.len() {
            let (tally, last_id, open) = judged(&wire, size);
            let counts = tally.counts;
            assert_eq!((counts.events, counts.lost, counts.duplicated), (2, 1, 0), "by {size}");
            assert_eq!(last_id.as_deref(), Some(b"a-3".as_slice()), "by {size}");
            assert!(open);
            assert_eq!(tally.latency.max() / 100, 40, "4 ms, about");
        }
    }

    #[test]
    fn another_status_than_200_is_told() {
        let rules = Rules { first: None, any_server: false, remember_ids: false };
        let wire = b"HTTP/1.1 503 Service Unavailable\r\n\r\n";
        let told = fresh().take(wire, 0, rules, &mut Tally::default());
        assert_eq!(told, Err("answered 503".to_owned()));
    }

    #[test]
    fn of_a_server_of_any_kind_the_head_opens_the_stream_and_whole_events_are_counted() {
        let rules = Rules { first: None, any_server: true, remember_ids: false };
        let (mut connection, mut tally) = (fresh(), Tally::default());
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n";
        assert_eq!(connection.take(head, 0, rules, &mut tally), Ok(Progress::Opened));
        let body = b"data: a\r\ndata: b\r\n\r\nevent: gap\ndata: {}\n\nevent: tick\ndata\ndata:\n\n: ping\n\n\
            event: checkpoint\ndata:\n\ndata: cut off";
        assert_eq!(connection.take(body, 0, rules, &mut tally), Ok(Progress::Going));
        assert_eq!((tally.unstamped, tally.counts.events, tally.counts.gaps), (2, 0, 1));

        let page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>";
        let told = fresh().take(page, 0, rules, &mut tally);
        assert_eq!(told, Err("answered text/html, not an event stream".to_owned()));
    }
}
