//! Programs that were started: none outlives its owner.

use std::fs::File;
use std::io::Read;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// A running program, ended when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// How long it may take to end by itself.
    grace: Option<Duration>,
}

/// Starts a program of Debian's `package`; one that is missing fails the test with what to install.
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

    /// Starts a program without input; what it prints is appended to a file.
    pub fn logged(command: &mut Command, log: &Path) -> Result<Process, String> {
        let open = || File::options().create(true).append(true).open(log);
        let files = open().and_then(|out| Ok((out, open()?)));
        let (out, err) = files.map_err(|error| format!("{}: {error}", log.display()))?;
        Process::start(command.stdin(Stdio::null()).stdout(out).stderr(err))
    }

    /// When it is to end, SIGTERM asks it; it is killed if it is still there after so long. A master
    /// that is killed outright, nginx' for one, leaves its workers behind.
    pub fn gently(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Sends a signal to this process alone.
    pub fn signal(&self, signal: Signal) {
        // It may have ended a moment ago; whoever needs to know asks `ended`.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// All that it prints until it ends, where its standard output is piped.
    #[track_caller]
    pub fn said(mut self) -> String {
        let mut text = String::new();
        let mut output = self.child.stdout.take().expect("it is piped");
        output.read_to_string(&mut text).expect("text");
        text
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end, for so long at most.
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

    /// Ends it now.
    pub fn end(&mut self) {
        if let Some(grace) = self.grace
            && self.ended().is_none()
        {
            self.signal(Signal::TERM);
            self.ends_within(grace);
        }
        // Both fail only where it is gone already. SIGKILL ends a stopped process as well.
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
