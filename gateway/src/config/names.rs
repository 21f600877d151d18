//! Names of settings in files and in the environment, and suggestions for misspelt names.
//!
//! An environment variable is a setting only with two underscores between section and key, because
//! other programs also set variables with the prefix `SSE_`. Kubernetes sets several for each
//! Service in the namespace; if those were taken for settings, a Service called `sse` or
//! `sse-redis` would keep the gateway from starting. A variable that resembles a setting is still
//! an error: silently ignoring a setting is worse.

use strsim::damerau_levenshtein;

use crate::config::sources::Settings;

/// Variables without two underscores that `sse-publish` and `docker-compose.yml` read.
const OF_OTHERS: [&str; 10] = [
    "SSE_URL",
    "SSE_REDIS",
    "SSE_TOKEN",
    "SSE_KEY",
    "SSE_PUBLISH_PROFILE",
    "SSE_PUBLISH_CONFIG",
    "SSE_BIND",
    "SSE_PORT",
    "SSE_NOFILE",
    "SSE_IMAGE",
];

/// The variable by which all of OpenTelemetry is told of a collector. A program that was built
/// without spans ignores it, because a cluster may set it for every process.
const COLLECTOR: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// What an environment variable is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Variable {
    /// Another program; ignore it.
    Foreign,
    /// The setting with this key.
    Setting(String),
    /// Nothing, but the name resembles a setting. Holds advice on what may have been meant.
    Mistaken(String),
}

/// Classifies an environment variable. The case of its name does not matter.
pub(crate) fn variable(name: &str, value: &str) -> Variable {
    let name = name.to_ascii_uppercase();
    if name == COLLECTOR && !value.is_empty() && cfg!(feature = "otlp") {
        return Variable::Setting("telemetry.otlp".to_owned());
    }
    let Some(rest) = name.strip_prefix("SSE_") else { return Variable::Foreign };
    if OF_OTHERS.contains(&name.as_str()) || is_of_a_service(&name, value) {
        return Variable::Foreign;
    }
    let key = rest.to_ascii_lowercase().replace("__", ".");
    if Settings::defaults().iter().any(|(known, _)| known == key) {
        return Variable::Setting(key);
    }
    let (near, ours) =
        if key.contains('.') { (nearest(&key), true) } else { (near_misses(&key), false) };
    if near.is_empty() {
        return if ours { Variable::Mistaken(no_such_setting(&key)) } else { Variable::Foreign };
    }
    let meant = near.iter().map(|key| format!("{key} is set by {}", variable_of(key)));
    let meant = meant.collect::<Vec<_>>().join(", ");
    Variable::Mistaken(format!("there is no such setting; {meant}"))
}

/// The environment variable of a setting.
pub(crate) fn variable_of(key: &str) -> String {
    format!("SSE_{}", key.to_ascii_uppercase().replace('.', "__"))
}

/// Whether Kubernetes or a Docker link sets this variable for a Service X: `X_SERVICE_HOST`,
/// `X_SERVICE_PORT`, `X_SERVICE_PORT_NAME`, `X_PORT`, and `X_PORT_80_TCP` alone or followed by
/// `_PROTO`, `_PORT` or `_ADDR`.
fn is_of_a_service(name: &str, value: &str) -> bool {
    if name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
    {
        return true;
    }
    // A Service name may contain two hyphens in a row, but SSE_SERVER__PORT=80 is more likely a
    // mistake.
    if name.ends_with("_PORT") && (!name.contains("__") || value.contains("://")) {
        return true;
    }
    let Some((_, port)) = name.rsplit_once("_PORT_") else { return false };
    let mut parts = port.split('_');
    let (Some(number), Some(protocol), of_it) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    of_it.is_none_or(|part| matches!(part, "PROTO" | "PORT" | "ADDR"))
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && matches!(protocol, "TCP" | "UDP" | "SCTP")
}

/// The message for an unknown setting, with the nearest known names.
pub(crate) fn no_such_setting(key: &str) -> String {
    match nearest(key).as_slice() {
        [] => "there is no such setting; `sse-gateway defaults` prints all".to_owned(),
        near => format!("there is no such setting; the nearest is {}", near.join(" or ")),
    }
}

/// Whether a section of this name exists.
pub(crate) fn is_section(name: &str) -> bool {
    sections().any(|section| section == name)
}

/// The message for an unknown section, with the nearest known one.
pub(crate) fn no_such_section(name: &str) -> String {
    let near = sections().min_by_key(|section| damerau_levenshtein(name, section));
    let advice = near.filter(|near| damerau_levenshtein(name, near) <= 2);
    let advice = advice.map(|near| format!("the nearest is [{near}]"));
    let advice = advice.unwrap_or_else(|| "`sse-gateway defaults` prints all".to_owned());
    format!("there is no such section; {advice}")
}

fn sections() -> impl Iterator<Item = &'static str> {
    let of = |key: &'static str| key.match_indices('.').map(move |(at, _)| &key[..at]);
    Settings::defaults().iter().flat_map(move |(key, _)| of(key))
}

fn last_part(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, last)| last)
}

/// The settings whose names are closest to this one; empty if none is close.
fn nearest(key: &str) -> Vec<&'static str> {
    closest(2.max(key.len() / 3), |known| {
        let whole = damerau_levenshtein(key, known);
        // The right key in the wrong section counts as close.
        if last_part(key) == last_part(known) { whole.min(2) } else { whole }
    })
}

