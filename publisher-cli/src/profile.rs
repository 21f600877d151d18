//! The configuration file and its profiles. A profile names a gateway or a Redis, and the files
//! that hold its credential. No error message contains any part of a credential.

use std::path::{Path, PathBuf};

use hyper::header::{HeaderName, HeaderValue};
use toml::de::{DeTable, DeValue};

use crate::address::BaseUrl;
use crate::environment::Environment;
use crate::http_args::header;
use crate::plain::of_system;
use crate::publish_args::prefix;

/// What a profile may have, for error messages.
const KEYS: &str = "url, redis, prefix, token_file, key_file and headers";

/// One profile of the configuration file. The default is what a run without a profile has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// The profile's name; empty without a profile.
    pub name: String,
    /// The gateway.
    pub url: Option<BaseUrl>,
    /// The Redis, instead of a gateway.
    pub redis: Option<String>,
    /// The prefix of the gateway's keys in Redis.
    pub prefix: Option<String>,
    /// The file that holds a token.
    pub token_file: Option<PathBuf>,
    /// The file that holds an API key.
    pub key_file: Option<PathBuf>,
    /// Headers of every request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Profile {
    /// The profile that the option or the environment names, else the file's default profile, if
    /// there is one.
    pub fn choose(option: Option<&str>, environment: &Environment) -> Result<Profile, String> {
        let named = option.or(environment.profile.as_deref());
        let (path, must_exist) = match (&environment.config, &environment.usual_config) {
            (Some(path), _) => (path, true),
            (None, Some(path)) => (path, named.is_some()),
            (None, None) if named.is_none() => return Ok(Profile::default()),
            (None, None) => return Err("a profile needs SSE_PUBLISH_CONFIG or HOME".to_owned()),
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => {
                return Ok(Profile::default());
            }
            Err(error) => {
                let what = named.map_or_else(String::new, |name| format!("profile {name}: "));
                return Err(format!("{what}{}: {}", path.display(), of_system(&error)));
            }
        };
        File { text: &text, path, home: environment.home.as_deref() }.profile(named)
    }

    /// The content of the file that holds a credential. An editor ends a file with a line end,
    /// which is no part of it.
    pub fn read_credential(path: &Path) -> Result<String, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {}", path.display(), of_system(&error)))?;
        match text.trim_ascii() {
            "" => Err(format!("{}: the file is empty", path.display())),
            text => Ok(text.to_owned()),
        }
    }
}

/// The text of a configuration file, and where it is.
struct File<'a> {
    text: &'a str,
    path: &'a Path,
    home: Option<&'a Path>,
}

impl File<'_> {
    fn wrong(&self, at: usize, what: &str) -> String {
        let line = self.text[..at.min(self.text.len())].matches('\n').count() + 1;
        format!("{}, line {line}: {what}", self.path.display())
    }

    fn profile(&self, named: Option<&str>) -> Result<Profile, String> {
        let table = DeTable::parse(self.text).map_err(|error| {
            self.wrong(error.span().map_or(0, |span| span.start), error.message())
        })?;
        let (mut default, mut profiles) = (None, None);
        for (key, value) in table.get_ref() {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("default", DeValue::String(name)) => default = Some((name, value.span().start)),
                ("profiles", DeValue::Table(table)) => profiles = Some(table),
                ("default", _) => {
                    return Err(
                        self.wrong(value.span().start, "default is a profile's name in quotes")
                    );
                }
                (key, _) => {
                    let what = format!(
                        "{key:?} is not expected here; there are default, and a section [profiles.NAME] \
                         for each profile"
                    );
                    return Err(self.wrong(value.span().start, &what));
                }
            }
        }
        // Every profile is read, so that a mistake does not wait for the day when it is chosen.
        let mut all = Vec::new();
        for (name, value) in profiles.into_iter().flatten() {
            let at = name.span().start;
            let DeValue::Table(table) = value.get_ref() else {
                return Err(self.wrong(at, "a profile is a section [profiles.NAME]"));
            };
            all.push(self.read(name.get_ref(), at, table)?);
        }
        let Some(wanted) = named.or(default.map(|(name, _)| name.as_ref())) else {
            return Ok(Profile::default());
        };
        let names: Vec<_> = all.iter().map(|profile| profile.name.clone()).collect();
        all.into_iter().find(|profile| profile.name == wanted).ok_or_else(|| {
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let what = format!("there is no profile {wanted:?}; there are: {there}");
            match (named, default) {
                (None, Some((_, at))) => self.wrong(at, &what),
                _ => format!("{}: {what}", self.path.display()),
            }
        })
    }

    fn read(&self, name: &str, at: usize, table: &DeTable<'_>) -> Result<Profile, String> {
        let mut profile = Profile { name: name.to_owned(), ..Profile::default() };
        for (key, value) in table {
            let (key, at) = (key.get_ref().as_ref(), value.span().start);
            let wrong = |why: String| self.wrong(at, &format!("{key}: {why}"));
            if key == "headers" {
                profile.headers = headers(value.get_ref()).map_err(wrong)?;
                continue;
            }
            let text = match value.get_ref() {
                DeValue::String(text) => text.as_ref(),
                _ => return Err(wrong("is a text in quotes".to_owned())),
            };
            match key {
                "url" => profile.url = Some(text.parse().map_err(wrong)?),
                "redis" => profile.redis = Some(text.to_owned()),
                "prefix" => profile.prefix = Some(prefix(text).map_err(wrong)?),
                "token_file" => profile.token_file = Some(self.beside(text)),
                "key_file" => profile.key_file = Some(self.beside(text)),
                _ => {
                    let what = format!("a profile has no {key:?}; it may have {KEYS}");
                    return Err(self.wrong(at, &what));
                }
            }
        }
        let secret = profile.token_file.is_some() || profile.key_file.is_some();
        let conflict = if profile.url.is_some() && profile.redis.is_some() {
            "url and redis exclude each other"
        } else if profile.token_file.is_some() && profile.key_file.is_some() {
            "token_file and key_file exclude each other"
        } else if profile.url.is_none() && (secret || !profile.headers.is_empty()) {
            "token_file, key_file and headers need url: they are sent to that gateway alone"
        } else {
            return Ok(profile);
        };
        Err(self.wrong(at, &format!("profile {name}: {conflict}")))
    }

    /// A path in the file: below the home directory if it begins with `~/`, else relative to the
    /// file's own directory.
    fn beside(&self, text: &str) -> PathBuf {
        match (text.strip_prefix("~/"), self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => self.path.parent().unwrap_or(Path::new("")).join(text),
        }
    }
}

