//! Temporary directories that are removed with their owner.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A temporary directory. Dropping it removes the directory, unless [`Scratch::keep`] was called.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// Creates a directory with `word` in its name.
    #[track_caller]
    pub fn new(word: &str) -> Self {
        let name = format!("sse-{word}-{}-{:x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Scratch { path, keep: false }
    }

    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the directory, for example so that its logs can be read.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Removal fails while a browser's helper processes still write files, so it is retried for
        // a second.
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
