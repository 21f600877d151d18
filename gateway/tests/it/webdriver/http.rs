//! The drivers that speak HTTP: Debian's `chromedriver` and `WebKitWebDriver`.
//!
//! Each owns its process and one session. HTTP is written by hand here, over one short TCP
//! connection for each command: an async client would need a runtime, and a test must be able to
//! drop the browser anywhere.

use std::fmt::Display;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use super::{ANSWER_TIMEOUT, in_words};
use crate::support::{Process, eventually, own_addr, spawn};

/// The options that Chromium is started with.
pub fn chromium(profile: &Path) -> Value {
    json!({"args": [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        // In a container /dev/shm is 64 MB, and a renderer that fills it crashes.
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        // A desk's screen. Without a size it is a small one.
        "--window-size=1280,860",
        format!("--user-data-dir={}", profile.display()),
    ]})
}

/// A running driver that speaks HTTP, and its session.
pub struct Http {
    process: Process,
    addr: SocketAddr,
    /// The path of the session, below which its commands are. Empty until the session is open.
    session: String,
    /// Chromium's own process, to kill it if the session does not end by itself.
    pub chromium: Option<u64>,
    /// Kept open: a chromedriver whose standard output is closed dies at its next line.
    _stdout: Option<BufReader<ChildStdout>>,
}

impl Http {
    #[track_caller]
    pub fn chromedriver(profile: &Path) -> Http {
        // chromedriver takes a free port of IPv4, then the same one of IPv6. It ends if another
        // process has that one.
        for _ in 0..10 {
            let mut command = Command::new("chromedriver");
            command.arg("--port=0").stdout(Stdio::piped());
            let mut driver = Http::spawn(command, profile, "chromium-driver and chromium");
            let mut stdout = BufReader::new(driver.process.stdout.take().expect("it is piped"));
            if let Some(port) = announced_port(&mut stdout) {
                driver.addr.set_port(port);
                driver._stdout = Some(stdout);
                return driver;
            }
            driver.stop();
        }
        panic!("chromedriver ended ten times without a port");
    }

    /// Starts WebKitWebDriver on a chosen port, because it does not print its own.
    #[track_caller]
    pub fn webkit(profile: &Path) -> Http {
        let addr = own_addr();
        let mut command = Command::new("WebKitWebDriver");
        command.args([format!("--host={}", addr.ip()), format!("--port={}", addr.port())]);
        command.env("HOME", profile).stdout(Stdio::null());
        let mut driver = Http::spawn(command, profile, "webkit2gtk-driver");
        driver.addr = addr;
        eventually("WebKitWebDriver takes connections", || TcpStream::connect(addr).is_ok());
        driver
    }

    #[track_caller]
    fn spawn(mut command: Command, profile: &Path, package: &str) -> Http {
        // Drivers and browsers leave directories there.
        command.env("TMPDIR", profile).stdin(Stdio::null()).stderr(Stdio::null());
        let process = spawn(&mut command, package);
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Http { process, addr, session: String::new(), chromium: None, _stdout: None }
    }

    pub fn open(mut self, capabilities: &Value) -> Result<Http, String> {
        let opened = self.command("/session", &json!({"capabilities": capabilities}))?;
        let id =
            opened["sessionId"].as_str().ok_or(format!("a session without an id: {opened}"))?;
        self.session = format!("/session/{id}");
        self.chromium = opened["capabilities"]["goog:processID"].as_u64();
        Ok(self)
    }

    pub fn command(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.send(if body.is_null() { "GET" } else { "POST" }, path, body)
    }

    /// Sends one command. Returns the `value` of its answer, or what went wrong in words.
    fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let answer = self.exchange(method, path, body);
        let mut answer = answer.map_err(|error| format!("no answer from the driver: {error}"))?;
        let value = answer["value"].take();
        if value["error"].is_null() { Ok(value) } else { Err(in_words(&value)) }
    }

    fn exchange(&self, method: &str, path: &str, body: &Value) -> io::Result<Value> {
        let mut stream = TcpStream::connect(self.addr)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        // One write: if the head and the body were apart, the body would wait until the head is
        // acknowledged.
        let request = format!(
            "{method} {}{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
             Content-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n\r\n{body}",
            self.session,
            self.addr,
            body.len(),
        );
        stream.write_all(request.as_bytes())?;
        read_answer(BufReader::new(stream))
    }

    /// Ends the session, and with it the browser. Ending only chromedriver would leave the browser
    /// running.
    fn stop(&mut self) {
        if !self.session.is_empty()
            && self.send("DELETE", "", &Value::Null).is_err()
            && let Some(pid) = self.chromium
        {
            let _ = Command::new("kill").arg("-KILL").arg(pid.to_string()).status();
        }
        self.session.clear();
        self.process.end();
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        // A driver whose session did not open has no `Browser` that would stop it.
        self.stop();
    }
}

/// Reads chromedriver's standard output up to "… was started successfully on port 41235.".
fn announced_port(stdout: &mut impl BufRead) -> Option<u16> {
    stdout.lines().map_while(Result::ok).find_map(|line| {
        let (_, port) = line.split_once("was started successfully on port ")?;
        port.trim_end_matches('.').parse().ok()
    })
}

/// Reads one HTTP answer, whose body has exactly `Content-Length` bytes, and parses its JSON. The
/// status is ignored, because the body tells of an error as well.
fn read_answer(mut stream: impl BufRead) -> io::Result<Value> {
    let mut length = None;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = Some(value.trim().parse::<usize>().map_err(invalid)?);
        }
    }
    let mut body = vec![0; length.ok_or_else(|| invalid("an answer without Content-Length"))?];
    stream.read_exact(&mut body)?;
    serde_json::from_slice(&body).map_err(invalid)
}

fn invalid(error: impl Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}
