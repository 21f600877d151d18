//! Temporary directories that go with their owner.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A temporary directory, removed with its owner unless it is worth keeping.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// A new one, with this word in its name.
    #[track_caller]
    pub fn new(word: &str) -> Self {
        let name = format!("sse-{word}-{}-{:x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Scratch { path, keep: false }
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
        // A browser's helpers may still write a last file meanwhile, and the removal then fails.
        for _ in 0..if self.keep { 0 } else { 50 } {
            match std::fs::remove_dir_all(&self.path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                _ => return,
            }
        }
    }
}
