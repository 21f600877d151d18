//! The layers of the configuration: embedded defaults, file, environment, flags. Later ones
//! override earlier ones.
//!
//! Every setting keeps the place where it was given, for error messages. [`Settings`] accepts only
//! known names, and converts each value to the JSON type of its default. It does not check what the
//! value means.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::sync::LazyLock;

use serde_json::Value;
use toml::de::{DeTable, DeValue};

use crate::config::names::{self, Variable};
use crate::config::{ConfigError, DEFAULTS};

/// Where a setting was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Nowhere; the setting has its default.
    Default,
    /// In a file.
    File {
        /// The file's path as given on the command line.
        name: String,
        /// The line, counted from 1.
        line: usize,
    },
    /// In this environment variable.
    Variable(String),
    /// By this command-line flag.
    Flag(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Default => f.write_str("the default"),
            Place::File { name, line } => write!(f, "{name}, line {line}"),
            Place::Variable(name) => write!(f, "variable {name}"),
            Place::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A command-line flag that sets a setting.
#[derive(Debug, Clone)]
pub struct Flag {
    /// The flag as written, for error messages.
    pub name: String,
    /// The key of the setting.
    pub key: String,
    /// The value as text.
    pub value: String,
}

/// A setting's value and where it was given.
#[derive(Debug, Clone)]
pub struct Setting {
    /// A text, whole number, boolean or list of texts.
    pub value: Value,
    /// Where the value was given.
    pub place: Place,
}

/// All settings by key, such as `stream.heartbeat`.
#[derive(Debug, Clone)]
pub struct Settings(BTreeMap<String, Setting>);

static OF_DEFAULTS: LazyLock<Settings> = LazyLock::new(|| {
    let given = entries(DEFAULTS, "defaults.toml").expect("the embedded defaults are valid");
    let with_place = |(key, value, _)| (key, Setting { value, place: Place::Default });
    Settings(given.into_iter().map(with_place).collect())
});

impl Settings {
    /// The embedded defaults, which contain every setting.
    pub fn defaults() -> &'static Settings {
        &OF_DEFAULTS
    }

    /// The setting of this key. Panics if the key is unknown.
    pub fn get(&self, key: &str) -> &Setting {
        &self.0[key]
    }

    /// All settings, ordered by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Setting)> {
        self.0.iter().map(|(key, setting)| (key.as_str(), setting))
    }

    /// Sets a value that another setting implies, as if given at that setting's place.
    pub fn imply(&mut self, key: &str, value: &str, place: Place) {
        self.0.insert(key.to_owned(), Setting { value: value.into(), place });
    }

    /// Adds the settings of a file.
    pub fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::new(format!("{name}: {error}")))?;
        for (key, value, place) in entries(&text, &name)? {
            self.set(key, value, place)?;
        }
        Ok(())
    }

    /// Adds the settings in the environment. Ignores variables of other programs.
    pub fn add_environment(
        &mut self,
        env: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<(), ConfigError> {
        // A name that is not UTF-8 cannot be a setting.
        let named = env.filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        // Sorted, so that of several mistakes the same one is reported every time.
        for (name, value) in named.collect::<BTreeMap<_, _>>() {
            match names::variable(&name, &value.to_string_lossy()) {
                Variable::Foreign => {}
                Variable::Setting(key) => {
                    let value = value
                        .into_string()
                        .map_err(|_| ConfigError::new(format!("variable {name}: not UTF-8")))?;
                    self.set(key, value.into(), Place::Variable(name))?;
                }
                Variable::Mistaken(advice) => {
                    return Err(ConfigError::new(format!("variable {name}: {advice}")));
                }
            }
        }
        Ok(())
    }

    /// Adds the settings of flags.
    pub fn add_flags(&mut self, flags: &[Flag]) -> Result<(), ConfigError> {
        for Flag { name, key, value } in flags {
            self.set(key.clone(), value.as_str().into(), Place::Flag(name.clone()))?;
        }
        Ok(())
    }

    fn set(&mut self, key: String, value: Value, place: Place) -> Result<(), ConfigError> {
        let Some(default) = Settings::defaults().0.get(&key) else {
            let advice = names::no_such_setting(&key);
            return Err(ConfigError::new(format!("{key} ({place}): {advice}")));
        };
        match fitted(&default.value, &value) {
            Ok(value) => {
                self.0.insert(key, Setting { value, place });
                Ok(())
            }
            Err(what) => Err(ConfigError::at(&key, &Setting { value, place }, what)),
        }
    }
}

