//! Where settings come from: the embedded defaults, a file, the environment, flags; later ones win.
//!
//! Every setting keeps the place it came from, so that whoever refuses its value can name that place. What reaches
//! [`Settings`] has a known name and the kind of value that its default has; what the value means is not judged here.

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
    /// Nowhere: it has its default.
    Default,
    /// In a file.
    File {
        /// The file's name as it was given.
        name: String,
        /// Counted from 1.
        line: usize,
    },
    /// In the environment, by this variable.
    Variable(String),
    /// On the command line, by this flag.
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

/// A setting that a flag names.
#[derive(Debug, Clone)]
pub struct Flag {
    /// The flag as it is written, for messages.
    pub name: String,
    /// The setting.
    pub key: String,
    /// Its value, as text.
    pub value: String,
}

/// A setting's value and where it was given.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Text, a whole number, true or false, or a list of texts.
    pub value: Value,
    /// Where it was given.
    pub place: Place,
}

/// Every setting by its name, such as `stream.heartbeat`.
#[derive(Debug, Clone)]
pub struct Settings(BTreeMap<String, Setting>);

static OF_DEFAULTS: LazyLock<Settings> = LazyLock::new(|| {
    let given = entries(DEFAULTS, "defaults.toml").expect("the embedded defaults are valid");
    let with_place = |(key, value, _)| (key, Setting { value, place: Place::Default });
    Settings(given.into_iter().map(with_place).collect())
});

impl Settings {
    /// The embedded defaults, which name every setting there is.
    pub fn defaults() -> &'static Settings {
        &OF_DEFAULTS
    }

    /// The setting of a name that exists.
    pub fn get(&self, key: &str) -> &Setting {
        &self.0[key]
    }

    /// All, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Setting)> {
        self.0.iter().map(|(key, setting)| (key.as_str(), setting))
    }

    /// Sets what another setting implies, as if it had been given at the same place.
    pub fn imply(&mut self, key: &str, value: &str, place: Place) {
        self.0.insert(key.to_owned(), Setting { value: value.into(), place });
    }

    /// What a file says.
    pub fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::new(format!("{name}: {error}")))?;
        for (key, value, place) in entries(&text, &name)? {
            self.set(key, value, place)?;
        }
        Ok(())
    }

    /// What the environment says. Variables that are none of this program's are passed over.
    pub fn add_environment(
        &mut self,
        env: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<(), ConfigError> {
        // What is no text cannot be the name of one of ours.
        let named = env.filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        // In order, so that of several mistakes the same one is named each time.
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

    /// What flags say.
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

/// Settings are what the struct of the configuration is made from.
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
        // No setting is of another kind: each was fitted to its default.
        Value::Null | Value::Object(_) => config::ValueKind::Nil,
    };
    config::Value::new(Some(&place.to_owned()), kind)
}

/// A value as the kind that the default is of, without the spaces around it.
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

/// Every setting in a file's text, whatever its name, with its place.
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

/// Every setting in a section and in those within it.
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
            // An empty section has no setting that could be misspelt, only a name.
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

/// What no setting can be becomes an object, which is refused for every kind.
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
