//! What a request shows to say who sends it: a header, a parameter, a cookie. Nothing is proven here.

use crate::access::asker::Asker;
use crate::access::denied::{Denied, Why};
use crate::access::tickets;

/// What a request shows, each as it was sent.
#[derive(Default)]
pub struct Credentials<'a> {
    /// `Authorization: Bearer …`
    pub bearer: Option<&'a str>,
    /// `X-API-Key: …`
    pub api_key: Option<&'a str>,
    /// `?ticket=…`
    pub ticket: Option<String>,
    /// `?token=…`
    pub token: Option<String>,
    /// The configured cookie.
    pub cookie: Option<&'a str>,
}

impl<'a> Credentials<'a> {
    /// Reads them. What can be read in two ways is refused: somebody in between may read it in the other one.
    pub fn of(
        asker: &'a impl Asker,
        cookie: &str,
        pairs: &[(String, String)],
    ) -> Result<Self, Denied> {
        let mut found = Credentials {
            bearer: one_header(asker, "Authorization")?.and_then(bearer),
            api_key: one_header(asker, "X-API-Key")?,
            cookie: if cookie.is_empty() { None } else { cookie_of(asker, cookie)? },
            ..Credentials::default()
        };
        for (name, value) in pairs {
            match name.as_str() {
                "ticket" if !tickets::is_ticket(value) => {
                    return Err(
                        Denied::new(Why::InvalidCredentials, "this is no ticket").field("ticket")
                    );
                }
                "ticket" => found.ticket = Some(value.clone()),
                "token" => found.token = Some(value.clone()),
                _ => {}
            }
        }
        Ok(found)
    }
}

fn one_header<'a>(asker: &'a impl Asker, name: &'static str) -> Result<Option<&'a str>, Denied> {
    let mut all = asker.header(name);
    let wrong =
        |what: &str| Denied::new(Why::Ambiguous, format!("the header {name} {what}")).field(name);
    match (all.next(), all.next()) {
        (_, Some(_)) => Err(wrong("stands there twice")),
        (Some(value), None) => {
            let text = std::str::from_utf8(value).ok().filter(|text| text.is_ascii());
            text.map(Some).ok_or_else(|| wrong("holds other characters than ASCII's"))
        }
        (None, None) => Ok(None),
    }
}

/// The scheme's name is the same in upper and lower case (RFC 9110 §11.1). Other schemes are somebody else's.
fn bearer(value: &str) -> Option<&str> {
    let value = value.trim();
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    scheme.eq_ignore_ascii_case("Bearer").then_some(token.trim())
}

/// A cookie's value (RFC 6265 §4.2.1). One of the name that stands there twice is of two paths or domains, and which of
/// them is meant nobody can say.
fn cookie_of<'a>(asker: &'a impl Asker, name: &str) -> Result<Option<&'a str>, Denied> {
    let lines = asker.header("Cookie").filter_map(|line| str::from_utf8(line).ok());
    let pairs =
        lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut values =
        pairs.filter(|(found, _)| *found == name).map(|(_, value)| value.trim_matches('"'));
    match (values.next(), values.next()) {
        (Some(one), Some(other)) if one != other => {
            let detail = format!("the cookie {name} stands there twice, with two values");
            Err(Denied::new(Why::Ambiguous, detail).field("Cookie"))
        }
        (value, _) => Ok(value.filter(|value| !value.is_empty())),
    }
}
