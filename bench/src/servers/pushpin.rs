//! Pushpin, and the origin that it asks what to do with a reader.
//!
//! The configuration is Debian's, with three differences:
//!
//! - All files and sockets are in a scratch directory, including those of zurl, which sends
//!   requests to the origin.
//! - The limit of open files is high enough for all readers.
//! - `message_rate` is 0, which means no limit. The default is 2,500 per second with 25,000
//!   waiting, beyond which Pushpin drops events. With any limit, however high, Pushpin takes one
//!   event of a channel about every 20 ms, which at 50 events per second delays events by seconds.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Server, StartError, free_addr, programs};
use crate::publish::{Route, Text, Wrap};

/// How many streams to open at once. On a busy machine, when 200 came at once, Pushpin answered up
/// to half with 502, because zurl had not yet taken the requests before them. When 50 came at once,
/// some streams ended immediately.
pub const AT_ONCE: usize = 20;

impl Server {
    /// Starts Pushpin. Publishers use its control port.
    pub(super) fn pushpin(&mut self) -> Result<(), StartError> {
        let program = programs::find("pushpin", None)?;
        let origin = Origin::start()?;
        let control = free_addr()?;
        let config = configure(self.dir(), self.addr, control, origin.addr)?;
        self.origin = Some(origin);
        let args = [format!("--config={}", config.display()), "--merge-output".to_owned()];
        self.run(&program, &args, &[], self.addr)?;
        self.listens(control)?;
        self.opens()?;
        self.route = Route::Wrapped(Wrap {
            addr: control,
            path: "/publish/".to_owned(),
            headers: "Content-Type: application/json\r\n".to_owned(),
            body: r#"{"items":[{"channel":"{c}","formats":{"http-stream":{"content":"data: {d}\n\n"}}}]}"#,
            text: Text::Json,
        });
        Ok(())
    }
}

/// The versions of Pushpin and of condure, which holds its connections.
pub fn version() -> Result<String, StartError> {
    let pushpin = programs::says(&programs::find("pushpin", None)?, &["--version"])?;
    let condure = programs::says(&programs::find("condure", None)?, &["--version"])?;
    Ok(format!("{pushpin}, {condure}"))
}

fn configure(
    dir: &Path,
    addr: SocketAddr,
    control: SocketAddr,
    origin: SocketAddr,
) -> Result<PathBuf, String> {
    let (run, path) = (dir.display(), dir.join("pushpin.conf"));
    let (control_ip, control_port) = (control.ip(), control.port());
    let config = format!(
        r#"[global]
include={{libdir}}/internal.conf
rundir={run}
ipc_prefix=bench-
port_offset=0
stats_connection_ttl=120

[runner]
services=condure,zurl,pushpin-proxy,pushpin-handler
http_port={addr}
logdir={run}
log_level=1
client_buffer_size=8192
client_maxconn=50000

[proxy]
routesfile=routes
zurl_out_specs=ipc://{{rundir}}/{{ipc_prefix}}zurl-in
zurl_out_stream_specs=ipc://{{rundir}}/{{ipc_prefix}}zurl-in-stream
zurl_in_specs=ipc://{{rundir}}/{{ipc_prefix}}zurl-out
updates_check=off

[handler]
push_in_spec=ipc://{{rundir}}/{{ipc_prefix}}push-in
push_in_sub_specs=ipc://{{rundir}}/{{ipc_prefix}}push-in-sub
push_in_http_addr={control_ip}
push_in_http_port={control_port}
stats_spec=ipc://{{rundir}}/{{ipc_prefix}}stats
command_spec=ipc://{{rundir}}/{{ipc_prefix}}command
message_rate=0
message_hwm=25000
"#
    );
    let write = |path: &Path, text: &str| {
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    write(&path, &config)?;
    write(&dir.join("routes"), &format!("* {origin}\n"))?;
    Ok(path)
}

/// The origin. It tells Pushpin to keep the stream of a request for `/events?channel=C` open and to
/// subscribe it to C.
///
/// It serves connections one after the other, with one request each. That is enough: Pushpin asks
/// once per reader, and the answer needs no work.
#[derive(Debug)]
pub struct Origin {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Origin {
    fn start() -> Result<Origin, String> {
        let text = |error: std::io::Error| format!("the origin does not start: {error}");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(text)?;
        let addr = listener.local_addr().map_err(text)?;
        // The standard library asks for a backlog of 128, too few for many readers at once.
        rustix::net::listen(&listener, 4096).map_err(|error| text(error.into()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let serve = move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // If this fails, a stream does not open, and the load reports that.
                let _ = stream.and_then(serve);
            }
        };
        let thread = std::thread::Builder::new().name("origin".to_owned()).spawn(serve);
        Ok(Origin { addr, stop, thread: Some(thread.map_err(text)?) })
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread, which then sees `stop`.
        let woken = TcpStream::connect(self.addr).is_ok();
        if let Some(thread) = self.thread.take()
            && woken
        {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut request, mut line) = (String::new(), String::new());
    let mut reader = BufReader::new(&stream);
    reader.read_line(&mut request)?;
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    stream.write_all(instruct(&request).as_bytes())
}

/// The answer to a request, which tells Pushpin what to do with the reader.
fn instruct(request: &str) -> String {
    let target = request.split(' ').nth(1).unwrap_or_default();
    let Some((_, channel)) = target.split_once("?channel=") else {
        return "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            .to_owned();
    };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nGrip-Hold: stream\r\n\
         Grip-Channel: {channel}\r\nContent-Length: 3\r\nConnection: close\r\n\r\n:\n\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_is_held_on_the_channel_it_asks_for() {
        let answer = instruct("GET /events?channel=user-7 HTTP/1.1\r\n");
        assert!(answer.contains("\r\nGrip-Hold: stream\r\nGrip-Channel: user-7\r\n"));
        assert!(answer.ends_with("\r\n\r\n:\n\n"));
        assert!(instruct("GET / HTTP/1.1\r\n").starts_with("HTTP/1.1 404"));
    }
}
