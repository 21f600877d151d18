//! The address of a request's client, which trusted proxies name in a header.
//!
//! Anybody can write such a header, so it proves nothing by itself. It is read only if the
//! connection comes from one of `server.trusted_proxies`, and from its end backwards. Each proxy
//! appends the address that it served. So the last entry is the word of the trusted proxy, the
//! entry before it the word of the address in the last entry, and so on. The walk ends at the first
//! address that is not trusted. An unreadable entry ends it earlier, at the last trusted proxy.

use std::net::IpAddr;

use actix_web::HttpRequest;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::access::client::ClientAddr;
use crate::config::ServerConfig;
use crate::config::trusted_proxies::ForwardedHeader;

/// The client of a request with these headers, on a connection of the client `connection`.
pub fn of_request(
    connection: ClientAddr,
    headers: &HeaderMap,
    server: &ServerConfig,
) -> ClientAddr {
    let (mut client, trusted) = (connection, &server.trusted_proxies);
    if !trusted.contain(client.ip) {
        return client;
    }
    let lines = headers.get_all(header_name(server.forwarded_header));
    let lines: Vec<&[u8]> = lines.map(HeaderValue::as_bytes).collect();
    for line in lines.into_iter().rev() {
        let mut hops = Hops { rest: line, header: server.forwarded_header };
        while let Some(hop) = hops.next_back() {
            let Some(ip) = hop else { return client };
            client = ClientAddr::told(ip);
            if !trusted.contain(client.ip) {
                return client;
            }
        }
    }
    client
}

/// The client of a request.
pub fn of(request: &HttpRequest, server: &ServerConfig) -> ClientAddr {
    of_request(of_connection(request, server), request.headers(), server)
}

/// Whether the headers of a request were written by a trusted proxy. A proxy that names its client
/// by the PROXY protocol writes no headers, so those are its client's.
pub fn is_of_trusted_proxy(request: &HttpRequest, server: &ServerConfig) -> bool {
    server.trusted_proxies.contain(of_connection(request, server).ip)
}

/// The client of a request's connection, from the connection's data or else from its peer address.
fn of_connection(request: &HttpRequest, server: &ServerConfig) -> ClientAddr {
    let peer = || {
        // A connection that ended before its peer address was read has none. Its answer reaches
        // nobody, so any address will do.
        let ip = request.peer_addr().map_or(IpAddr::V4([0, 0, 0, 0].into()), |peer| peer.ip());
        ClientAddr::of_peer(ip, &server.trusted_proxies)
    };
    request.conn_data::<ClientAddr>().copied().unwrap_or_else(peer)
}

fn header_name(header: ForwardedHeader) -> HeaderName {
    match header {
        ForwardedHeader::Forwarded => HeaderName::from_static("forwarded"),
        ForwardedHeader::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
    }
}

/// Walks the addresses of a header line from its end. An entry without an address is `None`.
struct Hops<'a> {
    rest: &'a [u8],
    header: ForwardedHeader,
}

impl Hops<'_> {
    fn next_back(&mut self) -> Option<Option<IpAddr>> {
        self.rest = self.rest.trim_ascii();
        if self.rest.is_empty() {
            return None;
        }
        match self.header {
            ForwardedHeader::XForwardedFor => {
                let (rest, entry) = split_at_last(self.rest, b",");
                self.rest = rest.unwrap_or_default();
                Some(std::str::from_utf8(entry.trim_ascii()).ok().and_then(address))
            }
            ForwardedHeader::Forwarded => {
                let Some((rest, node)) = last_element(self.rest) else {
                    self.rest = b"";
                    return Some(None);
                };
                self.rest = rest;
                Some(node.and_then(|node| address(&node)))
            }
        }
    }
}

/// Splits at the last of these bytes: the text before it, if there is one, and the text after.
fn split_at_last<'a>(text: &'a [u8], marks: &[u8]) -> (Option<&'a [u8]>, &'a [u8]) {
    match text.iter().rposition(|byte| marks.contains(byte)) {
        Some(at) => (Some(&text[..at]), &text[at + 1..]),
        None => (None, text),
    }
}

