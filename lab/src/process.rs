//! Child processes that are killed when their owner is dropped.

use std::fs::File;
use std::io::Read;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// A running program. Dropping it ends the program.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// How long the program has to end after SIGTERM; none: it is killed at once.
    grace: Option<Duration>,
}

/// Starts a program of the Debian package `package`. Panics if the program is missing, and names
/// the package to install.
#[track_caller]
pub fn spawn(command: &mut Command, package: &str) -> Process {
    Process::start(command).unwrap_or_else(|error| {
        panic!("{error}; install {package}, or run scripts/test, which does")
    })
}

impl Process {
    /// Starts a program.
    pub fn start(command: &mut Command) -> Result<Process, String> {
        match command.spawn() {
            Ok(child) => Ok(Process { child, grace: None }),
            Err(error) => Err(format!("{:?} does not start: {error}", command.get_program())),
        }
    }

    /// Starts a program without input. Its output is appended to the file `log`.
    pub fn logged(command: &mut Command, log: &Path) -> Result<Process, String> {
        let open = || File::options().create(true).append(true).open(log);
        let files = open().and_then(|out| Ok((out, open()?)));
        let (out, err) = files.map_err(|error| format!("{}: {error}", log.display()))?;
        Process::start(command.stdin(Stdio::null()).stdout(out).stderr(err))
    }

    /// Makes [`Process::end`] send SIGTERM first, and kill the program only if it still runs after
    /// `grace`. Some programs, such as nginx, leave their workers behind when they are killed.
    pub fn gently(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Sends a signal to this process, not to its children.
    pub fn signal(&self, signal: Signal) {
        // Fails if the process has just ended; callers that need to know use `ended`.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Reads standard output, which must be piped, until the program ends it.
    #[track_caller]
    pub fn said(mut self) -> String {
        let mut text = String::new();
        let mut output = self.child.stdout.take().expect("it is piped");
        output.read_to_string(&mut text).expect("text");
        text
    }

    /// The exit status, or none while the program runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until the program ends, for `bound` at most. None if it still runs.
    pub fn ends_within(&mut self, bound: Duration) -> Option<ExitStatus> {
        let ended = self.ended();
        if ended.is_some() {
            return ended;
        }
        let pid = Pid::from_child(&self.child);
        if let (Ok(end), Ok(bound)) =
            (pidfd_open(pid, PidfdFlags::empty()), Timespec::try_from(bound))
        {
            let _ = poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&bound));
        }
        self.ended()
    }

    /// Ends the program and waits for it.
    pub fn end(&mut self) {
        if let Some(grace) = self.grace
            && self.ended().is_none()
        {
            self.signal(Signal::TERM);
            self.ends_within(grace);
        }
        // Both fail only if the process has ended. SIGKILL also ends a stopped process.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Deref for Process {
    type Target = Child;
    fn deref(&self) -> &Child {
        &self.child
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
