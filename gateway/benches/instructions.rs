//! Does a given amount of work and ends: `scripts/instructions` counts what that takes.
//!
//!   instructions deliver SUBSCRIBERS ROUNDS EVENTS   rounds of so many events to each subscriber
//!   instructions connect STREAMS                     streams opened one after the other
//!
//! The clients are a process of their own, this program again, so that their work is not counted. Neither
//! mode depends on how fast either process is: each waits for the other.

mod worker;

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use sse_gateway::Gateway;
use sse_gateway::http::listener;
use worker::{DATA, Worker};

/// What a browser's EventSource asks for.
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
        // `cargo bench` runs every bench; this one has nothing to say by itself.
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

/// This program as the clients, and what it says: one byte for each thing it has seen done.
fn clients(arguments: &[String]) -> io::Result<(Child, ChildStdout)> {
    let program = std::env::current_exe()?;
    let mut child = Command::new(program).args(arguments).stdout(Stdio::piped()).spawn()?;
    let seen = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
    Ok((child, seen))
}

/// The next round begins when the clients have all of the one before, so nothing is ever queued. TCP, because it
/// says that there is room only to who found none; socket pairs say so after every read, which no gateway sees.
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

/// The clients of [`deliver`]: an event is known by its data, which no other byte of a stream is like.
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

/// A whole gateway, and its end as soon as the clients are connected: no stream is closed before.
fn connect(streams: usize) -> io::Result<()> {
    actix_rt::System::new().block_on(async {
        let config = worker::config().map_err(io::Error::other)?;
        let gateway = Gateway::bind(config, Duration::ZERO).await.map_err(io::Error::other)?;
        let arguments = ["open".to_owned(), gateway.addr().to_string(), streams.to_string()];
        let (mut child, mut seen) = clients(&arguments)?;
        std::thread::spawn(move || {
            let connected = seen.read_exact(&mut [0]);
            // Not awaited: it ends when its streams do, and they end with this process.
            let _ = child.try_wait();
            std::process::exit(i32::from(connected.is_err()));
        });
        gateway.run(std::future::pending()).await.map_err(io::Error::other)
    })
}

/// The clients of [`connect`]: a stream that has told its first position is live.
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
    // The gateway's process ends now, and so do the streams.
    for mut stream in opened {
        let _ = io::copy(&mut stream, &mut io::sink());
    }
    Ok(())
}