/// Splits off the last element of a `Forwarded` line: the text before it, and the value of its
/// `for` without quotes. None if the element is malformed.
///
/// The line is parsed backwards, pair by pair, because only its end is the trusted proxy's. Text
/// that the client wrote before it, such as an opening quote, must not swallow the proxy's element.
/// Quotes are respected, because a proxy may quote the client's `Host`, which may contain
/// `,for=192.0.2.1`. (`actix_web_lab::header::Forwarded` splits at every comma and is fooled by
/// that.)
fn last_element(text: &[u8]) -> Option<(&[u8], Option<String>)> {
    let (mut rest, mut node) = (text, None);
    loop {
        let (before, value) = last_value(rest.trim_ascii_end())?;
        let before = before.strip_suffix(b"=")?;
        let (more, name) = before.split_at(before.len() - token_length(before));
        if name.is_empty() {
            return None;
        }
        if name.eq_ignore_ascii_case(b"for") && node.replace(value).is_some() {
            return None;
        }
        let more = more.trim_ascii_end();
        match more.split_last() {
            None => return Some((b"", node)),
            Some((b',', more)) => return Some((more, node)),
            Some((b';', more)) => rest = more,
            Some(_) => return None,
        }
    }
}

/// Splits off the token or quoted text at the end: the text before it, and its value.
fn last_value(text: &[u8]) -> Option<(&[u8], String)> {
    let Some(quoted) = text.strip_suffix(b"\"") else {
        let (before, token) = text.split_at(text.len() - token_length(text));
        return (!token.is_empty()).then(|| (before, String::from_utf8_lossy(token).into_owned()));
    };
    // An escaped quote has an odd number of backslashes before it, so the opening quote has an even
    // number.
    let opens = |at: &usize| {
        let slashes = quoted[..*at].iter().rev().take_while(|byte| **byte == b'\\').count();
        quoted[*at] == b'"' && slashes % 2 == 0
    };
    let at = (0..quoted.len()).rev().find(opens)?;
    let mut plain = Vec::new();
    let mut bytes = quoted[at + 1..].iter();
    while let Some(byte) = bytes.next() {
        plain.push(if *byte == b'\\' { *bytes.next()? } else { *byte });
    }
    Some((&quoted[..at], String::from_utf8_lossy(&plain).into_owned()))
}

/// The number of bytes at the end that are token characters (RFC 9110 §5.6.2).
fn token_length(text: &[u8]) -> usize {
    let of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    text.iter().rev().take_while(|byte| of_token(byte)).count()
}

