//! Tests that pages, comments and files name each other rightly: links, anchors, paths, runbooks,
//! versions.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use sse_contract::{CONTRACT_VERSION, LIBRARY_VERSION};
use url::Url;

use super::{codes, files, firsts, read, root, rows, section, set};

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let mut text = heading.trim_start_matches('#').trim().to_lowercase();
    // Only the text of a link in a heading counts.
    while let Some(from) = text.find("](") {
        let end = text[from..].find(')').map_or(text.len(), |n| from + n + 1);
        text.replace_range(from..end, "");
    }
    let kept = |c: char| c.is_alphanumeric() || c == ' ' || c == '-' || c == '_';
    text.chars().filter(|c| kept(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The anchors of a page. Of headings with one text GitHub numbers all but the first.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for line in prose(text).lines().filter(|line| line.starts_with('#')) {
        let name = anchor(line);
        let numbered = (1..).map(|n| format!("{name}-{n}")).find(|name| !all.contains(name));
        let name = if all.contains(&name) { numbered.unwrap() } else { name };
        all.insert(name);
    }
    all
}

/// The page without its blocks of code.
fn prose(text: &str) -> String {
    let mut code = false;
    let outside = |line: &&str| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    };
    text.lines().filter(outside).flat_map(|line| [line, "\n"]).collect()
}

/// What a page leads to: `[text](target)`, `![picture](target)`, `[name]: target`, `<https://…>`,
/// and the attributes `href` and `src`. What stands in inline code is none.
fn targets(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text).lines() {
        let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for (opening, closing) in [("](", ')'), ("<http", '>'), ("href=\"", '"'), ("src=\"", '"')] {
            for rest in plain.split(opening).skip(1) {
                let target = rest.split(closing).next().unwrap();
                let scheme = if opening == "<http" { "http" } else { "" };
                found.push(format!("{scheme}{target}"));
            }
        }
        if let Some((name, target)) = plain.split_once("]: ")
            && name.starts_with('[')
        {
            found.push(target.to_owned());
        }
    }
    found
}

/// Checks a target that `place` names. `base` is a file of the folder where the target begins.
#[track_caller]
fn leads_somewhere(place: &Path, base: &Path, target: &str) {
    let place = place.display();
    let (file, part) = target.split_once('#').unwrap_or((target, ""));
    let file = if file.is_empty() { base.to_owned() } else { base.parent().unwrap().join(file) };
    let Ok(file) = file.canonicalize() else {
        panic!("{place}: there is no {target}");
    };
    assert!(file.starts_with(root()), "{place}: {target} leads out of the tree");
    if !part.is_empty() {
        let there = anchors(&fs::read_to_string(&file).unwrap());
        assert!(there.contains(part), "{place}: no heading for {target}");
    }
}

/// Checks an address by its form alone: nothing is fetched.
#[track_caller]
fn is_an_address(page: &Path, target: &str) {
    let place = page.display();
    let url = Url::parse(target).unwrap_or_else(|error| panic!("{place}: {target}: {error}"));
    let host = url.host_str().unwrap_or_default();
    let here = ["localhost", "127.0.0.1"].contains(&host);
    assert!(here || host.contains('.'), "{place}: {target} has no host");
    assert!(here || url.scheme() == "https", "{place}: {target} is not https");
    assert!(!target.contains(char::is_whitespace), "{place}: {target} has a space");
}

#[test]
fn every_link_leads_somewhere() {
    let (mut inside, mut outside) = (0, 0);
    for page in files(&root(), ".md") {
        for target in targets(&fs::read_to_string(&page).unwrap()) {
            if target.contains("://") {
                outside += 1;
                is_an_address(&page, &target);
            } else {
                inside += 1;
                leads_somewhere(&page, &page, &target);
            }
        }
    }
    assert!(inside > 150 && outside > 5, "{inside} {outside}");
}

/// All files of the tree that hold text, except pages.
fn texts() -> Vec<(PathBuf, String)> {
    let all = files(&root(), "").into_iter().filter(|file| !file.ends_with("Cargo.lock"));
    let text = |file: PathBuf| {
        let small = fs::metadata(&file).is_ok_and(|data| data.len() < 1 << 20);
        let text = small.then(|| fs::read_to_string(&file).ok()).flatten()?;
        (file.extension().is_none_or(|ending| ending != "md")).then_some((file, text))
    };
    all.filter_map(text).collect()
}

/// Comments and messages send their readers to `docs/…md`, perhaps to a heading of it.
#[test]
fn every_page_that_a_comment_names_exists() {
    let mut named = 0;
    for (file, text) in texts() {
        for rest in text.split("docs/").skip(1) {
            let name = |c: char| c.is_ascii_alphanumeric() || "-_.#".contains(c);
            let target = rest.split(|c| !name(c)).next().unwrap().trim_end_matches(['.', '#']);
            if target.contains(".md") && !target.starts_with(['.', '-']) {
                named += 1;
                leads_somewhere(&file, &root().join("docs/guide.md"), target);
            }
        }
    }
    assert!(named > 40, "{named}");
}

