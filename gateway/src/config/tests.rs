//! What `Config::load` accepts and refuses, and the messages.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::sources::Flag;
use crate::config::{BrokerKind, Config, DEFAULTS, SlowReader};

fn load(env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, String> {
    read(None, env, flags)
}

fn read(
    file: Option<&str>,
    env: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Config, String> {
    let written = file.map(File::new);
    let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let flags: Vec<(String, String)> =
        flags.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let path = written.as_ref().map(|file| file.0.as_path());
    Config::load(path, env, &flags).map_err(|error| error.to_string())
}

/// A file `gateway.toml` in a directory of its own.
struct File(PathBuf);

impl File {
    fn new(text: &str) -> Self {
        let unique = format!("sse-config-{}-{:x}", std::process::id(), fastrand::u64(..));
        let dir = std::env::temp_dir().join(unique);
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("gateway.toml");
        std::fs::write(&path, text).unwrap();
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        std::fs::remove_dir_all(self.0.parent().unwrap()).ok();
    }
}

#[track_caller]
fn refused(result: Result<Config, String>, words: &[&str]) {
    let error = match result {
        Ok(_) => panic!("it is taken; expected an error with {words:?}"),
        Err(error) => error,
    };
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
    assert!(!error.contains('\n'), "one line: {error}");
}

#[test]
fn the_defaults_are_complete_and_valid() {
    let config = load(&[], &[]).unwrap();
    assert_eq!(config.broker, BrokerKind::Memory);
    assert_eq!(config.stream.heartbeat, Duration::from_secs(15));
    read(Some(DEFAULTS), &[], &[]).unwrap();
}

#[test]
fn later_layers_win() {
    let file = "[redis]\ntick = '1s'\nlinger = '7s'\n[history]\nmax_len = 5\n";
    let env = [
        ("SSE_REDIS__TICK", "3s"),
        ("SSE_BROKER", "redis"),
        ("SSE_CORS__ORIGINS", "https://a, https://b"),
    ];
    let flags = [("redis.tick", "4s"), ("history.max_len", "7")];
    let config = read(Some(file), &env, &flags).unwrap();
    assert_eq!(config.redis.tick, Duration::from_secs(4));
    assert_eq!(config.redis.linger, Duration::from_secs(7));
    assert_eq!(config.broker, BrokerKind::Redis);
    assert_eq!(config.cors.origins.listed(), ["https://a", "https://b"]);
    assert_eq!(config.history.max_len, 7);
    // Precedence depends on the layer alone, not on the order of calls.
    assert_eq!(read(Some(file), &env, &[]).unwrap().redis.tick, Duration::from_secs(3));
}

#[test]
fn values_are_read_alike_in_every_layer() {
    let file =
        "[auth]\nopen = 'yes'\n[server]\nworkers = '4'\n[cors]\norigins = 'https://a,https://b'\n";
    let config = read(Some(file), &[], &[]).unwrap();
    assert!(config.auth.open);
    assert_eq!(config.server.workers, 4);
    assert_eq!(config.cors.origins.listed(), ["https://a", "https://b"]);
    // A secret read from a file often ends with a line end.
    let env = [
        ("SSE_REDIS__URL", " redis://10.0.0.1\n"),
        ("SSE_CORS__ORIGINS", ""),
        ("SSE_REDIS__PREFIX", "7"),
        ("SSE_AUTH__OPEN", "1"),
        ("sse_log__format", "json"),
    ];
    let config = load(&env, &[]).unwrap();
    assert_eq!(config.redis.url, "redis://10.0.0.1");
    assert_eq!(config.redis.prefix, "7");
    assert!(config.cors.origins.is_empty() && config.auth.open);
    assert_eq!(config.log.format, crate::config::LogFormat::Json);
}

#[test]
fn an_unknown_name_is_told_with_its_place_and_the_nearest() {
    let near = "the nearest is stream.heartbeat";
    refused(load(&[], &[("stream.hartbeat", "3s")]), &["flag --set stream.hartbeat", near]);
    let file = "# a comment\n[stream]\n\nhartbeat = '3s'\n";
    refused(read(Some(file), &[], &[]), &["stream.hartbeat (", "gateway.toml, line 4)", near]);
    refused(
        read(Some("[strem]\nheartbeat = '3s'"), &[], &[]),
        &["strem.heartbeat", "line 2", near],
    );
    refused(read(Some("\n[strem]\n"), &[], &[]), &["[strem]", "line 2", "the nearest is [stream]"]);
    refused(read(Some("heartbeat = '3s'"), &[], &[]), &["line 1", near]);
    refused(read(Some("brokr = 'redis'"), &[], &[]), &["line 1", "the nearest is broker"]);
    refused(load(&[], &[("what.ever", "x")]), &["what.ever", "`sse-gateway defaults` prints all"]);
    let variable = ("SSE_REDIS__TIK", "3s");
    refused(load(&[variable], &[]), &["variable SSE_REDIS__TIK", "SSE_REDIS__TICK"]);
    refused(
        load(&[("SSE_REDIS_URL", "redis://a")], &[]),
        &["variable SSE_REDIS_URL", "SSE_REDIS__URL"],
    );
}

#[test]
fn a_wrong_value_is_told_with_its_place_and_what_is_allowed() {
    for (key, value, words) in [
        ("log.format", "xml", "log.format = \"xml\" (flag --set log.format): must be text or json"),
        ("broker", "kafka", "broker = \"kafka\" (flag --set broker): must be memory or redis"),
        (
            "server.listen",
            "localhost:8080",
            "such as 127.0.0.1:8080 or [::1]:8080; localhost is 127.0.0.1",
        ),
        ("server.listen", ":8080", "all addresses of this machine are 0.0.0.0"),
        ("admin.listen", "8080", "admin.listen = \"8080\""),
        ("stream.heartbeat", "soon", "write a duration such as 500ms, 15s or 10m"),
        ("stream.heartbeat", "15", "write a duration such as 500ms, 15s or 10m"),
        ("stream.heartbeat", "10ms", "must be from 1s to 1h"),
        ("stream.heartbeat", "100days", "must be from 1s to 1h"),
        ("history.ttl", "1000y", "must be from 1s to 366days"),
        ("redis.connect_timeout", "10h", "must be from 1ms to 1h"),
        ("stream.progress_deadline", "30days", "must be from 1s to 1day"),
        ("stream.queue_events", "0", "must be a whole number from 1 to"),
        ("stream.queue_events", "many", "must be a whole number"),
        ("server.backlog", "-1", "must be a whole number from 1 to"),
        ("server.workers", "1.5", "must be a whole number"),
        ("server.workers", "513", "from 0 to 512"),
        ("redis.pool_size", "99999999999999999999", "must be a whole number"),
        ("redis.pool_size", "9999999999999999999", "from 1 to 1024"),
        ("redis.gather", "2s", "must be from 0s to 1s"),
        ("auth.open", "maybe", "must be true or false"),
        ("redis.prefix", "a{b}", "redis.prefix = \"a{b}\""),
        ("redis.prefix", "app:sse", "redis.prefix = \"app:sse\""),
        ("redis.url", "", "it is empty; write it as redis://user:password@host:6379"),
        ("redis.url", "http://x", "write it as redis://user:password@host:6379"),
        ("redis.url", "rediss://a/#insecure", "without checking the certificate"),
        ("server.trusted_proxies", "nginx", "such as 10.0.0.0/8"),
        ("server.trusted_proxies", "10.0.0.0/8, 0.0.0.0/0", "any client could"),
        ("server.forwarded_header", "x-real-ip", "must be x-forwarded-for or forwarded"),
        ("log.level", "loud", "off, error, warn, info, debug, trace"),
        ("log.level", "a=b=c", "off, error, warn, info, debug, trace"),
        ("cors.origins", "https://a.example/", "write https://a.example"),
        ("cors.origins", "https://a,", "leave the list empty"),
        ("stream.slow_readers", "a=fast", "replay, latest or close"),
        ("stream.slow_readers", "a b=latest", "matches no channel"),
        ("telemetry.otlp", "127.0.0.1:4318", "must be a URL of http:// or https://, or empty"),
        ("telemetry.otlp", "http://a/?key=x", "neither credentials nor a query"),
        ("telemetry.sample_ratio", "1.1", "must be a number from 0 to 1"),
        ("telemetry.sample_ratio", "NaN", "must be a number from 0 to 1"),
    ] {
        refused(load(&[], &[(key, value)]), &[&format!("{key} = "), "(flag --set", words]);
    }
    refused(
        load(&[("SSE_LOG__FORMAT", "xml")], &[]),
        &["(variable SSE_LOG__FORMAT): must be text"],
    );
}

#[test]
fn a_mistake_in_a_file_is_told_with_its_line() {
    for (file, words) in [
        ("\n\n[stream]\nqueue_events = 'many'\n", "line 4): must be a whole number"),
        ("[stream]\nheartbeat = 15\n", "line 2): write a duration such as"),
        ("[cors]\norigins = [1]\n", "line 2): every item of the list must be a text in quotes"),
        ("[server]\nworkers = [1]\n", "line 2): must be a single value"),
        ("[stream.heartbeat]\na = 1\n", "the nearest is stream.heartbeat"),
        ("[auth.jwt]\nkey = []\n", "the nearest is auth.jwt.keys"),
        ("[auth.jtw]\n", "the nearest is [auth.jwt]"),
        ("stream = 5\n", "stream ("),
        ("[log\n", "gateway.toml, line 1: "),
        ("broker = memory\n", "gateway.toml, line 1: "),
    ] {
        refused(read(Some(file), &[], &[]), &["gateway.toml", words]);
    }
}

#[test]
fn a_flag_is_named_as_it_was_written() {
    let flag = Flag {
        name: "--listen".to_owned(),
        key: "server.listen".to_owned(),
        value: "localhost:80".to_owned(),
    };
    let error = Config::read(None, std::iter::empty(), &[flag]).unwrap_err().to_string();
    assert!(error.contains("server.listen = \"localhost:80\" (flag --listen): "), "{error}");
}

#[test]
fn a_url_means_redis() {
    let url = ("SSE_REDIS__URL", "redis://10.0.0.1");
    assert_eq!(load(&[url], &[]).unwrap().broker, BrokerKind::Redis);
    assert_eq!(
        load(&[], &[("redis.url", "redis://127.0.0.1:6379")]).unwrap().broker,
        BrokerKind::Redis
    );
    let file = "[redis]\nurl = 'redis://10.0.0.1'\n";
    assert_eq!(read(Some(file), &[], &[]).unwrap().broker, BrokerKind::Redis);
    assert_eq!(load(&[url, ("SSE_BROKER", "redis")], &[]).unwrap().broker, BrokerKind::Redis);
    // The default URL does not select Redis.
    assert_eq!(load(&[("SSE_BROKER", "memory")], &[]).unwrap().broker, BrokerKind::Memory);
}

#[test]
fn memory_and_a_url_contradict_each_other() {
    let url = ("SSE_REDIS__URL", "redis://user:secret@10.0.0.1");
    let file = "\nbroker = 'memory'\n";
    let result = read(Some(file), &[url], &[]);
    refused(result, &["gateway.toml, line 2", "variable SSE_REDIS__URL", "contradict"]);
    let file = "[redis]\nurl = 'redis://10.0.0.1'\n";
    let result = read(Some(file), &[], &[("broker", "memory")]);
    refused(result, &["flag --set broker", "gateway.toml, line 2", "contradict"]);
    // A user may edit the URL in the printed defaults and forget the broker.
    let edited = DEFAULTS.replace("redis://127.0.0.1:6379", "redis://10.0.0.1");
    refused(read(Some(&edited), &[], &[]), &["gateway.toml", "contradict"]);
}

#[test]
fn a_password_is_not_shown() {
    for url in [
        "http://user:secret@host",
        "redis://user:secret@host:0x/7",
        "redis://user:secret@host/7",
        "rediss://user:secret@host/#insecure",
        "user:secret@host",
        "redis+unix:///run/redis.sock?db=1&pass=secret",
    ] {
        let error = load(&[("SSE_REDIS__URL", url)], &[]).unwrap_err();
        assert!(error.contains("redis.url") && !error.contains("secret"), "{error}");
    }
    let url = "http://user:secret@host:4318";
    let error = load(&[("SSE_TELEMETRY__OTLP", url)], &[]).unwrap_err();
    assert!(error.contains("OTEL_EXPORTER_OTLP_HEADERS") && !error.contains("secret"), "{error}");
}

#[test]
fn a_ratio_is_read_with_quotes_and_without() {
    let ratio = |text| read(Some(text), &[], &[]).unwrap().telemetry.sample_ratio;
    assert_eq!(ratio("[telemetry]\nsample_ratio = '0.25'"), 0.25);
    assert_eq!(ratio("[telemetry]\nsample_ratio = 0.25"), 0.25);
    assert_eq!(ratio("[telemetry]\nsample_ratio = 0"), 0.0);
}

#[test]
fn settings_that_do_not_go_together_are_told() {
    let outside = [("SSE_SERVER__LISTEN", "0.0.0.0:8080")];
    refused(load(&outside, &[]), &["server.listen", "0.0.0.0:8080", "auth.open"]);
    load(&outside, &[("auth.open", "true")]).unwrap();
    for (public, admin, together) in [
        ("127.0.0.1:9090", "127.0.0.1:9090", false),
        ("0.0.0.0:9090", "127.0.0.1:9090", false),
        ("127.0.0.1:9090", "0.0.0.0:9090", false),
        ("[::]:9090", "127.0.0.1:9090", false),
        ("127.0.0.1:9090", "[::ffff:127.0.0.1]:9090", false),
        ("0.0.0.0:9090", "[::1]:9090", true),
        ("127.0.0.1:9090", "127.0.0.2:9090", true),
        ("127.0.0.1:9090", "127.0.0.1:9091", true),
        ("127.0.0.1:0", "127.0.0.1:0", true),
    ] {
        let flags = [("server.listen", public), ("admin.listen", admin), ("auth.open", "true")];
        match load(&[], &flags) {
            Ok(_) => assert!(together, "{public} and {admin}"),
            result => refused(result, &["admin.listen", public, "choose another one"]),
        }
    }
    let proxied = [("server.proxy_protocol", "true")];
    refused(load(&[], &proxied), &["server.proxy_protocol = true", "server.trusted_proxies"]);
    load(&[("SSE_SERVER__TRUSTED_PROXIES", "192.0.2.1")], &proxied).unwrap();
    let result = load(&[("SSE_DRAIN__SPREAD", "1m")], &[]);
    refused(
        result,
        &["drain.deadline = \"20s\"", "drain.spread = \"1m\" (variable SSE_DRAIN__SPREAD)"],
    );
}

#[test]
fn variables_of_others_are_passed_over() {
    let others = [
        ("SSE_URL", "http://elsewhere"),
        ("SSE_PUBLISH_PROFILE", "production"),
        ("SSE_PUBLISH_CONFIG", "config.toml"),
        ("SSE_PORT", "8080"),
        ("SSE_PORT", "tcp://10.0.0.1:80"),
        ("SSE_GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("SSE_GATEWAY_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("SSE_REDIS_PORT", "tcp://10.0.0.1:6379"),
        ("SSE_KMS_KEY_ID", "x"),
        ("PATH", "/bin"),
    ];
    for other in others {
        load(&[other], &[]).unwrap_or_else(|error| panic!("{other:?}: {error}"));
    }
}

#[test]
fn what_is_not_utf8_is_an_error_only_where_it_is_ours() {
    let odd = || OsString::from_vec(vec![0xff, 0xfe]);
    let load = |name: &str| Config::load(None, [(OsString::from(name), odd())].into_iter(), &[]);
    load("LS_COLORS").unwrap();
    load("SSE_URL").unwrap();
    let error = load("SSE_REDIS__PREFIX").unwrap_err().to_string();
    assert!(error.contains("variable SSE_REDIS__PREFIX: not UTF-8"), "{error}");
    Config::load(None, [(odd(), odd())].into_iter(), &[]).unwrap();
}

#[test]
fn the_first_rule_that_matches_holds() {
    let rules = "tick:*=latest, a*b*c=close,x=y=close";
    let config = load(&[], &[("stream.slow_readers", rules)]).unwrap();
    for (channel, policy) in [
        ("tick:eur", SlowReader::Latest),
        ("tick", SlowReader::Replay),
        ("abc", SlowReader::Close),
        ("a-b-b-c", SlowReader::Close),
        ("ac", SlowReader::Replay),
        ("x=y", SlowReader::Close),
    ] {
        assert_eq!(config.stream.slow_reader(&channel.parse().unwrap()), policy, "{channel}");
    }
}
