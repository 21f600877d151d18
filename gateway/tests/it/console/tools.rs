//! What the console does with events: filters, shows them whole, fetches older ones, exports and
//! repeats them, and breaks its stream.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::json;

use super::{
    data, get, message, notes, open, paste, publish, publish_all, row, rows, wait_for,
    wait_for_rows, wait_for_state,
};
use crate::event_source::live;
use crate::streams::{NDJSON, on_both};
use crate::support::{TestGateway, Wire, eventually, spawn};
use crate::webdriver::Browser;

#[test]
fn what_passes_the_filter_is_kept_beyond_any_number_that_does_not() {
    let gateway = TestGateway::memory(&[("history.max_len", "20000")]);
    let browser = Browser::open();
    open(&browser, &gateway, "channels=demo&filter=needle");
    let needle = gateway.publish("demo", "a needle");
    publish_all(&gateway, "demo", |n| format!("hay {n}"), 9_000);
    publish_all(&gateway, "demo", |n| format!("hay {n}"), 9_000);
    wait_for(&browser, "count.events", 18_001);
    assert_eq!(rows(&browser), [message(&needle, "a needle")]);
    wait_for(&browser, "$('matching').textContent", "1 match, 18,000 filtered out");
    assert_eq!(rows(&browser).len(), 1);
    browser.click("#stop");
    gateway.settled();
}

#[test]
fn a_filter_takes_words_parts_and_their_negation() {
    let gateway = TestGateway::memory(&[]);
    let browser = Browser::open();
    open(&browser, &gateway, "channels=demo,other");
    let events = [
        ("demo", "paid", "apple pie"),
        ("demo", "paid", "Banana"),
        ("demo", "", "apple"),
        ("other", "", "paid apple, as long as this"),
    ];
    for (channel, kind, text) in events {
        let path = format!("/channels/{channel}?event={kind}");
        assert_eq!(gateway.post(&path, &[], text.as_bytes()).status, 200);
    }
    wait_for_rows(&browser, 4);
    let shown = |filter: &str, expected: &[usize]| {
        paste(&browser, "#filter", filter);
        let expected: Vec<&str> = expected.iter().rev().map(|n| events[*n].2).collect();
        eventually(&format!("{filter} leaves {expected:?}"), || {
            rows(&browser).iter().map(|row| row.text.as_str()).eq(expected.iter().copied())
        });
    };
    shown("apple", &[0, 2, 3]);
    shown("banana", &[1]);
    shown("apple -pie", &[2, 3]);
    shown("type:paid", &[0, 1]);
    shown("-type:paid", &[2, 3]);
    shown("channel:other", &[3]);
    shown("!channel:other apple", &[0, 2]);
    shown("\"apple pie\"", &[0]);
    shown("data:paid", &[3]);
    shown("a.*e", &[]);
    shown("", &[0, 1, 2, 3]);
    browser.click("[aria-label='Mute: demo']");
    eventually("a muted channel is not shown", || rows(&browser).len() == 1);
    browser.click("[aria-label='Solo: demo']");
    eventually("one alone is", || rows(&browser).len() == 3);
    browser.click("#stop");
    gateway.settled();
}

#[test]
fn an_event_of_a_megabyte_is_whole_and_no_text_is_markup() {
    let gateway = TestGateway::memory(&[]);
    let browser = Browser::open();
    open(&browser, &gateway, "channels=demo");
    // A number and a repeated name that JSON.parse would not keep.
    let filler = "<img src=x onerror=alert(1)>".repeat(36_000);
    let big = format!(
        r#"{{"a":12345678901234567890.10,"a":"</script><b>","deep":{{"list":[1,null]}},"filler":"{filler}"}}"#
    );
    assert!(big.len() > 1_000_000);
    let kind = "<i>paid</i>";
    let path = "/channels/demo?event=%3Ci%3Epaid%3C%2Fi%3E";
    assert_eq!(gateway.post(path, &[], big.as_bytes()).status, 200);
    wait_for_rows(&browser, 1);
    browser.click("#rows .event");
    assert_eq!(browser.text("#detail-title"), kind);
    let tree = get(&browser, "$('detail-body').textContent");
    let tree = tree.as_str().expect("text");
    for part in ["{ 4 members }", "a: 12345678901234567890.10", "a: \"</script><b>\"", "1: null"] {
        assert!(tree.contains(part), "{part}: {}", &tree[..300]);
    }
    assert!(tree.contains(&filler));
    browser.click("#tab-raw");
    assert_eq!(get(&browser, "$('detail-body').textContent"), json!(big));
    browser.click("#tab-bytes");
    wait_for(
        &browser,
        "document.querySelector('.hexline').textContent.slice(0, 19)",
        "000000  7b 22 61 22",
    );
    browser.execute("$('detail-body').scrollTop = 1e9", &[]);
    let last = format!("{:06x}  ", big.len() / 16 * 16);
    eventually("the last bytes are shown", || browser.text("#detail-body").contains(&last));
    assert!(get(&browser, "document.querySelectorAll('.hexline').length").as_u64() < Some(100));
    browser.click("#tab-fields");
    assert!(browser.text("#detail-body").contains(&format!("event:\n{kind}")));
    let made = "document.querySelectorAll('#detail b:not([id]), #detail i, #detail img, #rows i, #rows b').length";
    assert_eq!(get(&browser, made), 0);
    browser.execute("navigator.clipboard.writeText = text => { window.copied = text; }", &[]);
    browser.click("#copy-data");
    assert_eq!(get(&browser, "copied"), json!(big));
    browser.click("#stop");
    gateway.settled();
}

