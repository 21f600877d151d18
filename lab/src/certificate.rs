//! Self-signed certificates.

use std::path::Path;
use std::process::Command;

/// Writes a self-signed certificate for `localhost` and 127.0.0.1, valid for two days, and its key
/// to these paths.
pub fn certify(certificate: &Path, key: &Path) -> Result<(), String> {
    let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
                 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
                 -addext basicConstraints=critical,CA:FALSE";
    let mut openssl = Command::new("openssl");
    openssl.args(words.split_whitespace()).arg("-keyout").arg(key).arg("-out").arg(certificate);
    let output = openssl.output().map_err(|error| format!("openssl does not start: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("openssl: {}", String::from_utf8_lossy(&output.stderr))),
    }
}