/// Parses an address with or without brackets and port. `unknown` and obfuscated names (`_hidden`)
/// are not addresses.
fn address(text: &str) -> Option<IpAddr> {
    let is_port = |port: &str| {
        let hidden = port.strip_prefix('_').is_some_and(|rest| !rest.is_empty());
        hidden || (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit())
    };
    if let Some(bracketed) = text.strip_prefix('[') {
        let (ip, port) = bracketed.split_once(']')?;
        let port_fits = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return port_fits.then(|| ip.parse().ok().map(IpAddr::V6))?;
    }
    match text.split_once(':') {
        Some((ip, port)) if is_port(port) && !ip.is_empty() => ip.parse().ok().map(IpAddr::V4),
        _ => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::trusted_proxies::TrustedProxies;
    use proptest::prelude::*;

    const PEER: &str = "10.0.0.1";

    fn server(trusted: &str, header: &str) -> ServerConfig {
        let pairs = [("server.trusted_proxies", trusted), ("server.forwarded_header", header)];
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Config::load(None, std::iter::empty(), &pairs).unwrap().server
    }

    /// The client of a request from `peer`, with 10.0.0.0/8 and 2001:db8::/32 as trusted proxies.
    fn client(peer: &str, name: &str, lines: &[&str]) -> ClientAddr {
        let server = server("10.0.0.0/8, 2001:db8::/32", name);
        let peer = ClientAddr::of_peer(peer.parse().unwrap(), &server.trusted_proxies);
        let mut headers = HeaderMap::new();
        for line in lines {
            headers
                .append(name.parse().unwrap(), HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        of_request(peer, &headers, &server)
    }

    fn forwarded_for(lines: &[&str]) -> String {
        client(PEER, "x-forwarded-for", lines).ip.to_string()
    }

    fn forwarded(lines: &[&str]) -> String {
        client(PEER, "forwarded", lines).ip.to_string()
    }

    #[test]
    fn the_walk_ends_at_the_first_address_that_is_not_trusted() {
        assert_eq!(forwarded_for(&["203.0.113.9"]), "203.0.113.9");
        assert_eq!(forwarded_for(&["192.0.2.66, 203.0.113.9"]), "203.0.113.9");
        assert_eq!(forwarded_for(&["192.0.2.66,203.0.113.9, 10.9.9.9 ,10.2.0.1"]), "203.0.113.9");
        assert_eq!(
            forwarded_for(&["192.0.2.66", "203.0.113.9,10.9.9.9", "10.2.0.1"]),
            "203.0.113.9"
        );
        // If all are trusted, the first one in the header is the client.
        assert_eq!(forwarded_for(&["10.3.0.1, 10.2.0.1"]), "10.3.0.1");
        assert_eq!(forwarded_for(&[]), PEER);
        assert_eq!(
            forwarded(&["for=192.0.2.66, for=203.0.113.9;proto=https, for=10.2.0.1"]),
            "203.0.113.9"
        );
        assert_eq!(
            forwarded(&["For=192.0.2.66", "proto=http ; FOR=\"203.0.113.9:80\" , for=10.2.0.1"]),
            "203.0.113.9"
        );
    }

    #[test]
    fn an_address_is_read_in_all_its_forms() {
        for (text, ip) in [
            ("203.0.113.9:4711", "203.0.113.9"),
            ("203.0.113.9:_hidden", "203.0.113.9"),
            ("2001:4860::9", "2001:4860::9"),
            ("[2001:4860::9]", "2001:4860::9"),
            ("[2001:4860::9]:443", "2001:4860::9"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
        ] {
            assert_eq!(forwarded_for(&[&format!("192.0.2.66, {text}")]), ip, "{text}");
            assert_eq!(forwarded(&[&format!("for=192.0.2.66, for=\"{text}\"")]), ip, "{text}");
        }
    }

    #[test]
    fn what_names_nobody_leaves_the_last_trusted_proxy() {
        for text in [
            "unknown",
            "_hidden",
            "-",
            "203.0.113.9x",
            "203.0.113",
            "203.0.113.9:",
            "203.0.113.9:x",
            "[203.0.113.9]",
            "[2001:4860::9",
            "[2001:4860::9]x",
            "fe80::1%eth0",
            "example.org",
            "203.0.113.9 192.0.2.66",
            ":80",
        ] {
            assert_eq!(forwarded_for(&[&format!("192.0.2.66, {text}")]), PEER, "{text}");
            assert_eq!(forwarded_for(&[&format!("192.0.2.66, {text}, 10.2.0.1")]), "10.2.0.1");
            assert_eq!(forwarded(&[&format!("for=192.0.2.66, for=\"{text}\"")]), PEER, "{text}");
            assert_eq!(
                forwarded(&[&format!("for=192.0.2.66,for=\"{text}\",for=10.2.0.1")]),
                "10.2.0.1"
            );
        }
        assert_eq!(forwarded_for(&["192.0.2.66,, 10.2.0.1"]), "10.2.0.1");
        for line in [
            "for",
            "for=",
            "=1.2.3.4",
            "for=203.0.113.9;for=192.0.2.66",
            "by=192.0.2.66",
            ";",
            "for=\"",
        ] {
            assert_eq!(forwarded(&[&format!("for=192.0.2.66, {line}")]), PEER, "{line}");
        }
    }

    /// A client's `Host` that a proxy quotes, and a quote that a client opens.
    #[test]
    fn quotes_hide_nothing_and_add_nothing() {
        let line = r#"for=203.0.113.9;host="a, for=192.0.2.66""#;
        assert_eq!(forwarded(&[line]), "203.0.113.9");
        let line = r#"for=203.0.113.9;host="a\", for=192.0.2.66;host=\"b""#;
        assert_eq!(forwarded(&[line]), "203.0.113.9");
        assert_eq!(forwarded(&[r#"for="192.0.2.66, for=203.0.113.9"#]), "203.0.113.9");
        assert_eq!(forwarded(&[r#"host="x, for=203.0.113.9;host="a\\""#]), "203.0.113.9");
        // actix-web-lab's parser takes the quoted address, so it cannot be used.
        let lab: actix_web_lab::header::Forwarded =
            r#"for=203.0.113.9;host="a, for=192.0.2.66""#.parse().unwrap();
        assert_eq!(lab.for_chain().last(), Some("192.0.2.66"));
    }

    #[test]
    fn only_the_configured_header_of_a_trusted_peer_is_read() {
        let spoofed = client("198.51.100.7", "x-forwarded-for", &["203.0.113.9"]);
        assert_eq!(spoofed.ip.to_string(), "198.51.100.7");
        let server = server("10.0.0.0/8", "x-forwarded-for");
        let mut headers = HeaderMap::new();
        headers.insert("forwarded".parse().unwrap(), HeaderValue::from_static("for=203.0.113.9"));
        let peer = ClientAddr::of_peer(PEER.parse().unwrap(), &server.trusted_proxies);
        assert_eq!(of_request(peer, &headers, &server), peer);
        let nobody = ServerConfig { trusted_proxies: TrustedProxies::default(), ..server };
        headers.insert("x-forwarded-for".parse().unwrap(), HeaderValue::from_static("203.0.113.9"));
        assert_eq!(of_request(peer, &headers, &nobody), peer);
    }

    #[test]
    fn a_private_peer_is_not_limited_and_what_a_proxy_tells_is() {
        let trusted: TrustedProxies = vec!["198.51.100.7".to_owned()].try_into().unwrap();
        let limited = |ip: &str| ClientAddr::of_peer(ip.parse().unwrap(), &trusted).limited;
        for own in [
            "127.0.0.1",
            "127.8.8.8",
            "::1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.1.2.3",
            "198.51.100.7",
            "::ffff:198.51.100.7",
        ] {
            assert!(!limited(own), "{own}");
        }
        for foreign in ["198.51.100.8", "172.32.0.1", "100.64.0.1", "2001:db8::1", "::ffff:1.2.3.4"]
        {
            assert!(limited(foreign), "{foreign}");
        }
        assert!(client(PEER, "x-forwarded-for", &["192.168.1.1"]).limited);
        assert!(!client(PEER, "x-forwarded-for", &["unknown"]).limited);
    }

    #[test]
    fn what_is_no_network_is_refused_with_what_to_write() {
        let read = |entry: &str| TrustedProxies::try_from(vec![entry.to_owned()]);
        for fine in ["10.0.0.0/8", "10.1.2.3/8", "192.0.2.1", "::1", "2001:db8::/32"] {
            assert!(read(fine).is_ok(), "{fine}");
        }
        for (entry, advice) in [
            ("10.0.0.0/33", "10.0.0.0/8"),
            ("nginx", "a proxy's address"),
            ("", "write one"),
            ("0.0.0.0/0", "everybody"),
            ("::/0", "everybody"),
        ] {
            let error = read(entry).unwrap_err();
            assert!(error.contains(advice) && error.contains(entry), "{error}");
        }
    }

    proptest! {
        /// Whatever a client writes in front, the address that the trusted proxy appends is the
        /// result.
        #[test]
        fn nothing_that_a_client_writes_hides_what_a_trusted_proxy_appends(
            claimed in "[ -~\t]{0,60}|([,;=\"\\\\ ]|for|host|203[.]0[.]113[.]1|10[.]0[.]0[.]9|unknown){0,12}",
            host in "[ -~]{0,30}|([,;=\"\\\\ ]|for|203[.]0[.]113[.]1){0,8}",
            last: [u8; 4],
            apart: bool,
        ) {
            let ip = IpAddr::from(last);
            let told = if ip.to_string().starts_with("10.") { None } else { Some(ip.to_string()) };
            let quoted = host.replace('\\', "\\\\").replace('"', "\\\"");
            for (name, own) in [
                ("x-forwarded-for", format!("{ip}")),
                ("forwarded", format!("for={ip};host=\"{quoted}\"")),
                ("forwarded", format!("host=\"{quoted}\";for=\"{ip}:80\"")),
            ] {
                let joined = format!("{claimed}, {own}");
                let lines: &[&str] = if apart { &[&claimed, &own] } else { &[&joined] };
                let got = client(PEER, name, lines);
                prop_assert!(told.is_none() || Some(got.ip.to_string()) == told, "{name} {lines:?}: {got:?}");
                let spoofed = client("198.51.100.7", name, lines);
                prop_assert_eq!(spoofed.ip.to_string(), "198.51.100.7");
            }
        }

        #[test]
        fn no_bytes_stop_it(lines in proptest::collection::vec("\\PC{0,40}|[\t-~]{0,40}", 0..4)) {
            for name in ["forwarded", "x-forwarded-for"] {
                let clean: Vec<String> = lines.iter().map(|l| l.replace(['\n', '\r', '\x0b', '\x0c', '\x7f'], "")
                    .chars().filter(|c| !c.is_control() || *c == '\t').collect()).collect();
                let lines: Vec<&str> = clean.iter().map(String::as_str).collect();
                client(PEER, name, &lines);
            }
        }
    }
}