#[test]
fn older_events_are_fetched_from_the_history_without_a_hole() {
    let browser = Browser::open();
    on_both(&[("history.max_len", "10000")], |gateway| {
        for part in 0..4 {
            publish_all(gateway, "demo", |n| format!("{}", part * 1000 + n), 700);
            publish_all(gateway, "other", |n| format!("other {part} {n}"), 10);
        }
        open(&browser, gateway, "channels=demo,other");
        publish(&browser, "", "live");
        wait_for_rows(&browser, 1);
        browser.click("#older");
        wait_for(&browser, "all.events", 2841);
        let rising = "all.rows.filter(row => row.kind === 'event')
            .every((row, i, rows) => !i || below(parseId(rows[i - 1].id), parseId(row.id)))";
        assert_eq!(get(&browser, rising), true);
        assert_eq!(get(&browser, "all.rows[0].data"), "0");
        browser.click("#older");
        eventually("it says that there is no more", || {
            browser.text("#toast").starts_with("No older events are kept")
        });
        assert_eq!(get(&browser, "all.events"), 2841);
        browser.click("#stop");
    });
}

#[test]
fn a_stream_begins_five_minutes_ago() {
    let browser = Browser::open();
    on_both(&[], |gateway| {
        let id = gateway.publish("demo", "before");
        open(&browser, gateway, "channels=demo&from=5m");
        assert_eq!(wait_for_rows(&browser, 1), [message(&id, "before")]);
        assert_eq!(get(&browser, "count.gaps"), 0);
        browser.click("#stop");
    });
}

#[test]
fn a_stream_is_broken_on_purpose_and_resumed_from_any_event() {
    let gateway = TestGateway::memory(&[("stream.retry", "100ms")]);
    let browser = Browser::open();
    open(&browser, &gateway, "channels=demo");
    let [first, second] = ["first", "second"].map(|text| gateway.publish("demo", text));
    wait_for_rows(&browser, 2);
    browser.execute("breakIt(1e6)", &[]);
    wait_for_state(&browser, "reconnecting");
    gateway.settled();
    let third = gateway.publish("demo", "third");
    browser.execute("$('events').focus()", &[]);
    browser.press("r");
    let shown = wait_for_rows(&browser, 3);
    let expected = [message(&third, "third"), message(&second, "second"), message(&first, "first")];
    assert_eq!(shown, expected);
    assert!(notes(&browser).contains("you broke it"));
    // The list begins anew behind the event that is chosen.
    browser.execute("choose(all.rows.find(row => row.data === 'first'), true)", &[]);
    browser.click("#resume-here");
    eventually("what came after the first is shown", || rows(&browser) == expected[..2]);
    assert_eq!(get(&browser, "count.gaps"), 0);
    browser.click("#stop");
    gateway.settled();
}

#[test]
fn what_is_exported_can_be_published() {
    let gateway = TestGateway::memory(&[]);
    let browser = Browser::open();
    open(&browser, &gateway, "channels=demo,other");
    let texts = ["plain", "{\"a\": 1}", "two\nlines", "\"quoted\" \u{2028} ünï"];
    for (n, text) in texts.iter().enumerate() {
        let path = ["/channels/demo?event=tick", "/channels/other"][n % 2];
        assert_eq!(gateway.post(path, &[], text.as_bytes()).status, 200);
    }
    let before = wait_for_rows(&browser, 4);
    // What the button downloads.
    browser.execute("URL.createObjectURL = blob => { window.blob = blob; return '#'; }", &[]);
    browser.click("#export");
    let lines = browser.execute("return blob.text()", &[]);
    let lines = lines.as_str().expect("text");
    assert_eq!(lines.lines().count(), 4);
    let answer = gateway.post("/publish", &[NDJSON], lines.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.body);
    let after = wait_for_rows(&browser, 8);
    for (again, first) in after.iter().zip(&before) {
        let [again, first] = [again, first].map(|r| row("", &r.kind, &r.channel, &r.text));
        assert_eq!(again, first);
    }
    browser.click("#stop");
    gateway.settled();
}

