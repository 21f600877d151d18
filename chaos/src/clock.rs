//! The settable wall clock of one server: `clock.c` is preloaded into its process and reads a file.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("../clock.c");

/// `clock.c`, compiled into a run's directory.
#[derive(Debug, Clone)]
pub struct Shim(PathBuf);

impl Shim {
    /// Compiles `clock.c`. The error says why that fails.
    pub fn compile(dir: &Path) -> Result<Shim, String> {
        let (source, object) = (dir.join("clock.c"), dir.join("clock.so"));
        std::fs::write(&source, SOURCE).map_err(|error| error.to_string())?;
        let mut command = Command::new("cc");
        command.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&object).arg(&source);
        let output = command.output().map_err(|error| format!("cc: {error}"))?;
        if !output.status.success() {
            return Err(format!("cc: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        Ok(Shim(object))
    }
}

/// One server's clock and its offset.
#[derive(Debug)]
pub struct Clock {
    shim: Shim,
    path: PathBuf,
    file: File,
    shift_ms: Cell<i64>,
}

impl Clock {
    /// A clock with offset 0.
    pub fn new(shim: Shim, path: PathBuf) -> Result<Clock, String> {
        let open = File::options().create(true).truncate(true).read(true).write(true).open(&path);
        let file = open.map_err(|error| format!("{}: {error}", path.display()))?;
        let clock = Clock { shim, path, file, shift_ms: Cell::new(0) };
        clock.set(0)?;
        Ok(clock)
    }

    /// The offset from the true time, in milliseconds.
    pub fn shift_ms(&self) -> i64 {
        self.shift_ms.get()
    }

    /// Sets the offset from the true time, in milliseconds; positive is ahead. Takes effect at
    /// once.
    pub fn set(&self, shift_ms: i64) -> Result<(), String> {
        // Eight aligned bytes within a page, so no reader sees half of them.
        let written = self.file.write_all_at(&shift_ms.to_ne_bytes(), 0);
        self.shift_ms.set(shift_ms);
        written.map_err(|error| format!("{}: {error}", self.path.display()))
    }

    /// Makes a program that is about to start use this clock.
    pub fn rule(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.shim.0).env("CLOCK_SHIFT_FILE", &self.path);
    }
}