/// Inline code that looks like a path of this tree is one.
#[test]
fn every_path_that_a_page_names_exists() {
    let top: BTreeSet<String> = fs::read_dir(root())
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().unwrap().is_dir() && entry.file_name() != "target")
        .map(|entry| format!("{}/", entry.file_name().to_string_lossy()))
        .collect();
    let mut named = 0;
    for page in files(&root(), ".md") {
        let text = fs::read_to_string(&page).unwrap();
        for code in prose(&text).lines().flat_map(codes) {
            let path = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
            if top.iter().any(|folder| code.starts_with(folder)) && code.chars().all(path) {
                named += 1;
                assert!(root().join(code).exists(), "{}: no {code}", page.display());
            }
        }
    }
    assert!(named > 80, "{named}");
}

#[test]
fn the_readme_is_read_in_one_sitting() {
    let length = read("README.md").len();
    assert!(length < 10 * 1024, "README.md has {length} bytes; what is more belongs into docs/");
}

/// Who is woken finds what it means, what users see, where to look and what to do.
#[test]
fn every_alert_has_a_runbook() {
    let (rules, runbooks) = (read("deploy/prometheus/rules.yml"), read("docs/runbooks.md"));
    let alerts = set(rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")));
    let headings = runbooks.lines().filter_map(|line| line.strip_prefix("## "));
    let headings = set(headings.filter(|heading| heading.starts_with("Sse")));
    let missing: Vec<_> = alerts.difference(&headings).collect();
    assert!(missing.is_empty(), "docs/runbooks.md has no section for {missing:?}");
    let over: Vec<_> = headings.difference(&alerts).collect();
    assert!(over.is_empty(), "docs/runbooks.md has sections for {over:?}, and no such alert is");
    for alert in alerts {
        let text = runbooks.split(&format!("\n## {alert}\n")).nth(1).unwrap();
        let text = text.split("\n## ").next().unwrap();
        for part in ["**It means**", "**Users**", "**Look.**", "**Do.**"] {
            assert!(text.contains(part), "docs/runbooks.md, {alert}: no {part}");
        }
        let link = format!("[{alert}](#{})", anchor(&alert));
        assert!(runbooks.contains(&link), "docs/runbooks.md: its list has no {link}");
    }
}

/// A query that is copied at night must not ask for a metric that is called otherwise.
#[test]
fn runbooks_ask_for_metrics_that_exist() {
    let (operations, runbooks) = (read("docs/operations.md"), read("docs/runbooks.md"));
    let metrics = firsts(section(&operations, "## Metrics"));
    let named = runbooks.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    let functions = ["sse_publish_batch"];
    let named: BTreeSet<&str> = named
        .filter(|name| name.starts_with("sse_") && !functions.contains(name))
        .map(|name| name.trim_end_matches("_bucket"))
        .collect();
    assert!(named.len() > 12, "{named:?}");
    for name in named {
        assert!(metrics.contains(name), "docs/runbooks.md: there is no metric {name}");
    }
}

/// Whoever changes one of these without `settings --apply` changes nothing.
#[test]
fn the_limits_that_redis_holds_are_those_that_need_apply() {
    // The gateway says them as `name {}, name {}, …`.
    let source = read("gateway/src/broker/redis/settings.rs");
    let is_name = |c: char| c.is_ascii_lowercase() || c == '.' || c == '_';
    let names = source.split(" {}").filter_map(|text| text.rsplit(|c| !is_name(c)).next());
    let shared = set(names.filter(|name| name.contains('.')));
    assert_eq!(shared.len(), 5, "{shared:?}");
    let (operations, configuration) = (read("docs/operations.md"), read("docs/configuration.md"));
    let change = rows(section(&operations, "## What a change needs"));
    let apply = change.iter().find(|cells| cells[1].contains("settings --apply")).unwrap();
    assert_eq!(set(codes(apply[0])), shared);
    let held =
        section(&operations, "## Limits in Redis").split(" must be the same").next().unwrap();
    assert_eq!(set(codes(held)), shared);
    let listed = configuration.split("**Shared limits.**").nth(1).unwrap();
    assert_eq!(set(codes(listed.split(" are\n").next().unwrap())), shared);
}

#[test]
fn the_changelog_has_the_versions_of_the_code() {
    let changelog = read("CHANGELOG.md");
    let table = rows(&changelog);
    let newest = &table[0];
    assert_eq!(newest[0], "[Unreleased](#unreleased)");
    assert_eq!(newest[1], env!("CARGO_PKG_VERSION"), "program");
    assert_eq!(newest[2], CONTRACT_VERSION.to_string(), "contract");
    assert_eq!(newest[3], LIBRARY_VERSION.to_string(), "library");
    for row in &table {
        let heading = format!("## {}", row[0].trim_start_matches('[').split(']').next().unwrap());
        assert!(changelog.contains(&heading), "CHANGELOG.md has no heading {heading}");
    }
}
