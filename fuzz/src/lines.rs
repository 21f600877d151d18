//! The lines of `auth.keys` and `auth.jwt.keys`, valid or not: no message and no debug output
//! contains the secret in a line.
//!
//! Input: the text before the secret, 0xFF, the text after it.

use sse_gateway::access::api_key::ApiKeys;
use sse_gateway::access::issuers::Issuers;
use sse_gateway::config::api_key_line::ApiKeyLine;
use sse_gateway::config::issuer_line::IssuerLine;
use sse_gateway::config::words::shown;

use crate::{parts, text};

const SECRET: &str = "Zq8-correct-horse-battery-staple-7Xk";

/// Reads the lines as both kinds.
pub fn run(data: &[u8]) {
    let [before, behind] = parts(data).map(text);
    if before.contains(SECRET) || behind.contains(SECRET) {
        return;
    }
    for line in [
        format!("{before} secret={SECRET} {behind}"),
        format!("{before} hash={SECRET} {behind}"),
        format!("{before} {SECRET} {behind}"),
        before.clone(),
    ] {
        is_kept(&shown(&line));
        match IssuerLine::try_from(line.clone()) {
            Ok(read) => {
                is_kept(&format!("{read:?}"));
                // Only lines that contain the secret: other lines might make it open a path from
                // the input.
                if line.contains(SECRET) {
                    match Issuers::new(&[read], 0, false) {
                        Ok(issuers) => is_kept(&format!("{issuers:?}")),
                        Err(error) => is_kept(&error),
                    }
                }
            }
            Err(error) => is_kept(&error),
        }
        match ApiKeyLine::try_from(line.clone()) {
            Ok(read) => {
                is_kept(&format!("{read:?}"));
                let twice = ApiKeys::new(&[read.clone(), read]).expect_err("it stands there twice");
                is_kept(&twice);
            }
            Err(error) => is_kept(&error),
        }
    }
}

fn is_kept(said: &str) {
    assert!(!said.contains(SECRET), "{said}");
}
