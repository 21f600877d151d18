//! The programs that a run starts. None outlives the run.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sse_lab::process;

use crate::proc;

/// How long a program has to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(1);

/// A running program. Dropping this ends the program and its descendants.
#[derive(Debug)]
pub struct Process {
    process: process::Process,
    log: PathBuf,
}

impl Process {
    /// Starts a program, which writes its output to the file `log`. Its environment has `PATH` and
    /// the variables of the command, nothing else.
    ///
    /// The program starts through `setpriv`, so that the kernel ends it if this process is killed.
    pub fn start(program: &Command, log: PathBuf) -> Result<Process, String> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(program.get_program());
        command.args(program.get_args());
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let process = process::Process::logged(&mut command, &log)?.gently(GRACE);
        Ok(Process { process, log })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The exit status and the last lines of output, if the program has ended.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.process.ended()?;
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        Some(format!("{status}: {}", last.into_iter().rev().collect::<Vec<_>>().join(" | ")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Descendants that outlive the program are killed through descriptors, because their
        // process ids may have been reused by then.
        let below: Vec<OwnedFd> = proc::tree(self.id()).iter().skip(1).filter_map(opened).collect();
        self.process.end();
        for process in below {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }
}

fn opened(pid: &u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(*pid as i32)?, PidfdFlags::empty()).ok()
}