#[test]
fn the_stream_is_copied_as_a_command() {
    let gateway = TestGateway::memory(&[]);
    let browser = Browser::open();
    let id = gateway.publish("demo", "hello");
    open(&browser, &gateway, "channels=demo,a%2Bb&from=oldest");
    wait_for_rows(&browser, 1);
    browser.click("#stop");
    browser.execute("navigator.clipboard.writeText = text => { window.copied = text; }", &[]);
    let copied = |kind: &str| {
        browser.execute(
            "document.querySelector(`[data-copy=${arguments[0]}]`).click()",
            &[kind.into()],
        );
        get(&browser, "copied").as_str().expect("text").to_owned()
    };
    let curl = copied("curl");
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec {curl}")]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut shell = spawn(&mut shell, "curl");
    let lines = BufReader::new(shell.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == format!("id: {id}")), "{curl}");
    drop(shell);
    let tail = format!("sse-publish tail --url http://{} --from oldest demo a+b", gateway.addr);
    assert_eq!(copied("sse-publish"), tail);
    let source = copied("EventSource");
    // The page runs what it copied.
    browser.execute(&format!("{source} window.source = source"), &[]);
    live(&gateway, 1);
    browser.type_text("#token", "a.secret.token");
    for kind in ["curl", "sse-publish", "EventSource"] {
        let text = copied(kind);
        assert!(
            !text.contains("secret")
                && !get(&browser, "location.hash").to_string().contains("secret")
        );
        assert_eq!(text.contains("$TOKEN"), kind != "EventSource", "{text}");
    }
    browser.execute("source.close()", &[]);
    gateway.settled();
}

#[test]
fn an_event_is_published_n_times_at_a_rate_and_once_with_a_key() {
    let gateway = TestGateway::memory(&[]);
    let browser = Browser::open();
    open(&browser, &gateway, "channels=demo");
    paste(&browser, "#repeat", "12");
    paste(&browser, "#per-second", "500");
    paste(&browser, "#publish-data", "number {n}");
    browser.click("#publish");
    eventually("all are published", || data(&browser, "#publish-result", "outcome") == "ok");
    let said = browser.text("#publish-result");
    assert!(
        said.starts_with("Published 12 of 12 in ") && said.contains("round trip p50"),
        "{said}"
    );
    let mut texts: Vec<String> = wait_for_rows(&browser, 12).into_iter().map(|r| r.text).collect();
    texts.sort();
    let mut expected: Vec<String> = (1..=12).map(|n| format!("number {n}")).collect();
    expected.sort();
    assert_eq!(texts, expected);
    paste(&browser, "#repeat", "1");
    browser.type_text("#publish-key", "one");
    let ids = [(); 2].map(|()| publish(&browser, "", "once"));
    assert_eq!(ids[0], ids[1]);
    let marker = gateway.publish("demo", "marker");
    let shown = wait_for_rows(&browser, 14);
    assert_eq!(shown[..2], [message(&marker, "marker"), message(&ids[0], "once")]);
    // As in a shell, the arrow brings back what was published.
    paste(&browser, "#publish-data", "");
    browser.click("#publish-data");
    browser.press("\u{e013}\u{e013}");
    assert_eq!(get(&browser, "$('publish-data').value"), "number {n}");
    browser.click("#stop");
    gateway.settled();
}

#[test]
fn a_publish_that_is_not_answered_ends_and_says_what_may_have_happened() {
    let gateway = TestGateway::memory(&[]);
    let wire = Wire::to(gateway.addr);
    let browser = Browser::open();
    browser.goto(&format!("http://{}/", wire.addr));
    browser.execute("PATIENCE.publish = 500", &[]);
    browser.type_text("#publish-channel", "demo");
    wire.stall(true);
    browser.click("#publish");
    eventually("it is given up", || data(&browser, "#publish-result", "outcome") == "error");
    let said = browser.text("#publish-result");
    assert!(
        said.contains("No answer in 1 s") && said.contains("may have been published or not"),
        "{said}"
    );
    wire.stall(false);
    gateway.settled();
}

#[test]
fn a_stream_that_waits_behind_six_others_is_explained() {
    let gateway = TestGateway::memory(&[]);
    let browser = Browser::open();
    browser.goto(&format!("http://{}/", gateway.addr));
    // As six tabs would.
    browser.execute(
        "PATIENCE.explain = 300;
         window.six = Array.from({length: 6}, () => new EventSource('events?channel=demo'))",
        &[],
    );
    live(&gateway, 6);
    browser.type_text("#channels", "demo");
    browser.click("#subscribe");
    eventually("it is explained", || {
        browser.text("#state-detail").contains("six connections to a host")
    });
    assert_eq!(data(&browser, "#state", "state"), "connecting");
    browser.execute("six[0].close()", &[]);
    wait_for_state(&browser, "live");
    browser.execute("stop('idle'); for (const source of six) source.close()", &[]);
    gateway.settled();
}
