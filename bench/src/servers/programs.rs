//! Finds the programs of the servers and asks them for their versions.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::StartError;

/// Directories where Debian installs servers, and which only root has on its `PATH`.
const MORE: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The path of a program: what the environment variable says if it is set, or else the first on
/// `PATH`.
pub fn find(name: &str, variable: Option<&str>) -> Result<PathBuf, StartError> {
    if let Some((variable, path)) = variable.and_then(|name| Some((name, env::var_os(name)?))) {
        let path = PathBuf::from(path);
        let missing =
            || StartError::Failed(format!("{variable}={}: no such program", path.display()));
        return path.canonicalize().ok().filter(|path| path.is_file()).ok_or_else(missing);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(MORE.map(PathBuf::from));
    let found = dirs.map(|dir| dir.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| StartError::Unavailable(format!("no {name} on PATH")))
}

/// The first line that a program prints, on standard output or else on standard error.
pub fn says(program: &Path, args: &[&str]) -> Result<String, StartError> {
    let failed = |error| StartError::Failed(format!("{}: {error}", program.display()));
    let output = Command::new(program).args(args).output().map_err(failed)?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    Ok(line.unwrap_or("tells no version").to_owned())
}

/// The name and version of an installed Debian package.
pub fn package(name: &str) -> Result<String, StartError> {
    let query = find("dpkg-query", None)?;
    Ok(format!("{name} {}", says(&query, &["--show", "--showformat=${Version}", name])?))
}
