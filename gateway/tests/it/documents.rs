//! Tests that the documents agree with the code: settings, metrics, reasons, problems, calls, and
//! the tests that they name. `pages.rs` has the links.

mod pages;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sse_gateway::feed::gap::GapReason;
use sse_gateway::metrics::{Rejection, Replayed};

use crate::support::{TestGateway, request};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn read(name: &str) -> String {
    let file = root().join(name);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// All files below a folder whose names have this ending.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().unwrap().is_dir() {
            if !name.starts_with('.') && !["target", "node_modules", "corpus"].contains(&&*name) {
                found.extend(files(&entry.path(), ending));
            }
        } else if name.ends_with(ending) {
            found.push(entry.path());
        }
    }
    found
}

/// The gateway's source, without its unit tests.
fn source() -> String {
    let files = files(&root().join("gateway/src"), ".rs");
    let text = |file: &PathBuf| {
        let text = fs::read_to_string(file).unwrap();
        text.split("#[cfg(test)]").next().unwrap().to_owned()
    };
    files.iter().map(text).collect()
}

/// The part of a document below a heading, down to the next heading.
#[track_caller]
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let begin = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let body = &text[begin + heading.len() + 2..];
    &body[..body.find("\n#").unwrap_or(body.len())]
}

/// The cells of a table's rows, without its head.
fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("|-"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .skip(1)
        .collect()
}

/// The texts between backticks.
fn codes(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The first cell of each row, without its backticks.
fn firsts(text: &str) -> BTreeSet<String> {
    rows(text).iter().map(|cells| cells[0].trim_matches('`').to_owned()).collect()
}

fn set<T: Into<String>>(of: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    of.into_iter().map(Into::into).collect()
}

/// The settings with their defaults, as the program prints them.
fn settings() -> BTreeMap<String, String> {
    let program = env!("CARGO_BIN_EXE_sse-gateway");
    let output = Command::new(program).arg("defaults").env_clear().output().unwrap();
    let (mut section, mut settings) = (String::new(), BTreeMap::new());
    let text = String::from_utf8(output.stdout).unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
            continue;
        }
        let (key, value) = line.split_once(" = ").unwrap();
        settings.insert(format!("{section}{key}"), value.to_owned());
    }
    settings
}

#[test]
fn every_documented_setting_exists_and_every_setting_is_documented() {
    let text = read("docs/configuration.md");
    let settings = settings();
    assert!(settings.len() > 80, "{}", settings.len());
    let mut documented = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').splitn(3, " | ").map(str::trim).collect();
        let [name, default] = [cells[0], cells[1]].map(|cell| cell.trim_matches('`').to_owned());
        let twice = documented.insert(name.clone(), default);
        assert!(twice.is_none(), "docs/configuration.md has {name} twice");
    }
    assert_eq!(documented, settings);
}

/// Turns a limit such as "64 KiB", "10,000 events", "5 min" or "none" into the setting's value.
fn as_value(words: &str) -> String {
    if words == "none" {
        return "0".to_owned();
    }
    let (number, unit) = words.split_once(' ').unwrap_or((words, ""));
    let number: u64 = number.replace(',', "").parse().unwrap_or_else(|_| panic!("{words}"));
    match unit {
        "KiB" => (number * 1024).to_string(),
        "MiB" => (number * 1024 * 1024).to_string(),
        "s" => format!("\"{number}s\""),
        "min" => format!("\"{number}m\""),
        _ => number.to_string(),
    }
}

#[test]
fn the_limits_of_the_api_are_the_defaults() {
    let (api, settings) = (read("docs/http-api.md"), settings());
    let mut compared = 0;
    for cells in rows(section(&api, "## Limits")) {
        let parts: Vec<&str> = cells[1].split('`').collect();
        for pair in parts[1..].chunks(2) {
            // A limit without a default in brackets depends on the machine, or is no setting.
            let Some(words) = pair.get(1).and_then(|behind| behind.split_once('(')) else {
                continue;
            };
            let words = words.1.split(')').next().unwrap();
            assert_eq!(settings.get(pair[0]), Some(&as_value(words)), "{}: {words}", pair[0]);
            compared += 1;
        }
    }
    assert!(compared > 12, "{compared}");
}

