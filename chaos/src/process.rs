//! Programs that the suite started: none outlives it.

use std::fs::File;
use std::io::PipeReader;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A running program, killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// What nobody reads.
    _unread: Option<PipeReader>,
}

/// Who reads what a program says on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// It goes to a file.
    File,
    /// Nobody any more.
    Gone,
    /// Somebody who has stopped to.
    Stalled,
}

impl Process {
    /// Starts a program; what it prints is appended to a file.
    pub fn start(command: &mut Command, log: &Path) -> Result<Process, String> {
        Self::start_read_by(command, log, Reader::File)
    }

    /// Starts a program whose standard error is read so.
    pub fn start_read_by(
        command: &mut Command,
        log: &Path,
        reader: Reader,
    ) -> Result<Process, String> {
        let open = || File::options().create(true).append(true).open(log);
        let (mut held, out) = (None, open());
        let err = match reader {
            Reader::File => open().map(Stdio::from),
            Reader::Gone => std::io::pipe().map(|(_, writer)| writer.into()),
            Reader::Stalled => std::io::pipe().map(|(reader, writer)| {
                held = Some(reader);
                writer.into()
            }),
        };
        let out = out.and_then(|out| Ok((out, err?)));
        let (out, err) = out.map_err(|error| format!("{}: {error}", log.display()))?;
        let program = command.get_program().to_owned();
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = command.spawn();
        let child = child.map_err(|error| format!("{program:?} does not start: {error}"))?;
        Ok(Process { child, _unread: held })
    }

    /// Sends a signal to this process alone.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            // It may have ended a moment ago; whoever needs to know asks `ended`.
            let _ = kill_process(pid, signal);
        }
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end, for so long at most.
    pub async fn wait(&mut self, bound: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + bound;
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if Instant::now() > end {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL ends a stopped process as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A temporary directory, removed with its owner unless it is worth keeping.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// A new one.
    pub fn new() -> Result<Scratch, String> {
        let name = format!("sse-chaos-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Scratch { path, keep: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it there: somebody will want to read the logs.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