fn headers(value: &DeValue<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let shape = || "is a list of texts: [\"Name: value\"]".to_owned();
    let DeValue::Array(values) = value else { return Err(shape()) };
    let one = |value: &toml::Spanned<DeValue<'_>>| match value.get_ref() {
        DeValue::String(text) => header(text),
        _ => Err(shape()),
    };
    values.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
default = \"local\"
[profiles.local]
url = \"http://127.0.0.1:8080/\"
[profiles.prod]
url = \"https://events.example.org\"
token_file = \"prod.token\"
headers = [\"X-A: b\"]
[profiles.redis]
redis = \"redis://r\"
prefix = \"shop\"
[profiles.home]
url = \"http://h\"
key_file = \"~/k\"
";

    fn read(text: &str, named: Option<&str>) -> Result<Profile, String> {
        let (path, home) = (Path::new("/etc/x/config.toml"), Some(Path::new("/home/a")));
        File { text, path, home }.profile(named)
    }

    #[test]
    fn a_profile_is_named_or_the_default() {
        assert_eq!(read(GOOD, None).unwrap().name, "local");
        let prod = read(GOOD, Some("prod")).unwrap();
        assert_eq!(prod.token_file.unwrap(), Path::new("/etc/x/prod.token"));
        assert_eq!((prod.url.unwrap().host(), prod.headers.len()), ("events.example.org", 1));
        assert_eq!(read(GOOD, Some("redis")).unwrap().prefix.as_deref(), Some("shop"));
        assert_eq!(read(GOOD, Some("home")).unwrap().key_file.unwrap(), Path::new("/home/a/k"));
        assert_eq!(read("", None), Ok(Profile::default()));
        let error = read(GOOD, Some("proud")).unwrap_err();
        assert!(error.contains("there are: home, local, prod, redis"), "{error}");
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        for (text, want) in [
            ("default = \"x\"", "line 1: there is no profile \"x\"; there are: none"),
            ("default = 1", "line 1: default is a profile's name"),
            ("[profile.a]", "line 1: \"profile\" is not expected here"),
            ("\n[profiles.a]\nurl = 'x'", "line 3: url: \"x\" is not an http:// or https:// URL"),
            ("[profiles.a]\nurl = 7", "line 2: url: is a text in quotes"),
            ("[profiles.a]\ntoken = 'eyJ'", "line 2: a profile has no \"token\"; it may have url"),
            (
                "[profiles.a]\ntoken_file = 'x'",
                "line 1: profile a: token_file, key_file and headers need url",
            ),
            ("[profiles.a]\nurl='http://a'\nredis='redis://b'", "exclude each other"),
            ("[profiles.a]\nheaders='x: y'", "line 2: headers: is a list of texts"),
            ("[profiles]\na = 1", "line 2: a profile is a section [profiles.NAME]"),
            ("[profiles.a", "line 1: "),
        ] {
            let error = read(text, None).unwrap_err();
            assert!(
                error.starts_with("/etc/x/config.toml, ") && error.contains(want),
                "{text}: {error}"
            );
        }
    }
}
