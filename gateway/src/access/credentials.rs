//! Extracts the credentials of a request from headers, query and cookies. Verifies nothing.

use crate::access::asker::Asker;
use crate::access::denied::{Denied, Why};
use crate::access::tickets;

/// The credentials of a request, as sent.
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
    /// The value of the cookie `auth.cookie`.
    pub cookie: Option<&'a str>,
}

impl<'a> Credentials<'a> {
    /// Extracts them. Fails if a header occurs twice or a cookie has two values: a proxy on the way
    /// may have read the other one.
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

/// Scheme names are case-insensitive (RFC 9110 §11.1). Other schemes are ignored; they may be meant
/// for a proxy.
fn bearer(value: &str) -> Option<&str> {
    let value = value.trim();
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    scheme.eq_ignore_ascii_case("Bearer").then_some(token.trim())
}

/// A cookie's value (RFC 6265 §4.2.1). Two cookies of one name belong to two paths or domains, and
/// nothing says which one is meant.
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
