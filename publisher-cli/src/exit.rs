//! The exit codes, which `--help` documents.

/// Everything that was asked for happened.
pub const OK: u8 = 0;
/// Something was not published, or the stream ended for good.
pub const FAILED: u8 = 1;
/// Nothing was sent, because no connection could be made.
pub const NO_CONNECTION: u8 = 2;
/// The command line cannot be understood (`EX_USAGE`).
pub const USAGE: u8 = 64;
/// Ended by Ctrl-C (128 + SIGINT).
pub const INTERRUPTED: u8 = 130;

/// Why there is nothing to do, or no way to do it.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// For people.
    pub why: String,
}

impl Failure {
    /// The machine cannot do it.
    pub fn new(code: u8, why: impl std::fmt::Display) -> Self {
        Failure { code, why: why.to_string() }
    }
}

impl From<String> for Failure {
    /// What is only told in words is a fault of the command line.
    fn from(why: String) -> Self {
        Failure { code: USAGE, why }
    }
}