/// Feeds the settings to the `config` crate, which builds the struct from them.
impl config::Source for Settings {
    fn clone_into_box(&self) -> Box<dyn config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, config::Value>, config::ConfigError> {
        let of = |setting: &Setting| value(&setting.value, &setting.place.to_string());
        Ok(self.iter().map(|(key, setting)| (key.to_owned(), of(setting))).collect())
    }
}

fn value(json: &Value, place: &str) -> config::Value {
    let kind = match json {
        Value::String(text) => text.as_str().into(),
        Value::Bool(yes) => (*yes).into(),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => number.into(),
            (_, number) => number.unwrap_or_default().into(),
        },
        Value::Array(items) => {
            let items: Vec<config::Value> = items.iter().map(|item| value(item, place)).collect();
            items.into()
        }
        // Cannot occur: [`fitted`] gives each value the type of its default.
        Value::Null | Value::Object(_) => config::ValueKind::Nil,
    };
    config::Value::new(Some(&place.to_owned()), kind)
}

/// Converts a value to the type of the default and trims spaces.
fn fitted(default: &Value, value: &Value) -> Result<Value, &'static str> {
    let text = match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        _ => None,
    };
    match (default, value, text) {
        (Value::Array(_), Value::Array(items), _) => {
            let item = |item: &Value| item.as_str().map(|text| text.trim().into());
            let items: Option<Vec<Value>> = items.iter().map(item).collect();
            items.map(Value::Array).ok_or("every item of the list must be a text in quotes")
        }
        (Value::Array(_), _, Some(text)) if text.is_empty() => Ok(Value::Array(Vec::new())),
        (Value::Array(_), _, Some(text)) => Ok(text.split(',').map(str::trim).collect()),
        (Value::String(_), _, Some(text)) => Ok(text.into()),
        (Value::Number(_), _, Some(text)) => match (text.parse::<i64>(), text.parse::<u64>()) {
            (Ok(number), _) => Ok(number.into()),
            (_, Ok(number)) => Ok(number.into()),
            _ => Err("must be a whole number"),
        },
        (Value::Bool(_), _, Some(text)) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true.into()),
            "false" | "0" | "no" | "off" => Ok(false.into()),
            _ => Err("must be true or false"),
        },
        (Value::String(_), ..) => Err("must be a text in quotes"),
        _ => Err("must be a single value"),
    }
}

/// All settings in a file's text, known or not, with their places.
fn entries(text: &str, name: &str) -> Result<Vec<(String, Value, Place)>, ConfigError> {
    let place = |at: usize| {
        let line = text[..at].bytes().filter(|byte| *byte == b'\n').count() + 1;
        Place::File { name: name.to_owned(), line }
    };
    let document = DeTable::parse(text).map_err(|error| {
        let place = place(error.span().map_or(0, |span| span.start));
        let words: Vec<&str> = error.message().split_whitespace().collect();
        ConfigError::new(format!("{place}: {}", words.join(" ")))
    })?;
    let mut found = Vec::new();
    table("", document.get_ref(), &place, &mut found)?;
    Ok(found)
}

/// Collects the settings of a section and its subsections.
fn table(
    section: &str,
    table: &DeTable<'_>,
    place: &impl Fn(usize) -> Place,
    found: &mut Vec<(String, Value, Place)>,
) -> Result<(), ConfigError> {
    for (key, value) in table {
        let name = match section {
            "" => key.get_ref().to_string(),
            section => format!("{section}.{}", key.get_ref()),
        };
        let place_of_key = place(key.span().start);
        match value.get_ref() {
            // An empty section contains no key whose name could be checked, so its own name is.
            DeValue::Table(inner) if inner.is_empty() && !names::is_section(&name) => {
                let advice = names::no_such_section(&name);
                return Err(ConfigError::new(format!("[{name}] ({place_of_key}): {advice}")));
            }
            DeValue::Table(inner) => self::table(&name, inner, place, found)?,
            value => found.push((name, json(value), place_of_key)),
        }
    }
    Ok(())
}

/// Converts a TOML value. A table inside a list becomes an object, which [`fitted`] refuses for
/// every setting.
fn json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            parsed.map_or_else(|_| number.as_str().into(), Value::from)
        }
        DeValue::Float(number) => number.as_str().into(),
        DeValue::Boolean(yes) => (*yes).into(),
        DeValue::Datetime(time) => time.to_string().into(),
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect(),
        DeValue::Table(_) => Value::Object(serde_json::Map::new()),
    }
}
