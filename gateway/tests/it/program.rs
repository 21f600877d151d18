//! Tests of the program `sse-gateway` itself: exit codes, messages, signals.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output};

use crate::life::Program;
use crate::support::{Redis, Scratch, Signal, eventually};

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
    let dir = Scratch::new("config");
    let file = dir.path().join("gateway.toml");
    std::fs::write(&file, "[strem]\nheartbeat = \"1s\"\n").unwrap();
    refuses(&["--config", file.to_str().unwrap(), "--check-config"], 64, &["strem"]);
}

#[test]
fn the_program_names_the_flag_or_variable_and_what_is_allowed() {
    let near = ["127.0.0.1:8080", "localhost is 127.0.0.1", "flag --listen"];
    refuses(&["--listen", "localhost:8080"], 64, &near);
    let words = ["log.format = \"xml\" (flag --set log.format): must be text or json"];
    refuses(&["--set", "log.format=xml", "--check-config"], 64, &words);
    refuses(&["--set", "log.level=loud", "--check-config"], 64, &["loud", "debug", "trace"]);
    refuses(
        &["--redis", "redis://a", "--set", "broker=memory"],
        64,
        &["flag --redis", "contradict"],
    );
    let with = |name: &str, value: &[u8]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_sse-gateway"));
        let value = std::ffi::OsStr::from_bytes(value);
        program.arg("--check-config").env_clear().env(name, value).output().expect("it runs")
    };
    let wrong = with("SSE_REDIS_URL", b"redis://127.0.0.1");
    let text = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert_eq!(wrong.status.code(), Some(64), "{text}");
    assert!(text.contains("variable SSE_REDIS_URL") && text.contains("SSE_REDIS__URL"), "{text}");
    // Variables that Kubernetes sets, and variables that are no text, are not the program's own.
    for (name, value) in [
        ("SSE_GATEWAY_SERVICE_HOST", &b"10.0.0.1"[..]),
        ("SSE_PORT", b"tcp://10.0.0.1:80"),
        ("SSE_REDIS_PORT", b"tcp://10.0.0.1:6379"),
        ("X", b"\xff\xfe"),
    ] {
        let fine = with(name, value);
        assert!(fine.status.success(), "{name}: {fine:?}");
    }
}

#[test]
fn a_wait_that_no_clock_can_tell_is_refused() {
    let wrong = gateway(&["--wait-for-redis", "500000000000y", "--check-config"]);
    let text = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert_eq!(wrong.status.code(), Some(64), "{text}");
    assert!(text.contains("--wait-for-redis") && text.contains("at most 1day"), "{text}");
}

#[test]
fn the_first_signal_says_that_a_second_one_ends_it() {
    let mut gateway =
        Program::start(&["server.workers=1", "drain.spread=40s", "drain.deadline=40s"]);
    // The second stream keeps the drain going.
    let streams = ["a", "b"].map(|channel| gateway.subscribe(&format!("channel={channel}")));
    gateway.signal(Signal::INT);
    // Kept open, so that the second line can be written as well.
    let mut lines = BufReader::new(gateway.stderr.take().expect("it is piped")).lines();
    let mut told = lines.by_ref().map(Result::unwrap);
    let told = told.find(|line| line.contains("a second signal ends it at once"));
    assert!(told.is_some(), "it ended without a word of it");
    gateway.signal(Signal::INT);
    assert_eq!(gateway.end().code(), Some(1));
    drop(streams);
}