/// The settings that a variable without two underscores may have meant. Compares, without
/// underscores and dots, against whole names and against keys without section, and allows a few
/// typing errors.
fn near_misses(name: &str) -> Vec<&'static str> {
    let squeezed = |text: &str| text.replace(['_', '.'], "");
    let name = squeezed(name);
    let slips = match name.len() {
        0..5 => 0,
        5..9 => 1,
        _ => 2,
    };
    closest(slips, |known| {
        let whole = damerau_levenshtein(&name, &squeezed(known));
        whole.min(damerau_levenshtein(&name, &squeezed(last_part(known))))
    })
}

/// The settings at the smallest distance; empty if that exceeds `most`.
fn closest(most: usize, distance: impl Fn(&str) -> usize) -> Vec<&'static str> {
    let known = Settings::defaults().iter().map(|(known, _)| (known, distance(known)));
    let known: Vec<(&str, usize)> = known.filter(|(_, distance)| *distance <= most).collect();
    let least = known.iter().map(|(_, distance)| *distance).min();
    known.iter().filter(|(_, d)| Some(*d) == least).map(|(known, _)| *known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mistaken(name: &str) -> String {
        match variable(name, "x") {
            Variable::Mistaken(advice) => advice,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn a_variable_that_comes_close_is_named_with_what_was_meant() {
        for (name, meant) in [
            ("SSE_REDIS_URL", "SSE_REDIS__URL"),
            ("SSE_REDISURL", "SSE_REDIS__URL"),
            ("SSE_REDDIS_URL", "SSE_REDIS__URL"),
            ("SSE_LISTEN", "SSE_ADMIN__LISTEN, server.listen is set by SSE_SERVER__LISTEN"),
            ("SSE_SERVER_LISTEN", "SSE_SERVER__LISTEN"),
            ("SSE_BROKR", "SSE_BROKER"),
            ("SSE_AUTH_OPEN", "SSE_AUTH__OPEN"),
            ("SSE_HEARTBEAT", "SSE_STREAM__HEARTBEAT"),
            ("SSE_REDIS__TIK", "SSE_REDIS__TICK"),
            ("SSE_REDDIS__TICK", "SSE_REDIS__TICK"),
            ("SSE_SERVER__HEARTBEAT", "SSE_STREAM__HEARTBEAT"),
            ("sse_redis_url", "SSE_REDIS__URL"),
        ] {
            let advice = mistaken(name);
            assert!(advice.contains(meant), "{name}: {advice}");
        }
        assert!(mistaken("SSE_SERVER__PORT").contains("no such setting"));
        assert!(mistaken("SSE_WHAT__EVER").contains("sse-gateway defaults"));
    }

    #[test]
    fn a_setting_has_one_variable_and_the_short_list_is_foreign() {
        for (key, _) in Settings::defaults().iter() {
            assert_eq!(variable(&variable_of(key), "x"), Variable::Setting(key.to_owned()));
        }
        for name in OF_OTHERS {
            assert_eq!(variable(name, "x"), Variable::Foreign, "{name}");
        }
        for name in ["PATH", "SSEGATEWAY", "SSE_KMS_KEY_ID", "SSE_ALGORITHM", "SSE_"] {
            assert_eq!(variable(name, "x"), Variable::Foreign, "{name}");
        }
    }

    /// The variables that Kubernetes sets for a Service.
    fn of_a_service(service: &str, port: &str) -> Vec<(String, String)> {
        let name = service.to_ascii_uppercase().replace('-', "_");
        let port = port.to_ascii_uppercase().replace('-', "_");
        let url = "tcp://10.0.0.1:6379";
        [
            ("SERVICE_HOST", "10.0.0.1"),
            ("SERVICE_PORT", "6379"),
            (&format!("SERVICE_PORT_{port}"), "6379"),
            ("PORT", url),
            ("PORT_6379_TCP", url),
            ("PORT_6379_TCP_PROTO", "tcp"),
            ("PORT_6379_TCP_PORT", "6379"),
            ("PORT_6379_TCP_ADDR", "10.0.0.1"),
            ("PORT_53_UDP", "udp://10.0.0.1:53"),
            ("PORT_7_SCTP_ADDR", "10.0.0.1"),
        ]
        .map(|(form, value)| (format!("{name}_{form}"), value.to_owned()))
        .into()
    }

    proptest! {
        #[test]
        fn no_service_of_kubernetes_is_taken_for_a_setting(
            section in "(sse|sse-gateway|sse-redis|sse-server|sse-log|sse-broker|sse-[a-z]{1,9}(-{1,2}[a-z0-9]{1,9}){0,2})",
            at in 0usize..100,
            port in "[a-z]([a-z-]{0,6}[a-z])?",
        ) {
            let keys: Vec<&str> = Settings::defaults().iter().map(|(key, _)| key).collect();
            let of_a_setting = format!("sse-{}", keys[at % keys.len()].replace(['.', '_'], "-"));
            let leaf = last_part(keys[at % keys.len()]).replace('_', "-");
            for service in [section, of_a_setting, format!("sse-{leaf}")] {
                for (name, value) in of_a_service(&service, &port).into_iter().chain(of_a_service(&service, &leaf)) {
                    prop_assert_eq!(variable(&name, &value), Variable::Foreign, "{}={}", name, value);
                }
            }
        }
    }
}
