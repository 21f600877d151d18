//! `plain-actix`, a server in this workspace (see `bench/rivals/plain-actix`).

use std::path::PathBuf;

use super::{Server, StartError};

/// The versions that it was built with.
const LOCK: &str = include_str!("../../../Cargo.lock");

impl Server {
    /// Starts plain-actix.
    pub(super) fn plain_actix(&mut self) -> Result<(), StartError> {
        self.run(&program()?, &[self.addr.to_string()], &[], self.addr)
    }
}

/// The version of actix-web.
pub fn version() -> Result<String, StartError> {
    program()?;
    Ok(format!("actix-web {}", locked(LOCK, "actix-web").unwrap_or("unknown")))
}

/// The program next to this one, where cargo puts both.
fn program() -> Result<PathBuf, StartError> {
    let own = std::env::current_exe().map_err(|error| StartError::Failed(error.to_string()))?;
    let path = own.with_file_name("plain-actix");
    let missing = "no plain-actix beside sse-bench; cargo builds it: --package plain-actix";
    if path.is_file() { Ok(path) } else { Err(StartError::Unavailable(missing.to_owned())) }
}

fn locked<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    rest.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_the_lock() {
        let lock = "[[package]]\nname = \"a-b\"\nversion = \"1.2.3\"\n\n[[package]]\nname = \"a\"\nversion = \"4.5.6\"\n";
        assert_eq!(locked(lock, "a"), Some("4.5.6"));
        assert!(locked(LOCK, "actix-web").is_some());
    }
}
