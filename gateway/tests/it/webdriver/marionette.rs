//! Firefox for tests, by Marionette, the protocol that is built into it. Debian has no
//! `geckodriver`, which would only translate WebDriver into Marionette.
//!
//! A message is `LENGTH:JSON` on a TCP connection. A command is `[0, number, name, parameters]`,
//! its answer `[1, number, error, result]`. Names and parameters are WebDriver's, so a command is
//! given by WebDriver's path. A [`Marionette`] owns the Firefox process and ends it when it is
//! dropped.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{ANSWER_TIMEOUT, in_words};
use crate::support::{Process, eventually, spawn};

/// A running Firefox with one session, and the connection that commands it.
pub struct Marionette {
    // Firefox's other processes end by themselves when this one is gone.
    process: Process,
    stream: TcpStream,
}

impl Marionette {
    /// Starts Firefox on a free port, which Firefox writes into its profile.
    #[track_caller]
    pub fn start(profile: &Path) -> Marionette {
        fs::write(profile.join("user.js"), "user_pref(\"marionette.port\", 0);\n").unwrap();
        let mut command = Command::new("firefox-esr");
        command.args(["--headless", "--marionette", "--no-remote", "--profile"]).arg(profile);
        // From its own start page Firefox would not go to a `data:` address.
        command.arg("about:blank");
        command.env("HOME", profile).env("TMPDIR", profile);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = spawn(&mut command, "firefox-esr");
        let mut stream = None;
        eventually("Firefox takes connections, or ended", || {
            let port = fs::read_to_string(profile.join("MarionetteActivePort")).unwrap_or_default();
            let port = port.parse::<u16>().ok();
            stream = port.and_then(|port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok());
            stream.is_some() || process.try_wait().is_ok_and(|ended| ended.is_some())
        });
        let Some(stream) = stream else { panic!("Firefox ended: {:?}", process.wait()) };
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        Marionette { process, stream }
    }

    pub fn open(self, capabilities: &Value) -> Result<Marionette, String> {
        // Firefox speaks first, with a greeting.
        self.receive().map_err(|error| format!("no greeting from Firefox: {error}"))?;
        self.call("WebDriver:NewSession", &json!({"capabilities": capabilities}))?;
        Ok(self)
    }

    /// Runs the command that WebDriver knows by this path.
    pub fn command(&self, path: &str, body: &Value) -> Result<Value, String> {
        let mut parameters = if body.is_null() { json!({}) } else { body.clone() };
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        if let ["element", id, _] = parts[..] {
            parameters["id"] = json!(id);
        }
        let name = match parts[..] {
            ["url"] => "Navigate",
            ["execute", "sync"] => "ExecuteScript",
            ["execute", "async"] => "ExecuteAsyncScript",
            ["element"] => "FindElement",
            ["element", _, "click"] => "ElementClick",
            ["element", _, "clear"] => "ElementClear",
            ["element", _, "value"] => "ElementSendKeys",
            ["element", _, "text"] => "GetElementText",
            _ => unreachable!("no command for Firefox: {path}"),
        };
        self.call(&format!("WebDriver:{name}"), &parameters)
    }

    /// Firefox's own process.
    pub fn pid(&self) -> u64 {
        self.process.id().into()
    }

    /// Commands go one at a time, so all may have the same number.
    fn call(&self, name: &str, parameters: &Value) -> Result<Value, String> {
        let message = json!([0, 1, name, parameters]).to_string();
        let message = format!("{}:{message}", message.len());
        let answer = (&self.stream).write_all(message.as_bytes()).and_then(|()| self.receive());
        let mut answer = answer.map_err(|error| format!("no answer from Firefox: {error}"))?;
        if !answer[2].is_null() {
            return Err(in_words(&answer[2]));
        }
        let mut result = answer[3].take();
        // The answer to `NewSession` has no `value` around it.
        Ok(result.get_mut("value").map(Value::take).unwrap_or(result))
    }

    fn receive(&self) -> io::Result<Value> {
        let mut stream = &self.stream;
        let (mut length, mut byte) = (0, [0]);
        loop {
            stream.read_exact(&mut byte)?;
            match byte[0] {
                b':' => break,
                digit => length = 10 * length + usize::from(digit - b'0'),
            }
        }
        let mut message = vec![0; length];
        stream.read_exact(&mut message)?;
        Ok(serde_json::from_slice(&message)?)
    }
}
