//! The program `sse-gateway` itself: exit codes, messages, signals.

use std::net::TcpListener;
use std::process::{Command, Output};

use crate::support::{Redis, tempdir};

fn gateway(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_sse-gateway");
    Command::new(program).args(args).env_clear().output().expect("the program runs")
}

#[track_caller]
fn refuses(args: &[&str], code: i32, words: &[&str]) {
    let output = gateway(args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!(text.lines().count(), 1, "one line: {text}");
}

#[test]
fn a_bad_configuration_is_one_line_that_names_the_culprit() {
    refuses(&["--set", "stream.hartbeat=1s"], 64, &["hartbeat"]);
    refuses(&["--set", "stream.heartbeat=soon"], 64, &["soon", "heartbeat"]);
    refuses(&["--listen", "0.0.0.0:8080"], 64, &["auth.open", "0.0.0.0:8080"]);
    refuses(&["--config", "/nowhere/at-all.toml"], 64, &["at-all.toml"]);
    refuses(&["--redis", "redis://127.0.0.1:1/7"], 64, &["database", "redis.prefix"]);
    refuses(&["--redis", "http://x"], 64, &["redis.url"]);
    let dir = tempdir::Dir::new("config");
    let file = dir.path().join("gateway.toml");
    std::fs::write(&file, "[strem]\nheartbeat = \"1s\"\n").unwrap();
    refuses(&["--config", file.to_str().unwrap(), "--check-config"], 64, &["strem"]);
}

#[test]
fn the_printed_defaults_are_a_valid_configuration() {
    let defaults = gateway(&["defaults"]);
    let dir = tempdir::Dir::new("defaults");
    let file = dir.path().join("gateway.toml");
    std::fs::write(&file, &defaults.stdout).unwrap();
    let checked = gateway(&["--config", file.to_str().unwrap(), "--check-config"]);
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn a_taken_port_and_an_unreachable_redis_are_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    refuses(&["--listen", &addr, "--admin-listen", "127.0.0.1:0"], 1, &[&addr, "server.listen"]);
    refuses(&["--listen", "127.0.0.1:0", "--admin-listen", &addr], 1, &[&addr, "admin.listen"]);
    drop(taken);
    let ports =
        ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--set", "log.level=off"];
    let redis = format!("redis://{addr}");
    refuses(&[&ports[..], &["--redis", &redis]].concat(), 1, &[&addr, "refused"]);
    let server = Redis::start_with(&["--requirepass", "secret"]);
    refuses(&[&ports[..], &["--redis", &server.url()]].concat(), 1, &["NOAUTH"]);
}

#[test]
fn an_operator_sees_and_sets_the_limits() {
    let redis = Redis::start();
    let url = redis.url();
    let run = |args: &[&str]| {
        let output = gateway(&[&["--redis", &url, "--set", "log.level=off"], args].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run(&["settings"]).contains("in Redis: history.max_len 1000"));
    run(&["--set", "history.max_len=7", "settings", "--apply"]);
    assert!(run(&["settings"]).contains("in Redis: history.max_len 7"));
    let epoch = |text: &str| text.rsplit('-').next().unwrap().trim().to_owned();
    assert_ne!(epoch(&run(&["fence"])), epoch(&run(&["fence"])));
}

#[test]
fn every_documented_setting_exists_and_every_setting_is_documented() {
    let readme = include_str!("../../../README.md");
    let defaults = String::from_utf8(gateway(&["defaults"]).stdout).unwrap();
    let mut section = String::new();
    for line in defaults.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
            continue;
        }
        let (key, value) = line.split_once(" = ").unwrap();
        let row = format!("| `{section}{key}` | `{value}` |");
        assert!(readme.contains(&row), "the README lacks {row}");
    }
}
