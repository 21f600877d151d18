//! `cors.origins`: origins whose pages may use this gateway, each exactly as browsers send it in
//! `Origin`.
//!
//! Browsers send only scheme, host and port, in lower case, without the scheme's default port, and
//! non-ASCII host names in Punycode. Any other spelling could never match, so it is refused, and
//! the error gives the correct spelling.

use serde::Deserialize;
use url::Url;

/// The allowed origins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct AllowedOrigins {
    any: bool,
    listed: Vec<String>,
}

impl AllowedOrigins {
    /// Whether no origin but the gateway's own is allowed.
    pub fn is_empty(&self) -> bool {
        !self.any && self.listed.is_empty()
    }

    /// Whether every origin is allowed.
    pub fn any(&self) -> bool {
        self.any
    }

    /// The listed origins; empty if any origin is allowed.
    pub fn listed(&self) -> &[String] {
        &self.listed
    }

    /// Whether pages of this origin are allowed.
    pub fn allow(&self, origin: &str) -> bool {
        self.any || self.listed.iter().any(|listed| listed == origin)
    }
}

impl TryFrom<Vec<String>> for AllowedOrigins {
    type Error = String;

    fn try_from(entries: Vec<String>) -> Result<Self, String> {
        if entries.iter().any(|entry| entry == "*") {
            if entries.len() > 1 {
                return Err("\"*\" allows any origin and stands alone".to_owned());
            }
            return Ok(AllowedOrigins { any: true, listed: Vec::new() });
        }
        for entry in &entries {
            check(entry).map_err(|what| format!("{entry:?} {what}"))?;
        }
        Ok(AllowedOrigins { any: false, listed: entries })
    }
}

/// Checks one origin. The error continues a sentence that begins with the entry.
fn check(entry: &str) -> Result<(), String> {
    if entry.is_empty() {
        return Err(
            "is no origin; write one such as https://app.example.org, or leave the list empty"
                .into(),
        );
    }
    if entry.contains(['"', '\'']) {
        return Err("has quotes in it; write the origin without them".into());
    }
    if entry.contains('*') {
        return Err("has a wildcard in it, which is not supported; list each origin, or \"*\" alone for any".into());
    }
    if entry == "null" {
        return Err("is what sandboxed pages and files send, whoever wrote them; it cannot be allowed by itself".into());
    }
    let Some((scheme, _)) = entry.split_once("://") else {
        return Err(format!("has no scheme; write https://{entry} or http://{entry}"));
    };
    let url = Url::parse(entry).map_err(|error| format!("is no origin: {error}"))?;
    if scheme.eq_ignore_ascii_case("file") {
        return Err("is no origin: a page from a file sends null; serve it over http".into());
    }
    // The URL parser accepts characters that no host name may contain.
    let named = |host: &&str| {
        host.starts_with('[')
            || host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    let host = url.host_str().filter(|host| !host.is_empty()).filter(named);
    let host = host.ok_or("is no origin: behind :// stands a name or an IP address")?;
    // Embedded browsers have their own schemes, such as capacitor://localhost, and send them
    // verbatim.
    let origin = if url.origin().is_tuple() {
        url.origin().ascii_serialization()
    } else {
        let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
        format!("{}://{}{port}", url.scheme(), host.to_ascii_lowercase())
    };
    if matches!(url.scheme(), "ws" | "wss" | "ftp") {
        return Err(format!(
            "is no page's origin; write https://{0} or http://{0}",
            &origin[url.scheme().len() + 3..]
        ));
    }
    if origin != entry {
        return Err(format!("is not what a browser sends; write {origin}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(entries: &[&str]) -> Result<AllowedOrigins, String> {
        entries.iter().map(|entry| entry.to_string()).collect::<Vec<_>>().try_into()
    }

    #[test]
    fn what_a_browser_sends_is_taken_as_it_is() {
        let origins = [
            "https://app.example.org",
            "http://localhost:3000",
            "https://xn--bcher-kva.example",
            "http://[::1]:8080",
            "capacitor://localhost",
            "chrome-extension://aaaabbbbccccddddeeeeffffgggghhhh",
        ];
        let allowed = read(&origins).unwrap();
        assert_eq!(allowed.listed(), origins);
        assert!(origins.iter().all(|origin| allowed.allow(origin)));
        assert!(!allowed.allow("https://app.example.org.evil") && !allowed.any());
        assert!(read(&["*"]).unwrap().allow("https://a"));
        assert!(read(&[]).unwrap().is_empty());
    }

    #[test]
    fn what_could_never_match_is_refused_with_what_to_write() {
        for (entry, advice) in [
            ("https://a.example/", "write https://a.example"),
            ("https://a.example/app", "write https://a.example"),
            ("https://a.example:443", "write https://a.example"),
            ("http://a.example:80", "write http://a.example"),
            ("HTTPS://A.example", "write https://a.example"),
            ("https://bücher.example", "write https://xn--bcher-kva.example"),
            ("https://user:secret@a.example", "write https://a.example"),
            ("https://a.example?x", "write https://a.example"),
            ("a.example", "write https://a.example or http://a.example"),
            ("localhost:3000", "write https://localhost:3000 or http://localhost:3000"),
            ("https://*.example", "wildcard"),
            ("\"https://a.example\"", "without them"),
            ("'https://a.example", "without them"),
            ("null", "sandboxed"),
            ("file://", "a page from a file sends null"),
            ("file:///home/me", "a page from a file sends null"),
            ("wss://a.example", "write https://a.example"),
            ("https://", "empty host"),
            ("https://a b", "is no origin"),
            ("capacitor://", "stands a name"),
            ("capacitor://%", "stands a name"),
            ("http://`", "stands a name"),
            ("", "leave the list empty"),
        ] {
            let error = read(&["https://fine.example", entry]).unwrap_err();
            assert!(error.contains(advice), "{entry}: {error}");
            assert!(error.contains(&format!("{entry:?}")), "{entry}: {error}");
        }
        let error = read(&["*", "https://a.example"]).unwrap_err();
        assert!(error.contains("stands alone"), "{error}");
    }

    proptest! {
        /// actix-cors fails on an origin that it cannot parse, and then no worker starts.
        #[test]
        fn what_is_taken_is_what_actix_takes(entry in "(https?|capacitor|[a-z]{1,4})://\\PC{0,20}|\\PC{0,20}") {
            if read(&[&entry]).is_ok() && entry != "*" {
                prop_assert!(entry.parse::<actix_web::http::Uri>().is_ok(), "{entry:?}");
                prop_assert!(entry.bytes().all(|byte| byte.is_ascii_graphic()), "{entry:?}");
            }
        }
    }
}
