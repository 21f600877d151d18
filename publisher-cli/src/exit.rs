//! The exit codes, which `--help` documents, and the error that carries one.

/// Everything was done that was asked for.
pub const OK: u8 = 0;
/// Something failed, or its outcome is unknown.
pub const FAILED: u8 = 1;
/// Nothing was sent, because no connection could be made.
pub const NO_CONNECTION: u8 = 2;
/// A gap came, and `tail` was to end at the first.
pub const GAP: u8 = 3;
/// The command line, the environment or the configuration file is wrong (`EX_USAGE`).
pub const USAGE: u8 = 64;
/// Ended by Ctrl-C (128 + SIGINT).
pub const INTERRUPTED: u8 = 130;

/// An error that ends the program, with the exit code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// A text for people.
    pub why: String,
}

impl Failure {
    /// A failure with its own exit code.
    pub fn new(code: u8, why: impl std::fmt::Display) -> Self {
        Failure { code, why: why.to_string() }
    }
}

impl From<String> for Failure {
    /// An error that is only a text is a mistake in the command line, the environment or
    /// the configuration file.
    fn from(why: String) -> Self {
        Failure { code: USAGE, why }
    }
}
