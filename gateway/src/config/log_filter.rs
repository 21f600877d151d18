//! `log.level`: selects the log lines that are written. Checked at start-up, and whenever the level
//! is changed later.
//!
//! `Targets` takes any word for a target, so a misspelt level or target would silently log nothing.
//! Here such a word is an error.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use strsim::damerau_levenshtein;
use tracing_subscriber::filter::Targets;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// The targets of this program's own lines: the modules that log, and two kinds of line that have a
/// target of their own, `publishing` and `streams`.
const OWN: [&str; 33] = [
    "sse_gateway",
    "sse_gateway::access::admission",
    "sse_gateway::access::cluster_streams",
    "sse_gateway::access::forward",
    "sse_gateway::access::key_set",
    "sse_gateway::broker::redis::calls",
    "sse_gateway::broker::redis::cluster",
    "sse_gateway::broker::redis::dispatch",
    "sse_gateway::broker::redis::history",
    "sse_gateway::broker::redis::ingest",
    "sse_gateway::broker::redis::library",
    "sse_gateway::broker::redis::outage",
    "sse_gateway::broker::redis::preparation",
    "sse_gateway::broker::redis::publish",
    "sse_gateway::broker::redis::publish_thread",
    "sse_gateway::broker::redis::sentinel",
    "sse_gateway::gateway::drain",
    "sse_gateway::http::app",
    "sse_gateway::http::arrival",
    "sse_gateway::http::certificate",
    "sse_gateway::http::log_level",
    "sse_gateway::http::readiness",
    "sse_gateway::http::revoke",
    "sse_gateway::http::subscribe",
    "sse_gateway::http::takeover",
    "sse_gateway::hub",
    "sse_gateway::hub::rejoin",
    "sse_gateway::panics",
    "sse_gateway::publishing",
    "sse_gateway::streams",
    "sse_gateway::supervisor",
    "sse_gateway::telemetry::collector",
    "sse_gateway::telemetry::spans",
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
        None if part.contains("::") => (part, None),
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
/// means `actix_http` and `actix_server`. The modules of a library are not known.
fn is_target(text: &str) -> bool {
    let within = |known: &str| text.strip_prefix(known).is_some_and(|rest| rest.starts_with("::"));
    let begins_one = OWN.iter().chain(&LIBRARIES).any(|known| known.starts_with(text));
    !text.is_empty() && (begins_one || LIBRARIES.iter().any(|known| within(known)))
}

/// The modules that a target is in, from the crate on, and the target itself.
fn with_parents(target: &str) -> impl Iterator<Item = &str> {
    target.match_indices("::").map(|(at, _)| &target[..at]).chain([target])
}

/// Says that nothing has this target, with the nearest one, or with those that are beside it.
fn unknown(target: &str) -> String {
    let own: BTreeSet<&str> = OWN.into_iter().flat_map(with_parents).collect();
    let known = own.iter().copied().chain(LIBRARIES);
    let near = known.map(|known| (damerau_levenshtein(target, known), known));
    if let Some((_, near)) = near.filter(|(distance, _)| *distance <= 2).min() {
        return format!("nothing is logged by {target:?}; the nearest target is {near}");
    }
    let beside: Vec<&str> = match with_parents(target).filter(|part| own.contains(part)).last() {
        Some(parent) => {
            let child =
                |known: &str| known.rsplit_once("::").is_some_and(|(above, _)| above == parent);
            own.into_iter().filter(|known| *known == parent || child(known)).collect()
        }
        None => ["sse_gateway"].into_iter().chain(LIBRARIES).collect(),
    };
    format!("nothing is logged by {target:?}; lines come from {}", beside.join(", "))
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
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};

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
            "info,sse_gateway::broker::redis::ingest=trace",
            "info,sse_gateway::supervisor",
            "info,sse_gateway::broker::red=trace",
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
            (
                "info,sse_gateway::broker::redys=debug",
                "the nearest target is sse_gateway::broker::redis",
            ),
            ("info,sse_gateway::broker::redys", "the nearest target is sse_gateway::broker::redis"),
            (
                "sse_gateway::broker::redis::igest=debug",
                "the nearest target is sse_gateway::broker::redis::ingest",
            ),
            // It is there, but does not log.
            ("sse_gateway::stream::join=debug", "lines come from sse_gateway, sse_gateway::access"),
            (
                "sse_gateway::hub::nothing=debug",
                "lines come from sse_gateway::hub, sse_gateway::hub::rejoin",
            ),
            ("sse_gateway::streams::nothing=debug", "lines come from sse_gateway::streams"),
            ("info,sse_gateway::nothing=debug", "sse_gateway::broker, sse_gateway::gateway"),
            ("sse_contract::frame=debug", "lines come from sse_gateway, actix_codec"),
            ("sse_token=debug", "lines come from sse_gateway, actix_codec"),
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

    fn add_sources(directory: &Path, sources: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                add_sources(&path, sources);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(path);
            }
        }
    }

    /// The module that a file is. The program's own files are in a crate of the same name.
    fn module(file: &Path) -> String {
        let file = file.strip_prefix("bin/sse-gateway").unwrap_or(file).with_extension("");
        let parts = file.iter().map(|part| part.to_str().unwrap());
        let parts = parts.filter(|part| !["lib", "main"].contains(part));
        ["sse_gateway"].into_iter().chain(parts).collect::<Vec<_>>().join("::")
    }

    /// The targets of the lines that a source without its tests logs: its module's, or a constant's
    /// that it names.
    fn logged(module: &str, text: &str) -> Vec<String> {
        let named = |constant: &str| {
            let text = text.split(&format!("const {constant}: &str = \"")).nth(1);
            text.expect("a target is a constant of its file").split('"').next().unwrap().to_owned()
        };
        let calls = ["error!(", "warn!(", "info!(", "debug!(", "trace!("];
        let calls = text.split("tracing::").filter_map(|rest| {
            calls.iter().find_map(|call| rest.strip_prefix(call)).map(str::trim_start)
        });
        let target = |call: &str| match call.strip_prefix("target: ") {
            Some(constant) => named(constant.split(',').next().unwrap()),
            None => module.to_owned(),
        };
        calls.map(target).collect()
    }

    #[test]
    fn the_known_targets_are_those_that_the_source_logs_with() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let (mut sources, mut expected) = (Vec::new(), BTreeSet::new());
        add_sources(&root, &mut sources);
        for path in sources {
            let name = path.strip_prefix(&root).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap();
            for import in text.split("use tracing::").skip(1) {
                let import = import.split(';').next().unwrap();
                let macros = import
                    .split(|c: char| !c.is_alphanumeric())
                    .any(|word| ["error", "warn", "info", "debug", "trace"].contains(&word));
                assert!(
                    !macros,
                    "{name:?}: this test finds tracing::{import} only where it is written out"
                );
            }
            expected.extend(logged(&module(name), text));
        }
        let known: BTreeSet<String> = OWN.map(str::to_owned).into();
        assert_eq!(known, expected, "left: OWN; right: the source");
    }
}
