//! The wall clock of one server, which can be set: `clock.c` under its process, and the file it obeys.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("../clock.c");

/// The shim, compiled into a run's directory.
#[derive(Debug, Clone)]
pub struct Shim(PathBuf);

impl Shim {
    /// Compiles it, or says why that cannot be.
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

/// How far one server's clock is off.
#[derive(Debug)]
pub struct Clock {
    shim: Shim,
    path: PathBuf,
    file: File,
    shift_ms: Cell<i64>,
}

impl Clock {
    /// One that is right.
    pub fn new(shim: Shim, path: PathBuf) -> Result<Clock, String> {
        let open = File::options().create(true).truncate(true).read(true).write(true).open(&path);
        let file = open.map_err(|error| format!("{}: {error}", path.display()))?;
        let clock = Clock { shim, path, file, shift_ms: Cell::new(0) };
        clock.set(0)?;
        Ok(clock)
    }

    /// How far it is off, in milliseconds.
    pub fn shift_ms(&self) -> i64 {
        self.shift_ms.get()
    }

    /// Sets it, at once, so far ahead of the time, or behind it.
    pub fn set(&self, shift_ms: i64) -> Result<(), String> {
        // Eight bytes at the start of a page: nobody can read half of them.
        let written = self.file.write_all_at(&shift_ms.to_ne_bytes(), 0);
        self.shift_ms.set(shift_ms);
        written.map_err(|error| format!("{}: {error}", self.path.display()))
    }

    /// Puts a program that is about to start under it.
    pub fn rule(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.shim.0).env("CLOCK_SHIFT_FILE", &self.path);
    }
}