/// Every name in the documents that looks like a setting's must be one.
#[test]
fn every_setting_that_the_documents_name_exists() {
    let settings = settings();
    let sections: BTreeSet<&str> =
        settings.keys().filter_map(|name| Some(name.split_once('.')?.0)).collect();
    let mut documents = files(&root().join("docs"), ".md");
    documents.extend([root().join("README.md"), root().join("SECURITY.md")]);
    // This document names Redis' functions for scripts, which look like settings of `redis`.
    documents.retain(|document| !document.ends_with("redis-contract.md"));
    let mut named = 0;
    for document in documents {
        for line in fs::read_to_string(&document).unwrap().lines() {
            for code in codes(line) {
                let name = code.split(" = ").next().unwrap();
                let part = |c: u8| c.is_ascii_lowercase() || c == b'_' || c == b'.';
                let is_file = [".rs", ".mjs", ".js", ".md", ".toml", ".pem", ".key"];
                let Some((section, _)) = name.split_once('.') else { continue };
                if !sections.contains(section)
                    || !name.bytes().all(part)
                    || is_file.iter().any(|ending| name.ends_with(ending))
                {
                    continue;
                }
                named += 1;
                let whole = settings.contains_key(name);
                let within = settings.keys().any(|key| key.starts_with(&format!("{name}.")));
                assert!(whole || within, "{} names {name}", document.display());
            }
        }
    }
    assert!(named > 100, "{named}");
}

#[test]
fn every_gap_reason_is_documented() {
    let reasons = set(GapReason::ALL.map(GapReason::as_str));
    assert_eq!(firsts(section(&read("docs/guide.md"), "### Gap reasons")), reasons);
    let api = read("docs/http-api.md");
    let row = api.lines().find(|line| line.starts_with("| `event: gap`")).unwrap();
    for reason in &reasons {
        assert!(row.contains(&format!("`{reason}`")), "docs/http-api.md lacks {reason}");
    }
    let openapi = read("docs/openapi.yaml");
    let list = openapi.split("GapReason:").nth(1).unwrap().split("enum: [").nth(1).unwrap();
    let list = list.split(']').next().unwrap().split(',').map(str::trim);
    assert_eq!(set(list), reasons);
}

/// The values of a metric's first label in a scrape.
fn scraped(text: &str, metric: &str) -> BTreeSet<String> {
    let of = |line: &str| {
        let labels = line.strip_prefix(metric)?.strip_prefix('{')?;
        Some(labels.split('"').nth(1)?.to_owned())
    };
    text.lines().filter_map(of).collect()
}

#[test]
fn every_metric_is_documented_with_its_labels() {
    let gateway = TestGateway::memory(&[]);
    let text = gateway.admin("/metrics").body;
    let operations = read("docs/operations.md");
    let table = section(&operations, "## Metrics");
    // Every metric is in the first scrape, with a zero for each value of its label: an alert on a
    // series that is not there yet would never fire.
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let kinds: BTreeMap<&str, &str> = types.filter(|(name, _)| name.starts_with("sse_")).collect();
    assert_eq!(firsts(table), set(kinds.keys().copied()));
    for cells in rows(table) {
        assert_eq!(cells[1], kinds[cells[0].trim_matches('`')], "{}", cells[0]);
    }
    assert_eq!(
        firsts(section(&operations, "### Close reasons")),
        scraped(&text, "sse_streams_closed_total")
    );
    assert_eq!(set(GapReason::ALL.map(GapReason::as_str)), scraped(&text, "sse_gaps_total"));
    let results = rows(table).into_iter().find(|cells| cells[0] == "`sse_replays_total`").unwrap();
    let replays = set(Replayed::ALL.map(Replayed::as_str));
    assert_eq!(set(codes(results[2]).into_iter().skip(1)), replays);
    assert_eq!(scraped(&text, "sse_replays_total"), replays);
    let states = rows(table).into_iter().find(|cells| cells[0] == "`sse_subscribers`").unwrap();
    assert_eq!(set(codes(states[2]).into_iter().skip(1)), scraped(&text, "sse_subscribers"));
}

#[test]
fn alerts_ask_for_metrics_that_exist_and_are_documented() {
    let (operations, rules) = (read("docs/operations.md"), read("deploy/prometheus/rules.yml"));
    let metrics = firsts(section(&operations, "## Metrics"));
    let asked = metrics_in(&rules);
    assert!(asked.len() > 8, "{asked:?}");
    for name in asked {
        assert!(metrics.contains(&name), "no metric {name}");
    }
    let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let alerts: BTreeSet<String> = alerts.map(str::to_owned).collect();
    assert_eq!(firsts(section(&operations, "### Alerts")), alerts);
}

