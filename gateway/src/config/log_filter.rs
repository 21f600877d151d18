//! `log.level`: selects the log lines that are written. Checked at start-up.
//!
//! `Targets` parses an unknown bare word as a target, so a misspelt level would silently log
//! nothing. Here such a word is an error.

use std::fmt;

use serde::Deserialize;
use strsim::damerau_levenshtein;
use tracing_subscriber::filter::Targets;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// The crates of this program that log.
const OURS: [&str; 2] = ["sse_gateway", "sse_contract"];
const ALLOWED: &str = "write a level (off, error, warn, info, debug, trace), or levels by target such as \
                       sse_gateway=debug,warn";

/// A valid filter and its text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct LogFilter {
    text: String,
    targets: Targets,
}

impl LogFilter {
    /// The parsed filter.
    pub fn targets(&self) -> &Targets {
        &self.targets
    }
}

impl TryFrom<String> for LogFilter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        for part in &parts {
            check(part)?;
        }
        let text = parts.join(",");
        let targets = text.parse().map_err(|error| format!("{error}; {ALLOWED}"))?;
        Ok(LogFilter { text, targets })
    }
}

/// Checks one comma-separated part.
fn check(part: &str) -> Result<(), String> {
    let is_level = |text: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text));
    if part.is_empty() {
        return Err(format!("a part is empty; {ALLOWED}"));
    }
    let (target, level) = match part.split_once('=') {
        None if is_level(part) => return Ok(()),
        None if !OURS.contains(&first_part(part)) => {
            return Err(format!("{part:?} is no level; {ALLOWED}"));
        }
        None => (part, None),
        Some((target, level)) => (target, Some(level)),
    };
    if let Some(level) = level.filter(|level| !is_level(level)) {
        return Err(format!("{level:?} is no level; {ALLOWED}"));
    }
    let close = |ours: &&&str| (1..=2).contains(&damerau_levenshtein(first_part(target), ours));
    if let Some(ours) = OURS.iter().find(close) {
        return Err(format!("nothing is logged by {target:?}; the nearest target is {ours}"));
    }
    Ok(())
}

fn first_part(target: &str) -> &str {
    target.split_once("::").map_or(target, |(first, _)| first)
}

impl AsRef<str> for LogFilter {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let filter = LogFilter::try_from(text.to_owned())?;
        Ok(filter.targets().to_string())
    }

    #[test]
    fn what_names_levels_and_targets_is_taken() {
        for text in [
            "info",
            "OFF",
            "info,actix_server=warn",
            "sse_gateway=debug,warn",
            "sse_gateway",
            "info,sse_gateway::streams=debug",
            "redis=debug, info",
        ] {
            read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
        assert_eq!(read(" redis=debug , info ").unwrap(), read("redis=debug,info").unwrap());
    }

    #[test]
    fn what_would_log_nothing_is_refused_with_the_levels() {
        for (text, culprit) in [
            ("loud", "\"loud\" is no level"),
            ("a=b=c", "\"b=c\" is no level"),
            ("info,sse_gateway=lots", "\"lots\" is no level"),
            ("", "a part is empty"),
            ("info,", "a part is empty"),
            ("sse_gateway=", "\"\" is no level"),
            ("'info'", "is no level"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(culprit), "{text}: {error}");
            assert!(error.contains("off, error, warn, info, debug, trace"), "{text}: {error}");
        }
        let error = read("sse_gatway=debug").unwrap_err();
        assert!(error.contains("the nearest target is sse_gateway"), "{error}");
    }
}