#[test]
fn the_printed_defaults_are_a_valid_configuration() {
    let defaults = gateway(&["defaults"]);
    let dir = Scratch::new("defaults");
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
    let shown = run(&["settings"]);
    assert!(shown.contains("in Redis: history.max_len 1000"), "{shown}");
    assert!(shown.contains("\nthese are the defaults: no file (--config)"), "{shown}");
    let other = ["--set", "history.max_len=7", "settings", "--apply"];
    // Nobody can be asked here, so nothing may be written.
    let refused = gateway(&[&["--redis", &url, "--set", "log.level=off"], &other[..]].concat());
    let error = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{error}");
    assert!(error.contains("nothing is written") && error.contains("--yes"), "{error}");
    assert!(run(&["settings"]).contains("in Redis: history.max_len 1000"));
    let written = run(&[&other[..], &["--yes"]].concat());
    for part in [
        "in Redis: history.max_len 1000",
        "configured: history.max_len 7",
        "\nhistory.max_len is from flag --set history.max_len; the others are the defaults\n",
        "gap (reset)",
        "written",
    ] {
        assert!(written.contains(part), "{part}: {written}");
    }
    assert!(run(&["settings"]).contains("in Redis: history.max_len 7"));
    // What Redis holds already is no reason for a gap.
    let id = redis.command(&["HGET", "sse:state", "id"]);
    assert!(run(&[&other[..], &["--yes"]].concat()).contains("nothing is written"));
    let epoch_of = |id: &str| id.rsplit('-').next().unwrap().parse::<u64>().unwrap() >> 16;
    assert_eq!(epoch_of(&redis.command(&["HGET", "sse:state", "id"])), epoch_of(&id));
    let epoch = |text: &str| text.rsplit('-').next().unwrap().trim().to_owned();
    assert_ne!(epoch(&run(&["fence"])), epoch(&run(&["fence"])));
}

#[test]
fn the_configuration_in_force_is_printed_with_where_each_value_is_from() {
    let dir = Scratch::new("printed");
    let file = dir.path().join("gateway.toml");
    std::fs::write(&file, "[stream]\nheartbeat = \"7s\"\n").unwrap();
    let file = file.to_str().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sse-gateway"));
    command.args([
        "--config",
        file,
        "--print-config",
        "--redis",
        "redis://me:secret-word@10.0.0.5",
    ]);
    command.env_clear().env("SSE_DRAIN__SPREAD", "3s");
    let printed = command.output().expect("the program runs");
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.status.success(), "{text}");
    for line in [
        format!("heartbeat = \"7s\"  # {file}, line 2"),
        "spread = \"3s\"  # variable SSE_DRAIN__SPREAD".to_owned(),
        "url = \"redis://***@10.0.0.5\"  # flag --redis".to_owned(),
        "broker = \"redis\"  # flag --redis".to_owned(),
        "deadline = \"20s\"  # the default".to_owned(),
    ] {
        assert!(text.lines().any(|printed| printed == line), "{line}: {text}");
    }
    assert!(!text.contains("secret-word"), "{text}");
    let copy = dir.path().join("copy.toml");
    std::fs::write(&copy, &text).unwrap();
    let checked = gateway(&["--config", copy.to_str().unwrap(), "--check-config"]);
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn a_health_check_prints_why_a_gateway_is_not_ready() {
    let mut redis = Redis::start();
    let url = format!("redis.url={}", redis.url());
    let check = |gateway: &Program| {
        let admin = gateway.admin.to_string();
        self::gateway(&["--admin-listen", &admin, "healthcheck"])
    };
    let of_redis =
        ["broker=redis", &url, "admin.probe_interval=100ms", "redis.reconnect_max=200ms"];
    let lenient = Program::start(&of_redis);
    let strict = Program::start(&[&of_redis[..], &["admin.ready_needs_broker=true"]].concat());
    for gateway in [&lenient, &strict] {
        assert_eq!(String::from_utf8_lossy(&check(gateway).stdout), "ready\n");
    }
    redis.kill();
    let reason = format!("Redis at {} does not answer: ", redis.addr);
    eventually("the health check fails", || check(&strict).status.code() == Some(1));
    let told = String::from_utf8(check(&strict).stderr).unwrap();
    assert!(told.starts_with(&format!("sse-gateway: not ready: {reason}")), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    eventually("the other one tells it as well", || {
        let output = check(&lenient);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout)
            .starts_with(&format!("ready to serve, but no events come: {reason}"))
    });
}
