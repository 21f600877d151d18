//! Settings of several parts in one line of text, such as `alg=HS256 secret_file=/run/secrets/jwt`.
//!
//! With this form a list of keys fits into an environment variable as well as into a file. A line
//! may contain secrets, so no error quotes a value.

use std::fmt;

use strsim::damerau_levenshtein;

/// The `name=value` parts of a line, in order.
pub struct Words<'a> {
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Words<'a> {
    /// Parses a line. Refuses names that are not in `known`, and empty values.
    pub fn parse(line: &'a str, known: &[&str]) -> Result<Self, String> {
        let mut pairs = Vec::new();
        for (n, word) in line.split_whitespace().enumerate() {
            let Some((name, value)) = word.split_once('=').filter(|(_, value)| !value.is_empty())
            else {
                return Err(format!(
                    "its part {} is not of the form name=value; the names are {}",
                    n + 1,
                    known.join(", ")
                ));
            };
            if !known.contains(&name) {
                let near = known.iter().min_by_key(|known| damerau_levenshtein(name, known));
                let near = near.filter(|near| damerau_levenshtein(name, near) <= 2);
                let advice = match near {
                    Some(near) => format!("{near} is meant, perhaps"),
                    None => format!("the names are {}", known.join(", ")),
                };
                return Err(format!("its part {} has a name that is not known; {advice}", n + 1));
            }
            pairs.push((name, value));
        }
        Ok(Words { pairs })
    }

    /// All values of a name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// The value of a name that may occur once.
    pub fn one(&self, name: &str) -> Result<Option<&'a str>, String> {
        let mut all = self.all(name);
        match (all.next(), all.next()) {
            (_, Some(_)) => Err(format!("{name} stands there twice")),
            (one, None) => Ok(one),
        }
    }

    /// All values of a name, parsed.
    pub fn parsed<T: std::str::FromStr<Err: fmt::Display>>(
        &self,
        name: &str,
    ) -> Result<Vec<T>, String> {
        self.all(name)
            .map(|value| value.parse().map_err(|error| format!("{name}: {error}")))
            .collect()
    }

    /// The value of a name that may occur once, as a whole number of at least 1.
    pub fn number(&self, name: &str) -> Result<Option<u32>, String> {
        let parse = |value: &str| {
            let number = value.parse().ok().filter(|n| *n > 0);
            number.ok_or_else(|| format!("{name} must be a whole number, at least 1"))
        };
        self.one(name)?.map(parse).transpose()
    }
}

/// A line for an error message: the names only.
pub fn shown(line: &str) -> String {
    let name = |word: &str| match word.split_once('=') {
        Some((name, _)) if name.len() < 20 => format!("{name}=…"),
        _ => "…".to_owned(),
    };
    line.split_whitespace().map(name).collect::<Vec<_>>().join(" ")
}

/// Bytes that `Debug` does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Box<[u8]>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}
