//! Runs the binary without the `SSE_` variables of the test's own environment.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// The result of a finished run.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Run {
    /// The lines on stdout, parsed as JSON.
    pub fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A run that has not ended.
pub struct Running {
    pub child: Child,
    pub input: Option<ChildStdin>,
    pub output: Option<BufReader<ChildStdout>>,
    pub errors: BufReader<ChildStderr>,
}

pub fn start(arguments: &[&str]) -> Running {
    start_with(arguments, &[])
}

/// Starts a line of a shell, in which `sse-publish` is the binary, in a directory that is also the
/// home.
pub fn start_shell(line: &str, directory: &Path, url: &str) -> Running {
    let binary = Path::new(env!("CARGO_BIN_EXE_sse-publish")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(directory);
    let variables =
        [("PATH", path.as_ref()), ("HOME", directory.as_os_str()), ("SSE_URL", url.as_ref())];
    spawn(command, &variables)
}

/// Starts the binary with these additional environment variables.
fn start_with(arguments: &[&str], variables: &[(&str, &OsStr)]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sse-publish"));
    command.args(arguments);
    spawn(command, variables)
}

fn spawn(mut command: Command, variables: &[(&str, &OsStr)]) -> Running {
    // Without a home there is no configuration file of whoever runs the tests.
    for name in ["HOME", "XDG_CONFIG_HOME", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TRACEPARENT"]
    {
        command.env_remove(name);
    }
    for name in ["URL", "REDIS", "TOKEN", "KEY", "PUBLISH_PROFILE", "PUBLISH_CONFIG"] {
        command.env_remove(format!("SSE_{name}"));
    }
    let mut child = command
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let input = child.stdin.take();
    let output = child.stdout.take().map(BufReader::new);
    let errors = BufReader::new(child.stderr.take().unwrap());
    Running { child, input, output, errors }
}

impl Running {
    /// Writes a line to the program's input and keeps the input open.
    pub fn write(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{line}").unwrap();
        input.flush().unwrap();
    }

    /// Waits for a line on stdout.
    pub fn read(&mut self) -> String {
        let mut line = String::new();
        self.output.as_mut().unwrap().read_line(&mut line).unwrap();
        line
    }

    /// Waits for a line on stderr.
    pub fn read_error(&mut self) -> String {
        let mut line = String::new();
        self.errors.read_line(&mut line).unwrap();
        line
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub fn interrupt(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    }

    /// Closes the program's input and waits for its end.
    pub fn finish(mut self) -> Run {
        drop(self.input.take());
        let mut out = String::new();
        if let Some(output) = &mut self.output {
            output.read_to_string(&mut out).unwrap();
        }
        let mut err = String::new();
        self.errors.read_to_string(&mut err).unwrap();
        let status = self.child.wait().unwrap();
        Run { code: status.code().unwrap(), out, err }
    }
}

/// Runs the binary to its end. It trusts only this certificate.
pub fn run_trusting(certificate: &Path, arguments: &[&str]) -> Run {
    start_with(arguments, &[("SSL_CERT_FILE", certificate.as_os_str())]).finish()
}

/// Runs the binary to its end, with these environment variables and no input.
pub fn run_with(variables: &[(&str, &str)], arguments: &[&str]) -> Run {
    let variables: Vec<(&str, &OsStr)> =
        variables.iter().map(|(name, value)| (*name, OsStr::new(value))).collect();
    start_with(arguments, &variables).finish()
}

/// Runs the binary to its end, with this input.
pub fn run(arguments: &[&str], input: &str) -> Run {
    let mut running = start(arguments);
    // The program may end without reading everything, and some tests expect that.
    running.input.as_mut().unwrap().write_all(input.as_bytes()).ok();
    running.finish()
}
