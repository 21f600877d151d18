//! Does a fixed amount of work and exits, so that `scripts/instructions` can count its
//! instructions.
//!
//!   instructions deliver SUBSCRIBERS ROUNDS EVENTS   EVENTS events to each subscriber, per round
//!   instructions connect STREAMS                     opens the streams one after the other
//!
//! The clients run in a second process of this program, so that their work is not counted. The two
//! processes wait for each other, so the work does not depend on their speed.

mod worker;

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use sse_gateway::Gateway;
use sse_gateway::http::listener;
use worker::{DATA, Worker};

/// The request of a browser's EventSource.
const REQUEST: &[u8] = b"GET /events?channel=demo HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/event-stream\r\nAccept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\nPragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\r\n";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["deliver", subscribers, rounds, events] => {
            deliver(number(subscribers), number(rounds), number(events))
        }
        ["connect", streams] => connect(number(streams)),
        ["read", addr, subscribers, rounds, events] => {
            read(address(addr), number(subscribers), number(rounds), number(events))
        }
        ["open", addr, streams] => open(address(addr), number(streams)),
        // `cargo bench` starts every bench with this argument. This one measures nothing by itself.
        ["--bench"] => Ok(()),
        _ => Err(io::Error::other("run scripts/instructions, which says what to do")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Starts this program as the clients. The clients write one byte to the returned output for each
/// step that they have seen done.
fn clients(arguments: &[String]) -> io::Result<(Child, ChildStdout)> {
    let program = std::env::current_exe()?;
    let mut child = Command::new(program).args(arguments).stdout(Stdio::piped()).spawn()?;
    let seen = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
    Ok((child, seen))
}

/// Delivers rounds of events. Each round waits until the clients have read the one before, so
/// nothing is ever queued.
///
/// The streams use TCP, which reports room for writing only after a write that found none. A socket
/// pair reports room after every read, and no gateway sees such reports.
fn deliver(subscribers: usize, rounds: usize, events: usize) -> io::Result<()> {
    let worker = Worker::new();
    let listener = listener::public(&worker::config().map_err(io::Error::other)?)?;
    listener.set_nonblocking(false)?;
    let numbers = [subscribers, rounds, events].map(|n| n.to_string());
    let mut arguments = vec!["read".to_owned(), listener.local_addr()?.to_string()];
    arguments.extend(numbers);
    let (mut child, mut seen) = clients(&arguments)?;
    let accept = |_| {
        let (socket, _) = listener.accept()?;
        socket.set_nonblocking(true)?;
        Ok(OwnedFd::from(socket))
    };
    let sockets: io::Result<Vec<OwnedFd>> = (0..subscribers).map(accept).collect();
    worker.open(sockets?, 1);
    let items = worker::events(events, 1);
    for round in 1..=rounds {
        let written = (subscribers * round * events) as u64;
        worker.round(&items, || worker.delivered() >= written);
        seen.read_exact(&mut [0])?;
    }
    drop(worker);
    child.wait()?;
    Ok(())
}

/// The clients of [`deliver`]. They count the bytes `x`, because only the data of events contain
/// that letter.
fn read(addr: SocketAddr, subscribers: usize, rounds: usize, events: usize) -> io::Result<()> {
    listener::raise_descriptor_limit();
    let streams: io::Result<Vec<TcpStream>> =
        (0..subscribers).map(|_| TcpStream::connect(addr)).collect();
    let streams = streams?;
    let mut buffer = vec![0; 64 * 1024];
    for _ in 0..rounds {
        for mut stream in &streams {
            let mut left = events * DATA;
            while left > 0 {
                let n = stream.read(&mut buffer)?;
                if n == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                left -= buffer[..n].iter().filter(|byte| **byte == b'x').count();
            }
        }
        io::stdout().write_all(b".")?;
        io::stdout().flush()?;
    }
    Ok(())
}

/// Runs a whole gateway, and exits as soon as the clients' streams are open, so that closing
/// streams is not counted.
fn connect(streams: usize) -> io::Result<()> {
    actix_rt::System::new().block_on(async {
        let config = worker::config().map_err(io::Error::other)?;
        let gateway = Gateway::bind(config, Duration::ZERO).await.map_err(io::Error::other)?;
        let arguments = ["open".to_owned(), gateway.addr().to_string(), streams.to_string()];
        let (mut child, mut seen) = clients(&arguments)?;
        std::thread::spawn(move || {
            let connected = seen.read_exact(&mut [0]);
            // The clients' process is not awaited: it ends after its streams, and these end with
            // this process.
            let _ = child.try_wait();
            std::process::exit(i32::from(connected.is_err()));
        });
        gateway.run(std::future::pending()).await.map_err(io::Error::other)
    })
}

/// The clients of [`connect`]. A stream is open when its first checkpoint arrives.
fn open(addr: SocketAddr, streams: usize) -> io::Result<()> {
    listener::raise_descriptor_limit();
    let mut opened = Vec::new();
    for _ in 0..streams {
        let mut stream = TcpStream::connect(addr)?;
        stream.write_all(REQUEST)?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while !line.starts_with("event: checkpoint") {
            line.clear();
            if io::BufRead::read_line(&mut reader, &mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        opened.push(reader);
    }
    io::stdout().write_all(b".")?;
    io::stdout().flush()?;
    // The gateway's process ends now and closes the streams.
    for mut stream in opened {
        let _ = io::copy(&mut stream, &mut io::sink());
    }
    Ok(())
}
