//! `log.level`: selects the log lines that are written. Checked at start-up, and whenever the level
//! is changed later.
//!
//! `Targets` takes any word for a target, so a misspelt level or target would silently log nothing.
//! Here such a word is an error.

use std::fmt;

use serde::Deserialize;
use strsim::damerau_levenshtein;
use tracing_subscriber::filter::Targets;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// The targets of this program's own lines: its modules, and two kinds of line that have a target
/// of their own, `publishing` and `streams`.
const OWN: [&str; 15] = [
    "sse_gateway::access",
    "sse_gateway::broker",
    "sse_gateway::config",
    "sse_gateway::feed",
    "sse_gateway::gateway",
    "sse_gateway::http",
    "sse_gateway::hub",
    "sse_gateway::logging",
    "sse_gateway::metrics",
    "sse_gateway::panics",
    "sse_gateway::publishing",
    "sse_gateway::stream",
    "sse_gateway::streams",
    "sse_gateway::vitals",
    "sse_gateway::worker",
];
/// The libraries in this program that log.
const LIBRARIES: [&str; 9] = [
    "actix_codec",
    "actix_http",
    "actix_router",
    "actix_server",
    "actix_web",
    "actix_web_lab",
    "h2",
    "hyper_util",
    "russe",
];
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
        None if !is_target(part) => return Err(format!("{part:?} is no level; {ALLOWED}")),
        None => (part, None),
        Some((target, level)) => (target, Some(level)),
    };
    if let Some(level) = level.filter(|level| !is_level(level)) {
        return Err(format!("{level:?} is no level; {ALLOWED}"));
    }
    if is_target(target) { Ok(()) } else { Err(unknown(target)) }
}

/// Whether lines can have this target. A filter takes a target for the beginning of others: `actix`
/// means `actix_http` and `actix_server`.
fn is_target(text: &str) -> bool {
    let within = |known: &str| text.strip_prefix(known).is_some_and(|rest| rest.starts_with("::"));
    let mut all = OWN.iter().chain(&LIBRARIES);
    !text.is_empty() && all.any(|known| known.starts_with(text) || within(known))
}

/// Says that nothing has this target, with the nearest one, or all.
fn unknown(target: &str) -> String {
    let crates = ["sse_gateway"].into_iter().chain(LIBRARIES);
    let near = crates.clone().chain(OWN).map(|known| (damerau_levenshtein(target, known), known));
    match near.filter(|(distance, _)| *distance <= 2).min() {
        Some((_, near)) => format!("nothing is logged by {target:?}; the nearest target is {near}"),
        None if target.starts_with("sse_gateway::") => {
            format!("nothing is logged by {target:?}; there are {}", OWN.join(", "))
        }
        None => {
            let all: Vec<&str> = crates.collect();
            format!("nothing is logged by {target:?}; lines come from {}", all.join(", "))
        }
    }
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
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

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
            "info,sse_gateway::broker::redis=trace",
            "actix=debug,info",
            "h2::proto=debug, info",
        ] {
            read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
        assert_eq!(read(" h2=debug , info ").unwrap(), read("h2=debug,info").unwrap());
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
        for (text, told) in [
            ("inof", "\"inof\" is no level"),
            ("sse_gatway=debug", "the nearest target is sse_gateway"),
            ("info,sse_gateway::strems=debug", "the nearest target is sse_gateway::streams"),
            ("info,sse_gateway::nothing=debug", "sse_gateway::broker, sse_gateway::config"),
            ("actix_htp=debug", "the nearest target is actix_http"),
            ("info,sqlx=debug", "lines come from sse_gateway, actix_codec"),
            ("=debug", "nothing is logged by \"\""),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    fn file(path: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
    }

    /// The names in a manifest's `[dependencies]`.
    fn dependencies(manifest: &str) -> Vec<String> {
        let text = file(manifest);
        let part = text.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
        let lines = part.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()));
        lines.map(|line| line.split(['.', ' ']).next().unwrap().to_owned()).collect()
    }

    /// The packages of Cargo.lock, each with what it depends on. Packages of this repository have
    /// what their tests need in it, too, so their manifests are read instead.
    fn packages() -> BTreeMap<String, Vec<String>> {
        let mut packages = BTreeMap::<String, Vec<String>>::new();
        for package in file("../Cargo.lock").split("[[package]]\n").skip(1) {
            let quoted = |line: &str| line.split('"').nth(1).map(str::to_owned);
            let name = package.lines().find_map(|line| quoted(line.strip_prefix("name = ")?));
            let needs =
                package.lines().filter_map(|line| quoted(line.strip_prefix(" \"").map(|_| line)?));
            let needs = needs.map(|need| need.split(' ').next().unwrap().to_owned());
            packages.entry(name.unwrap()).or_default().extend(needs);
        }
        for (name, manifest) in [
            ("sse-gateway", "Cargo.toml"),
            ("sse-contract", "../contract/Cargo.toml"),
            ("sse-token", "../token/Cargo.toml"),
        ] {
            packages.insert(name.to_owned(), dependencies(manifest));
        }
        packages
    }

    /// Lines of the crate `log` do not reach this program's log, so only crates that use `tracing`
    /// count.
    #[test]
    fn the_known_libraries_are_those_that_can_log() {
        let (packages, mut linked) = (packages(), BTreeSet::new());
        let mut left = vec!["sse-gateway".to_owned()];
        while let Some(name) = left.pop() {
            let needs = packages.get(&name).unwrap_or_else(|| panic!("{name} is not locked"));
            if linked.insert(name) {
                left.extend(needs.iter().cloned());
            }
        }
        assert!(!packages.contains_key("tracing-log"), "then those that use `log` count as well");
        let logs = |name: &&String| packages[*name].iter().any(|need| need == "tracing");
        let logging = linked.iter().filter(logs).filter(|name| *name != "sse-gateway");
        let logging: Vec<String> = logging.map(|name| name.replace('-', "_")).collect();
        assert_eq!(logging, LIBRARIES);
    }

    #[test]
    fn the_known_targets_are_the_modules_and_what_the_source_names() {
        let modules = file("src/lib.rs");
        let modules = modules.lines().filter_map(|line| {
            let line = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
            Some(format!("sse_gateway::{}", line.strip_prefix("mod ")?.trim_end_matches(';')))
        });
        let mut expected: BTreeSet<String> = modules.collect();
        for source in ["src/http/trace.rs", "src/stream/story.rs"] {
            let text = file(source);
            let name = text.split("= \"sse_gateway::").nth(1).expect("a target of its own");
            expected.insert(format!("sse_gateway::{}", name.split('"').next().unwrap()));
        }
        assert_eq!(OWN.map(str::to_owned).into_iter().collect::<BTreeSet<_>>(), expected);
    }
}