/// The names of metrics in a text, without the endings of a histogram's series.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let names = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    let ours = names.filter(|name| name.starts_with("sse_"));
    ours.map(|name| name.trim_end_matches("_bucket").to_owned()).collect()
}

#[test]
fn the_dashboard_shows_every_metric() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("deploy/grafana/dashboards/sse-gateway.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries: Vec<&str> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    let mut shown = metrics_in(&queries.join("\n"));
    // The list of gateways comes from this one.
    shown.extend(metrics_in(&dashboard["templating"].to_string()));
    assert_eq!(shown, firsts(section(&read("docs/operations.md"), "## Metrics")));
}

#[test]
fn every_reason_of_a_refusal_is_documented() {
    let reasons = set(Rejection::ALL.map(Rejection::as_str));
    let operations = read("docs/operations.md");
    assert_eq!(firsts(section(&operations, "### Refusal reasons")), reasons);
    let text = TestGateway::memory(&[]).admin("/metrics").body;
    assert_eq!(scraped(&text, "sse_rejected_requests_total"), reasons);
}

#[test]
fn every_result_of_a_publish_is_documented() {
    let (source, operations) = (source(), read("docs/operations.md"));
    let count = source.split("fn count_publish").nth(1).unwrap();
    let count = count.split("with_label_values").next().unwrap();
    let results = count.split(" => \"").skip(1).map(|arm| arm.split('"').next().unwrap());
    let results = set(results);
    assert_eq!(firsts(section(&operations, "### Publish results")), results);
    // Each result is in the scrape before it is first counted.
    let metrics = TestGateway::memory(&[]).admin("/metrics").body;
    for result in results {
        let line = format!("sse_published_events_total{{result=\"{result}\"}} 0");
        assert!(metrics.contains(&line), "{line}");
    }
}

/// The status of each type of problem, from the tuples `("name", "Title", 400)` in the source.
fn problems() -> BTreeMap<String, String> {
    let source = source();
    let parts = source.split("fn parts(self)").nth(1).unwrap().split("\n    }\n").next().unwrap();
    let tuples = parts.split("(\"").skip(1).map(|tuple| tuple.split(')').next().unwrap());
    tuples
        .map(|tuple| {
            let (name, rest) = tuple.split_once('"').unwrap();
            let status = rest.rsplit(", ").next().unwrap().trim();
            (name.to_owned(), status.to_owned())
        })
        .collect()
}

#[test]
fn every_type_of_problem_is_documented_with_its_status() {
    let problems = problems();
    assert!(problems.len() > 20, "{problems:?}");
    let api = read("docs/http-api.md");
    let mut documented = BTreeMap::new();
    for cells in rows(section(&api, "## Types of problem")) {
        // One row may hold two types with their statuses.
        for (name, status) in codes(cells[0]).into_iter().zip(cells[1].split(", ").cycle()) {
            documented.insert(name.to_owned(), status.to_owned());
        }
    }
    assert_eq!(documented, problems);
    let openapi = read("docs/openapi.yaml");
    let urn = "urn:sse-gateway:";
    let named = openapi
        .split(urn)
        .skip(1)
        .map(|rest| rest.split(|c: char| !c.is_ascii_lowercase() && c != '-').next().unwrap());
    assert_eq!(set(named.filter(|name| !name.is_empty())), set(problems.into_keys()));
}

/// The calls that `openapi.yaml` describes. Below `paths:`, a path is indented by two spaces and a
/// method by four.
fn described() -> BTreeSet<String> {
    let openapi = read("docs/openapi.yaml");
    let paths = openapi.split("\npaths:\n").nth(1).unwrap();
    let (mut path, mut calls) = ("", BTreeSet::new());
    for line in paths.lines().take_while(|line| line.is_empty() || line.starts_with(' ')) {
        if let Some(name) = line.strip_prefix("  /") {
            path = name.trim_end_matches(':');
        }
        let method = line.strip_prefix("    ").and_then(|line| line.strip_suffix(':'));
        if let Some(method @ ("get" | "head" | "post" | "put" | "delete")) = method {
            calls.insert(format!("{} /{path}", method.to_uppercase()));
        }
    }
    calls
}

