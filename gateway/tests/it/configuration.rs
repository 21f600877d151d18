//! Tests that every configuration that `--check-config` accepts also starts: both ports answer,
//! however odd the values are.

use std::ffi::OsString;

use sse_gateway::Config;
use sse_gateway::config::checks::{DURATIONS, WHOLE};

use crate::support::{Redis, TestGateway, request};

/// Starts a gateway and checks that both ports answer, and that the answers allow `origin`.
#[track_caller]
fn serves(settings: &[(&str, &str)], origin: Option<&str>) -> TestGateway {
    let gateway = TestGateway::memory(settings);
    for _ in 0..4 {
        let headers: Vec<(&str, &str)> = origin.iter().map(|origin| ("Origin", *origin)).collect();
        let page = request(gateway.addr, "GET", "/", &headers, b"");
        assert_eq!(page.status, 200, "{settings:?}: {}", page.body);
        if origin.is_some() {
            let head = page.head.to_ascii_lowercase();
            assert!(head.contains("access-control-allow-origin"), "{settings:?}: {head}");
        }
    }
    assert_eq!(gateway.admin("/readyz").status, 200, "{settings:?}");
    gateway
}

#[test]
fn odd_origins_that_are_accepted_start_and_match() {
    for (origins, origin) in [
        ("", None),
        (" ", None),
        ("*", Some("https://any.example")),
        (" * ", Some("https://any.example")),
        ("https://a.example, http://localhost:3000", Some("http://localhost:3000")),
        ("https://xn--bcher-kva.example", Some("https://xn--bcher-kva.example")),
        ("http://[::1]:8080", Some("http://[::1]:8080")),
        ("capacitor://localhost", Some("capacitor://localhost")),
    ] {
        serves(&[("cors.origins", origins)], origin).stop();
    }
}

/// Every setting that has bounds, at its lowest or highest value, except the settings in `but`.
fn at_the_ends(most: bool, but: &[&str]) -> Vec<(&'static str, String)> {
    let whole = WHOLE.iter().map(|(key, low, high)| (*key, if most { *high } else { *low }));
    let whole = whole.map(|(key, number)| (key, number.to_string()));
    let durations =
        DURATIONS.iter().map(|(key, low, high)| (*key, if most { *high } else { *low }));
    let durations = durations.map(|(key, time)| (key, format!("{}ms", time.as_millis())));
    whole.chain(durations).filter(|(key, _)| !but.contains(key)).collect()
}

fn borrowed<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    settings.iter().map(|(key, value)| (*key, value.as_str())).collect()
}

#[test]
fn a_gateway_serves_at_both_ends_of_every_bound() {
    for most in [false, true] {
        // The highest value of `server.workers` is too many threads for a small machine.
        serves(&borrowed(&at_the_ends(most, &["server.workers"])), None).stop();
        // A single connection cannot serve a stream and a publisher, and without `stream.open_wait`
        // the stream begins with a gap.
        let but = ["server.workers", "server.max_connections", "stream.open_wait"];
        let gateway = TestGateway::memory(&borrowed(&at_the_ends(most, &but)));
        let mut stream = gateway.live("channel=demo");
        if most {
            gateway.publish("demo", "x");
            assert_eq!(stream.event().data, "x");
        }
        drop(stream);
        gateway.settled();
    }
}

#[test]
fn a_gateway_reaches_redis_at_both_ends_of_every_bound() {
    for most in [false, true] {
        let redis = Redis::start();
        let mut but = vec!["server.workers", "server.max_connections", "stream.open_wait"];
        if !most {
            // The lowest timeouts are a millisecond, and Redis may take longer.
            but.extend(["redis.connect_timeout", "redis.answer_timeout"]);
        }
        let gateway = TestGateway::redis(&redis, &borrowed(&at_the_ends(most, &but)));
        assert_eq!(gateway.admin("/readyz").status, 200);
        // A client that is let in before its stream has a position is told so by a gap.
        let first = gateway.subscribe("channel=demo").next();
        assert!(["checkpoint", "gap"].contains(&first.event.as_str()), "{first:?}");
        gateway.settled();
    }
}

/// The `SSE_` variables in a file, written as `NAME: value` or `NAME=value`.
fn variables(text: &str) -> Vec<(OsString, OsString)> {
    let lines =
        text.lines().map(|line| line.trim().trim_start_matches("ENV ").trim_end_matches('\\'));
    let pairs = lines.filter(|line| line.starts_with("SSE_")).filter_map(|line| {
        let at = line.find([':', '='])?;
        let value = line[at + 1..].trim().trim_matches('"');
        Some((line[..at].into(), value.into()))
    });
    pairs.collect()
}

#[test]
fn what_compose_and_the_image_set_is_valid_together() {
    const ONE_REDIS: &str = "redis://redis:6379";
    let compose = include_str!("../../../docker-compose.yml");
    let url_variable = format!("${{GATEWAY_REDIS_URL:-{ONE_REDIS}}}");
    assert_eq!(compose.matches(&url_variable).count(), 1);
    for chosen in [
        "",
        include_str!("../../../deploy/sentinel.env"),
        include_str!("../../../deploy/cluster.env"),
    ] {
        let url = chosen.lines().find_map(|line| line.strip_prefix("GATEWAY_REDIS_URL="));
        assert_eq!(url.is_some(), !chosen.is_empty());
        let url = url.unwrap_or(ONE_REDIS);
        let compose = variables(&compose.replace(&url_variable, url));
        let image = variables(include_str!("../../../deploy/Dockerfile"));
        assert!(compose.len() >= 3 && image.len() >= 3, "{compose:?} {image:?}");
        let config = Config::load(None, image.into_iter().chain(compose), &[]).unwrap();
        assert_eq!(config.redis.url, url);
    }
}

/// The Debian package's file as it is installed, and that of Kubernetes with what the image and the
/// Secret set.
#[test]
fn the_configurations_of_the_package_and_of_kubernetes_are_valid() {
    let deploy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let file = deploy.join("debian/gateway.toml");
    let package = Config::read(Some(&file), std::iter::empty(), &[]).unwrap();
    assert!(package.server.listen.ip().is_loopback() && package.admin.listen.ip().is_loopback());
    let image = variables(include_str!("../../../deploy/Dockerfile"));
    let secret = ("SSE_REDIS__URL".into(), "redis://:secret@redis:6379".into());
    let file = deploy.join("kubernetes/base/gateway.toml");
    let pod = Config::read(Some(&file), image.into_iter().chain([secret]), &[]).unwrap();
    assert!(pod.server.listen.ip().is_unspecified() && pod.admin.listen.ip().is_unspecified());
    assert!(!pod.auth.open && !pod.stream.max_age.is_zero());
}

#[test]
fn compose_publishes_on_loopback_until_somebody_says_otherwise() {
    let compose = include_str!("../../../docker-compose.yml");
    let ports: Vec<&str> =
        compose.lines().map(str::trim).filter(|line| line.starts_with("ports:")).collect();
    assert_eq!(ports.len(), 3, "{ports:?}");
    for port in ports {
        let loopback = ["ports: [\"127.0.0.1:", "ports: [\"${SSE_BIND:-127.0.0.1}:"];
        assert!(loopback.iter().any(|begin| port.starts_with(begin)), "{port}");
    }
    let ignored = include_str!("../../../.gitignore");
    assert!(ignored.lines().any(|line| line == ".env"), "a .env may hold secrets");
}
