//! Tests of what is printed, and when.

use super::*;
use crate::item::{Counting, ItemReader, KeySource, parse_channels};

fn ledger(lines: &[u64], channels: &str) -> Ledger {
    let channels = parse_channels(channels.split(',')).unwrap();
    let (counting, keys) = (Counting::Lines, KeySource::Run("r".into()));
    let items = ItemReader { ndjson: false, counting, channels, event: None, keys };
    Ledger::new(lines.iter().flat_map(|&line| items.read(line, "x").unwrap()).collect())
}

fn report(form: Form) -> Report<Vec<u8>, Vec<u8>> {
    Report::new(form, "http://a".to_owned(), Vec::new(), Vec::new())
}

fn finished(form: Form, ledger: &Ledger, early: Option<Early>, last: u64) -> (String, String) {
    let mut report = report(form);
    report.batch(ledger, 0);
    report.finish(Duration::from_millis(1234), early, Place::Line(last));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(report.out), text(report.err))
}

#[test]
fn neighbours_that_failed_alike_are_one_line() {
    let ledger = ledger(&[3, 4, 5], "a");
    let (out, err) = finished(Form::Summary, &ledger, Some(Early::GaveUp), 5);
    assert_eq!(out, "");
    let want = "sse-publish: lines 3 to 5: channel a: not published: http://a: not sent\n\
        sse-publish: gave up; nothing after line 5 was tried\n\
        published 0 events in 1.2 s, 3 not published\n";
    assert_eq!(err, want);
}

#[test]
fn json_has_a_line_for_each_and_one_for_all() {
    let ledger = ledger(&[1], "a,b");
    let (out, _) = finished(Form::Json, &ledger, None, 1);
    let want =
        "{\"channel\":\"a\",\"error\":{\"detail\":\"not sent\"},\"line\":1,\"outcome\":\"failed\"}";
    assert_eq!(out.lines().next(), Some(want));
    let want = "{\"summary\":{\"failed\":2,\"published\":0,\"seconds\":1.234,\"to\":\"http://a\",\"unknown\":0}}";
    assert_eq!(out.lines().nth(2), Some(want));
}

#[test]
fn trouble_is_told_after_a_second_and_seldom() {
    let (mut report, since) = (report(Form::Ids), Instant::now());
    let failing = Failing { why: "refused".into(), since, until: since + Duration::from_secs(30) };
    let mut told = |ms, failing: Option<&Failing>| {
        report.watch(since + Duration::from_millis(ms), failing);
        String::from_utf8(std::mem::take(&mut report.err)).unwrap()
    };
    assert_eq!(told(900, Some(&failing)), "");
    let line = |left| format!("sse-publish: retrying http://a: refused ({left} s left)\n");
    assert_eq!(told(2500, Some(&failing)), line(28));
    assert_eq!(told(12_000, Some(&failing)), "");
    assert_eq!(told(13_000, Some(&failing)), line(17));
    assert_eq!(told(13_500, None), "");
    assert_eq!(told(14_000, Some(&failing)), line(16));
}