#[test]
fn every_call_is_documented_and_answered() {
    let gateway = TestGateway::memory(&[]);
    let api = read("docs/http-api.md");
    let mut documented = BTreeSet::new();
    for cells in rows(section(&api, "## Calls")) {
        let call = cells[1].trim_matches('`');
        documented.insert(call.to_owned());
        let (method, path) = call.split_once(' ').unwrap();
        let port = if cells[0] == "admin" { gateway.admin } else { gateway.addr };
        // No resource takes PATCH. The refusal shows that the resource exists, and lists the methods
        // it takes.
        let answer = request(port, "PATCH", &path.replace("{channel}", "a"), &[], b"");
        let allow = answer.head.lines().find(|line| line.to_lowercase().starts_with("allow:"));
        let allow = allow.unwrap_or_else(|| panic!("{call}: {}", answer.head));
        assert!(answer.status == 405 && allow.contains(method), "{call}: {}", answer.head);
    }
    let source = source();
    let mut served = BTreeSet::new();
    for opening in ["web::resource(\"", "(resource(\""] {
        let paths = source.split(opening).skip(1).map(|rest| rest.split('"').next().unwrap());
        served.extend(paths.filter(|path| !path.starts_with("/panic")).map(str::to_owned));
    }
    let paths = documented.iter().map(|call| call.split_once(' ').unwrap().1);
    assert_eq!(set(paths), served);
    let described: BTreeSet<String> =
        described().into_iter().filter(|call| !call.starts_with("HEAD ")).collect();
    // The console is a page, which `openapi.yaml` does not describe.
    documented.remove("GET /");
    assert_eq!(described, documented);
}

/// Every test that docs/security.md names must exist: in gateway/tests/it, or as a unit test of the
/// gateway, the contract or the token crate.
/// Where each master of a Redis Cluster has an equal part of the slots.
#[test]
fn how_many_partitions_the_busiest_master_has_is_as_documented() {
    let text = read("docs/operations.md");
    let table = text.split_once("**How many partitions.**").expect("it is there").1;
    let table = &table[..table.find("\n\nEach partition").expect("the table ends")];
    let documented = rows(table);
    assert_eq!(documented.len(), 4, "{table}");
    for row in documented {
        let partitions: u16 = row[0].parse().expect("a number");
        let keys = sse_contract::Keys::new("sse", partitions);
        for (masters, told) in [3, 5, 6, 8].into_iter().zip(&row[1..]) {
            let mut shares = vec![0; masters];
            for partition in 0..partitions {
                shares[usize::from(keys.slot(partition)) * masters / 16_384] += 1;
            }
            let most = shares.iter().max().expect("masters").to_string();
            let without = shares.iter().filter(|share| **share == 0).count();
            assert!(without == 0 || (without == 4 && told.contains("four masters have none")));
            assert_eq!(told.split(',').next(), Some(&*most), "{partitions} of {masters}");
        }
    }
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let text = read("docs/security.md");
    let mut sources = Vec::new();
    for folder in ["gateway/tests/it", "gateway/src", "contract/src", "token/src"] {
        sources.extend(files(&root().join(folder), ".rs"));
    }
    let names: Vec<&str> = codes(&text).into_iter().filter(|code| code.contains("::")).collect();
    assert!(names.len() > 40, "{}", names.len());
    for name in names {
        let (module, test) = name.rsplit_once("::").unwrap();
        let file = format!("/{}.rs", module.replace("::", "/"));
        let found = sources
            .iter()
            .filter(|source| source.to_string_lossy().ends_with(&file))
            .any(|source| fs::read_to_string(source).unwrap().contains(&format!("fn {test}(")));
        assert!(found, "docs/security.md names {name}, and there is no such test");
    }
}

/// A script exported SSE_PUBLISH for other scripts, and the gateway that one of them started refused
/// to start, because that name resembles a setting.
#[test]
fn scripts_use_the_prefix_of_settings_for_settings_alone() {
    let (root, names) = (root(), read("gateway/src/config/names.rs"));
    let mut scripts = vec![root.join(".ci/run"), root.join("Makefile")];
    for folder in ["scripts", "deploy", "lab/node", "examples/test"] {
        scripts.extend(files(&root.join(folder), ""));
    }
    let mut checked = 0;
    for script in scripts {
        let Ok(text) = fs::read_to_string(&script) else { continue };
        for found in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if found.len() > 4 && found.starts_with("SSE_") && !found.contains("__") {
                let is_known = names.contains(&format!("\"{found}\""));
                assert!(is_known, "{}: {found} is no setting", script.display());
                checked += 1;
            }
        }
    }
    assert!(checked > 5, "only {checked} names found");
}
