//! Programs that a run starts: none outlives it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::{clock, proc};

/// A running program, ended when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program with these variables alone beside `PATH`; what it prints goes to a file. Should
    /// this process be killed, the kernel ends that one, too: `setpriv`, whose place it takes, says so.
    pub fn start(
        program: &Path,
        args: &[String],
        variables: &[(String, String)],
        log: PathBuf,
    ) -> Result<Process, String> {
        let out = File::create(&log).and_then(|out| Ok((out.try_clone()?, out)));
        let (out, err) = out.map_err(|error| format!("{}: {error}", log.display()))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(program).args(args);
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.envs(variables.iter().cloned());
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = command.spawn();
        let child =
            child.map_err(|error| format!("{} does not start: {error}", program.display()))?;
        Ok(Process { child, log })
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Why it ended, if it did: the end of what it printed.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        Some(format!("{status}: {}", last.into_iter().rev().collect::<Vec<_>>().join(" | ")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Asked first: a master that is killed outright, nginx' for one, leaves its workers behind.
        // Those that outlive it all the same are found by descriptors, as a number may be another's by then.
        let below: Vec<OwnedFd> = proc::tree(self.id()).iter().skip(1).filter_map(opened).collect();
        if let Some(pid) = Pid::from_raw(self.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        for _ in 0..100 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            clock::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        for process in below {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }
}

fn opened(pid: &u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(*pid as i32)?, PidfdFlags::empty()).ok()
}

/// A temporary directory, removed with its owner.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new one.
    pub fn new() -> Result<Scratch, String> {
        let name = format!("sse-bench-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Scratch(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
