//! The page as it is served: its size, its encodings, its headers, and whether it is there at all.

use std::io::{Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use ring::digest::{SHA256, digest};

use crate::support::{Answer, TestGateway, connect, request};

/// Asks for the page. Returns head and body; the body may be compressed.
fn page(gateway: &TestGateway, headers: &str) -> (String, Vec<u8>) {
    let mut stream = connect(gateway.addr);
    let asked = format!("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(asked.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end + 4..].to_vec())
}

/// The value of a header.
#[track_caller]
fn value<'a>(head: &'a str, name: &str) -> &'a str {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let mut values = lines.filter(|(line, _)| line.eq_ignore_ascii_case(name));
    values.next().unwrap_or_else(|| panic!("no {name}: {head}")).1
}

fn get(gateway: &TestGateway, headers: &[(&str, &str)]) -> Answer {
    request(gateway.addr, "GET", "/", headers, b"")
}

#[test]
fn the_page_has_60_kb_at_most_and_is_compressed_for_those_who_take_it() {
    let gateway = TestGateway::memory(&[]);
    let (head, plain) = page(&gateway, "");
    assert!(plain.len() <= 60 * 1024, "{} bytes", plain.len());
    assert!(!head.to_lowercase().contains("content-encoding"), "{head}");
    assert_eq!(value(&head, "vary"), "accept-encoding");
    for takes in ["gzip", "br, gzip, deflate, zstd", "gzip;q=0.5"] {
        let (head, gzip) = page(&gateway, &format!("Accept-Encoding: {takes}\r\n"));
        assert_eq!(value(&head, "content-encoding"), "gzip");
        assert_eq!(value(&head, "vary"), "accept-encoding");
        assert!(gzip.len() < plain.len() / 2, "{} of {} bytes", gzip.len(), plain.len());
        let mut unpacked = Vec::new();
        GzDecoder::new(&gzip[..]).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, plain);
    }
    for refuses in ["identity", "br", "gzip;q=0", "gzip;q=0, *", "*;q=0, identity"] {
        let (head, body) = page(&gateway, &format!("Accept-Encoding: {refuses}\r\n"));
        assert!(!head.to_lowercase().contains("content-encoding"), "{refuses}: {head}");
        assert_eq!(body, plain);
    }
}

#[test]
fn a_browser_that_has_the_page_is_answered_304() {
    let gateway = TestGateway::memory(&[]);
    let other = TestGateway::memory(&[("stream.heartbeat", "7s")]);
    let plain = get(&gateway, &[]);
    let tag = value(&plain.head, "etag");
    let gzip = get(&gateway, &[("Accept-Encoding", "gzip")]);
    // RFC 9110 §8.8.3: two encodings of a page are two representations.
    assert_ne!(tag, value(&gzip.head, "etag"));
    for known in [tag, "*", &format!("\"other\", W/{tag}")] {
        let answer = get(&gateway, &[("If-None-Match", known)]);
        assert_eq!((answer.status, answer.body.as_str()), (304, ""), "{known}");
        assert_eq!(value(&answer.head, "etag"), tag);
        assert_eq!(value(&answer.head, "vary"), "accept-encoding");
    }
    // Another page, because another gateway's heartbeat stands in it.
    assert_eq!(get(&other, &[("If-None-Match", tag)]).status, 200);
    assert_eq!(get(&gateway, &[("If-None-Match", "\"other\"")]).status, 200);
    let head = request(gateway.addr, "HEAD", "/", &[], b"");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(value(&head.head, "etag"), tag);
}

#[test]
fn only_the_pages_own_script_and_style_run_in_it() {
    let gateway = TestGateway::memory(&[]);
    let answer = get(&gateway, &[]);
    let policy = value(&answer.head, "content-security-policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    for (tag, directive) in [("style", "style-src"), ("script", "script-src")] {
        let (_, rest) = answer.body.split_once(&format!("<{tag}>")).expect("one of them");
        let (text, rest) = rest.split_once(&format!("</{tag}>")).expect("its end");
        assert!(!rest.contains(&format!("<{tag}>")));
        let hash = STANDARD.encode(digest(&SHA256, text.as_bytes()));
        assert!(policy.contains(&format!("{directive} 'sha256-{hash}'")), "{policy}");
    }
    assert!(!answer.body.contains("://") || !answer.body.contains("src="), "nothing is loaded");
}

#[test]
fn without_server_console_there_is_no_page() {
    let gateway = TestGateway::memory(&[("server.console", "false")]);
    for method in ["GET", "HEAD"] {
        assert_eq!(request(gateway.addr, method, "/", &[], b"").status, 404);
    }
    // Readiness asks the public port, and any answer is a sign of life.
    assert_eq!(gateway.admin("/readyz").status, 200);
    gateway.live("channel=demo");
}
