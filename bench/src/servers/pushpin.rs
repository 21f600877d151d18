//! Pushpin, and the origin that it asks what to do with a reader.
//!
//! Its configuration is Debian's, with three differences. Everything lies in a directory of its own, zurl
//! (which asks the origin) too. There are files enough for all readers. And `message_rate`, by default 2,500 a second
//! and 25,000 waiting, is 0, which is no limit: beyond it Pushpin drops events, and with any limit, however high, it
//! takes one event of a channel every 20 ms or so, which at 50 events a second makes seconds of delay.

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

/// How many readers may ask at once. Of 200 that came together on a busy machine, Pushpin answered up to half
/// with 502, as zurl had not yet taken the requests before them; of 50, some streams ended again at once.
pub const AT_ONCE: usize = 20;

impl Server {
    /// Starts Pushpin; it is published to at its control port.
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

/// Its version, and that of what holds its connections.
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

/// The origin: whoever asks for `/events?channel=C` is to be held, subscribed to C. One request a
/// connection, one after the other: it is asked once for each reader, and its answer is always ready.
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
        // A burst of readers is more than the 128 that std asks for.
        rustix::net::listen(&listener, 4096).map_err(|error| text(error.into()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let serve = move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // Who does not ask, or leaves, is the load's to notice: its stream does not open.
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
        // Wakes it.
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

/// What is to be done with a reader.
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
