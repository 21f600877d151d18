//! How the values of settings are shown to people: without secrets.

use std::fmt::Write as _;

use serde_json::Value;

use crate::config::sources::Settings;
use crate::config::words;

/// What stands for a secret where a valid configuration is printed.
const SECRET: &str = "***";

/// A value for an error message: without secrets, and at most 200 characters long.
pub(super) fn shown(key: &str, value: &Value) -> String {
    let text = match value {
        Value::String(url) if key == "redis.url" => format!("{:?}", without_credentials(url, "…")),
        Value::String(url) if key == "auth.forward.url" || key == "telemetry.otlp" => {
            let end = url.find(['?', '#']).unwrap_or(url.len());
            format!("{:?}", without_credentials(&url[..end], "…"))
        }
        // These lines contain secrets, and a mistake can put one anywhere in the line.
        Value::Array(lines) if has_key_lines(key) => {
            let lines: Vec<String> =
                lines.iter().filter_map(Value::as_str).map(words::shown).collect();
            format!("{lines:?}")
        }
        Value::String(text) if has_key_lines(key) => words::shown(text),
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    };
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// All settings of a valid configuration in TOML, each with a comment that says where its value was
/// given. `***` stands for each secret.
pub fn with_places(settings: &Settings) -> String {
    let mut text =
        "# Every setting, and where its value was given. *** stands for each secret.\n".to_owned();
    let section = |key: &str| key.rsplit_once('.').map_or("", |(section, _)| section).to_owned();
    let mut all: Vec<_> =
        settings.iter().map(|(key, setting)| (section(key), key, setting)).collect();
    // In TOML, what has no section stands before the first section.
    all.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    let mut current = String::new();
    for (section, key, setting) in all {
        if section != current {
            let _ = write!(text, "\n[{section}]\n");
            current = section;
        }
        let name = key.rsplit('.').next().unwrap_or(key);
        let value = toml(&without_secrets(key, &setting.value));
        // A file's name may have any character, and a comment ends with its line.
        let place = setting.place.to_string().replace(char::is_control, "?");
        let _ = writeln!(text, "{name} = {value}  # {place}");
    }
    text
}

/// A value of a valid configuration, with `***` for each secret.
fn without_secrets(key: &str, value: &Value) -> Value {
    match value {
        Value::String(url) if key == "redis.url" || key == "auth.forward.url" => {
            without_credentials(url, SECRET).into()
        }
        Value::Array(lines) if has_key_lines(key) => {
            lines.iter().filter_map(Value::as_str).map(line_without_secrets).collect()
        }
        other => other.clone(),
    }
}

/// A line such as `name=a hash=… publish=*` with `***` for each secret.
fn line_without_secrets(line: &str) -> String {
    let word = |word: &str| match word.split_once('=') {
        Some((name @ ("hash" | "secret"), _)) => format!("{name}={SECRET}"),
        Some(("jwks", url)) if url.contains("://") => {
            format!("jwks={}", without_credentials(url, SECRET))
        }
        _ => word.to_owned(),
    };
    line.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

fn has_key_lines(key: &str) -> bool {
    key == "auth.keys" || key == "auth.jwt.keys"
}

/// Puts `mark` in place of user and password: of everything before the last `@`, even if the URL is
/// malformed, and of the query, which holds them in the URL of a Unix socket.
fn without_credentials(url: &str, mark: &str) -> String {
    let url = match url.rsplit_once('@') {
        Some((before, host)) => {
            let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
            format!("{scheme}://{mark}@{host}")
        }
        None => url.to_owned(),
    };
    url.split_once('?').map_or(url.clone(), |(before, _)| format!("{before}?{mark}"))
}

/// A text, whole number, boolean or list of texts, as TOML 1.0 writes it.
fn toml(value: &Value) -> String {
    // JSON writes these alike, but for one character that TOML wants escaped.
    value.to_string().replace('\u{7f}', "\\u007F")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::sources::{Place, Setting};

    fn printed(pairs: &[(&str, &str)]) -> String {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let (_, settings) =
            Config::with_settings(None, std::iter::empty(), &crate::config::flags(&pairs)).unwrap();
        with_places(&settings)
    }

    #[test]
    fn what_is_printed_can_be_read_and_says_where_each_value_is_from() {
        let text = printed(&[
            ("stream.heartbeat", "7s"),
            ("cors.origins", "https://a.example,https://b.example"),
            ("auth.cookie", "a\u{7f}b"),
            ("redis.prefix", "other"),
        ]);
        let mut again = Settings::defaults().clone();
        let file = std::env::temp_dir().join(format!("sse-printed-{:x}.toml", fastrand::u64(..)));
        std::fs::write(&file, &text).unwrap();
        again.add_file(&file).unwrap_or_else(|error| panic!("{error}: {text}"));
        std::fs::remove_file(&file).unwrap();
        for (key, default) in Settings::defaults().iter() {
            let Setting { value, place } = again.get(key);
            assert!(matches!(place, Place::File { .. }), "{key} is not printed");
            match key {
                "stream.heartbeat" => assert_eq!(value, "7s"),
                "auth.cookie" => assert_eq!(value, "a\u{7f}b"),
                "redis.prefix" => assert_eq!(value, "other"),
                "cors.origins" => assert_eq!(value.as_array().unwrap().len(), 2),
                _ => assert_eq!(*value, default.value, "{key}"),
            }
        }
        assert!(text.contains("\nheartbeat = \"7s\"  # flag --set stream.heartbeat\n"), "{text}");
        assert!(text.contains("\nretry = \"3s\"  # the default\n"), "{text}");
    }

    #[test]
    fn no_secret_is_printed() {
        let hash = "a".repeat(64);
        let text = printed(&[
            ("auth.keys", &format!("name=billing hash={hash} publish=orders")),
            (
                "auth.jwt.keys",
                "alg=HS256 secret=super-secret-super-secret-super-secret,alg=RS256 jwks=https://me:super-secret@a.example/jwks?key=super-secret",
            ),
            ("auth.forward.url", "https://me:super-secret@a.example/ask?key=super-secret"),
            ("redis.url", "redis://me:super-secret@10.0.0.5:6379"),
        ]);
        assert!(!text.contains("super-secret") && !text.contains(&hash), "{text}");
        for line in [
            "keys = [\"name=billing hash=*** publish=orders\"]  # flag --set auth.keys",
            "keys = [\"alg=HS256 secret=***\",\"alg=RS256 jwks=https://***@a.example/jwks?***\"]",
            "url = \"https://***@a.example/ask?***\"",
            "url = \"redis://***@10.0.0.5:6379\"  # flag --set redis.url",
            "broker = \"redis\"  # flag --set redis.url",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[test]
    fn a_place_never_ends_its_comment() {
        let mut settings = Settings::defaults().clone();
        let name = "odd\nbroker = \"redis\"".to_owned();
        settings.imply("broker", "memory", Place::File { name, line: 1 });
        let text = with_places(&settings);
        assert!(text.contains("broker = \"memory\"  # odd?broker"), "{text}");
    }
}
