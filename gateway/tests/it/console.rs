//! Tests of the console at `/` in Chromium, used by somebody who tries the gateway.

mod looks;
mod page;
mod tools;

use serde_json::{Value, json};

use crate::event_source::live;
use crate::site::{End, Site, Worker};
use crate::streams::{NDJSON, on_both};
use crate::support::{Redis, TestGateway, Wire, eventually, own_addr, request};
use crate::webdriver::Browser;

/// A row of the console's list, which shows the newest first: an event or a gap.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    id: String,
    kind: String,
    channel: String,
    text: String,
}

/// Of the rows on the screen, the events and gaps, from above.
const ROWS: &str = "return [...document.querySelectorAll('#rows .event, #rows .gap')]
    .sort((a, b) => a.ariaPosInSet - b.ariaPosInSet)
    .map(row => [row.dataset.id, row.dataset.type, row.querySelector('.channel')?.textContent ?? '',
        row.querySelector('.data').textContent])";

#[track_caller]
fn rows(browser: &Browser) -> Vec<Row> {
    let rows: Vec<(String, String, String, String)> =
        serde_json::from_value(browser.execute(ROWS, &[])).unwrap();
    let row = |(id, kind, channel, text)| Row { id, kind, channel, text };
    rows.into_iter().map(row).collect()
}

fn row(id: &str, kind: &str, channel: &str, text: &str) -> Row {
    let [id, kind, channel, text] = [id, kind, channel, text].map(str::to_owned);
    Row { id, kind, channel, text }
}

/// An event of the channel `demo` without a type.
fn message(id: &str, text: &str) -> Row {
    row(id, "message", "demo", text)
}

#[track_caller]
fn wait_for_rows(browser: &Browser, count: usize) -> Vec<Row> {
    eventually(&format!("{count} rows are shown"), || rows(browser).len() >= count);
    rows(browser)
}

/// The text of the list's dividers that are no gaps, such as reconnects, from above.
#[track_caller]
fn notes(browser: &Browser) -> String {
    let script = "return [...document.querySelectorAll('#rows .note')]
        .sort((a, b) => a.ariaPosInSet - b.ariaPosInSet).map(row => row.textContent).join('\\n')";
    browser.execute(script, &[]).as_str().expect("text").to_owned()
}

/// A data attribute of an element of the page.
#[track_caller]
fn data(browser: &Browser, css: &str, name: &str) -> Value {
    let script = "return document.querySelector(arguments[0]).dataset[arguments[1]] ?? null";
    browser.execute(script, &[json!(css), json!(name)])
}

/// What an expression is in the page, whose script has one scope.
#[track_caller]
fn get(browser: &Browser, expression: &str) -> Value {
    browser.execute(&format!("return {expression}"), &[])
}

#[track_caller]
fn wait_for(browser: &Browser, expression: &str, value: impl Into<Value>) {
    let value = value.into();
    let mut last = Value::Null;
    eventually(&format!("{expression} is {value}"), || {
        last = get(browser, expression);
        last == value
    });
}

#[track_caller]
fn wait_for_state(browser: &Browser, state: &str) {
    eventually(&format!("the console is {state}"), || data(browser, "#state", "state") == state);
}

/// Opens the console with what stands behind `#`, and waits until its stream is live.
#[track_caller]
fn open(browser: &Browser, gateway: &TestGateway, link: &str) {
    browser.goto(&format!("http://{}/#{link}", gateway.addr));
    wait_for_state(browser, "live");
    live(gateway, 1);
}

/// Sets a field's text, also with line ends, as pasting does.
#[track_caller]
fn paste(browser: &Browser, css: &str, text: &str) {
    let script = "const field = document.querySelector(arguments[0]);
        field.value = arguments[1];
        field.dispatchEvent(new Event('input', {bubbles: true}));";
    browser.execute(script, &[json!(css), json!(text)]);
}

/// Fills in the composer, publishes, and returns the id that the console shows.
#[track_caller]
fn publish(browser: &Browser, kind: &str, text: &str) -> String {
    browser.type_text("#publish-type", kind);
    paste(browser, "#publish-data", text);
    browser.click("#publish");
    eventually("it is published", || {
        data(browser, "#publish-result", "outcome") == "ok"
            && !data(browser, "#publish-result", "id").is_null()
    });
    let id = data(browser, "#publish-result", "id").as_str().expect("an id").to_owned();
    browser.execute("delete document.querySelector('#publish-result').dataset.id", &[]);
    id
}

/// Publishes many events at once; each is the text for its number.
fn publish_all(gateway: &TestGateway, channel: &str, text: impl Fn(usize) -> String, count: usize) {
    let lines: String = (0..count)
        .map(|n| json!({"channel": channel, "data": text(n)}).to_string() + "\n")
        .collect();
    let answer = gateway.post("/publish", &[NDJSON], lines.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[test]
fn what_is_published_in_the_console_is_seen_in_it() {
    let browser = Browser::open();
    on_both(&[], |gateway| {
        browser.goto(&format!("http://{}/", gateway.addr));
        assert_eq!(data(&browser, "#state", "state"), "idle");
        browser.type_text("#channels", "demo, orders/eu");
        browser.click("#subscribe");
        wait_for_state(&browser, "live");
        live(gateway, 1);
        let plain = publish(&browser, "", "hello <b>world</b>\nsecond line");
        browser.type_text("#publish-channel", "orders/eu");
        let typed = publish(&browser, "tick", "{\"n\":1}");
        let expected = [
            row(&typed, "tick", "orders/eu", "{\"n\":1}"),
            row(&plain, "message", "demo", "hello <b>world</b> ⏎ second line"),
        ];
        assert_eq!(wait_for_rows(&browser, 2), expected);
        assert!(browser.text("#publish-result").starts_with("Published in "));
        wait_for(&browser, "$('count-events').textContent", "2");
        wait_for(&browser, "$('position').textContent", typed);
        browser.click("#stop");
        wait_for_state(&browser, "idle");
    });
}

#[test]
fn the_console_says_what_is_refused_and_why() {
    let gateway = TestGateway::memory(&[]);
    let browser = Browser::open();
    browser.goto(&format!("http://{}/", gateway.addr));
    browser.type_text("#channels", "no!name");
    browser.click("#subscribe");
    eventually("it is refused", || browser.text("#channels-error").contains("not '!'"));
    assert_eq!(data(&browser, "#state", "state"), "closed");
    browser.type_text("#publish-channel", "demo");
    browser.type_text("#publish-type", "gap");
    browser.click("#publish");
    eventually("it is refused", || data(&browser, "#publish-result", "outcome") == "error");
    assert!(browser.text("#publish-result").contains("reserved"));
    gateway.settled();
}

#[test]
fn a_link_subscribes_from_the_oldest_event_kept() {
    let browser = Browser::open();
    on_both(&[], |gateway| {
        let mut expected: Vec<Row> = ["1", "2", "3"]
            .map(|text| message(&gateway.publish("demo", text), text))
            .into_iter()
            .collect();
        expected.reverse();
        browser.goto(&format!("http://{}/#channels=demo&from=oldest", gateway.addr));
        assert_eq!(wait_for_rows(&browser, 3), expected);
        browser.click("#stop");
    });
}

#[test]
fn a_cursor_of_nowhere_is_shown_as_a_gap() {
    let browser = Browser::open();
    on_both(&[], |gateway| {
        gateway.publish("demo", "not replayed");
        browser.goto(&format!("http://{}/#channels=demo&from=nonsense", gateway.addr));
        let shown = wait_for_rows(&browser, 1);
        assert!(shown[0].text.contains("They came after nonsense"), "{shown:?}");
        wait_for(&browser, "$('count-gaps').textContent", "1");
        let id = gateway.publish("demo", "live");
        let rows = wait_for_rows(&browser, 2);
        assert_eq!((rows.len(), &rows[0]), (2, &message(&id, "live")));
        browser.click("#stop");
    });
}

#[test]
fn the_console_comes_back_after_a_restart_and_has_missed_nothing() {
    let redis = Redis::start();
    let addr = own_addr().to_string();
    let start = || TestGateway::redis(&redis, &[("server.listen", &addr), ("stream.retry", "1s")]);
    let gateway = start();
    let browser = Browser::open();
    open(&browser, &gateway, "channels=demo");
    let first = gateway.publish("demo", "before");
    wait_for_rows(&browser, 1);
    gateway.stop();
    wait_for_state(&browser, "reconnecting");
    let second = redis.fcall("demo", "while it was away");
    let gateway = start();
    wait_for_state(&browser, "live");
    let third = gateway.publish("demo", "after");
    let expected = [
        message(&third, "after"),
        message(&second, "while it was away"),
        message(&first, "before"),
    ];
    assert_eq!(wait_for_rows(&browser, 3), expected);
    assert_ne!(get(&browser, "count.reconnects"), 0);
    assert_eq!(get(&browser, "count.gaps"), 0);
    let notes = notes(&browser);
    assert!(notes.contains(&format!("went on after {first}")), "{notes}");
    browser.click("#stop");
    gateway.settled();
}

#[test]
fn what_died_with_a_process_is_shown_as_a_gap() {
    let addr = own_addr().to_string();
    let start = || TestGateway::memory(&[("server.listen", &addr), ("stream.retry", "1s")]);
    let gateway = start();
    let browser = Browser::open();
    open(&browser, &gateway, "channels=demo");
    gateway.publish("demo", "before");
    wait_for_rows(&browser, 1);
    gateway.stop();
    let gateway = start();
    let rows = wait_for_rows(&browser, 2);
    assert_eq!(rows[0].kind, "gap");
    assert!(rows[0].text.contains("its own memory and was restarted"), "{rows:?}");
    let id = gateway.publish("demo", "after");
    assert_eq!(wait_for_rows(&browser, 3)[0], message(&id, "after"));
    browser.click("#stop");
    gateway.settled();
}

#[test]
fn a_sign_of_life_is_no_event() {
    let mut redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[("stream.heartbeat", "1s")]);
    let browser = Browser::open();
    open(&browser, &gateway, "channels=demo");
    let mut other = gateway.live("channel=demo");
    live(&gateway, 2);
    redis.kill();
    for _ in 0..3 {
        assert_eq!(other.event().event, "alive");
    }
    redis.restart();
    while other.event().event != "gap" {}
    let id = gateway.publish("demo", "back");
    let shown = wait_for_rows(&browser, 2);
    assert_eq!((shown.len(), &shown[0]), (2, &message(&id, "back")));
    assert_eq!(shown[1].kind, "gap");
    browser.click("#stop");
    drop(other);
    gateway.settled();
}

#[test]
fn the_browsers_own_event_source_is_shown_not_to_have_been_resumed() {
    let gateway = TestGateway::memory(&[("stream.retry", "100ms")]);
    let site = Site::before(gateway.addr);
    let page = request(gateway.addr, "GET", "/", &[], b"").body;
    site.serve("/console", 200, "text/html", &page);
    let browser = Browser::open();
    site.visit_behind(Worker::PassesOn, &browser);
    browser.goto(&format!("http://{}/console#channels=demo&native=1", site.addr));
    live(&gateway, 1);
    let first = gateway.publish("demo", "first");
    wait_for_rows(&browser, 1);
    site.hold();
    site.end(End::InOrder);
    eventually("it wants to come back", || site.waiting() > 0);
    gateway.publish("demo", "missed");
    site.move_to(gateway.addr);
    let shown = wait_for_rows(&browser, 2);
    assert_eq!((shown.len(), shown[0].kind.as_str()), (2, "gap"));
    assert!(shown[0].text.contains(&format!("They came after {first}")), "{shown:?}");
    browser.click("#stop");
    gateway.settled();
}

/// Each of the four times 20,000 events are published while the page is away, of which the gateway
/// keeps 15,000: a real gap, whatever the machine's speed, and then a burst.
#[test]
fn a_burst_of_60_000_events_with_4_gaps_shows_4_gaps() {
    let gateway = TestGateway::memory(&[("history.max_len", "15000"), ("stream.retry", "100ms")]);
    let wire = Wire::to(gateway.addr);
    let browser = Browser::open();
    browser.goto(&format!("http://{}/#channels=demo", wire.addr));
    live(&gateway, 1);
    let mut at_most = 0;
    let mut look = || {
        let drawn = get(&browser, "document.querySelectorAll('#rows .row').length");
        at_most = at_most.max(drawn.as_u64().expect("a number"));
    };
    for burst in 1..=4 {
        wire.cut();
        gateway.settled();
        for _ in 0..2 {
            publish_all(&gateway, "demo", |n| format!("burst {burst}: {n}"), 10_000);
        }
        wire.move_to(gateway.addr);
        eventually("the burst has arrived", || {
            look();
            get(&browser, "count.events") == burst * 15_000
        });
    }
    wait_for(&browser, "$('count-gaps').textContent", "4");
    wait_for(&browser, "$('count-events').textContent", "60,000");
    // Events beyond the cap were dropped, and no divider.
    let held = get(&browser, "all.events").as_u64().expect("a number");
    assert!((10_000..=11_000).contains(&held), "{held}");
    look();
    assert!(at_most < 100, "{at_most} rows in the document");
    // The counter leads from gap to gap, and each is drawn and chosen.
    let mut seen: Vec<String> = (0..4)
        .map(|_| {
            browser.click("#gaps");
            wait_for(&browser, "document.querySelectorAll('.gap[aria-selected=true]').length", 1);
            get(&browser, "chosen.data").as_str().expect("JSON").to_owned()
        })
        .collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert!(seen.iter().all(|gap| gap.contains("trimmed")), "{seen:?}");
    // No filter hides them.
    paste(&browser, "#filter", "matches-nothing");
    eventually("only gaps are left", || rows(&browser).len() == 4);
    assert!(rows(&browser).iter().all(|row| row.kind == "gap"));
    browser.click("#stop");
    gateway.settled();
}

#[test]
fn a_gateway_that_froze_is_noticed_by_its_silence() {
    let gateway = TestGateway::memory(&[("stream.heartbeat", "1s"), ("stream.retry", "100ms")]);
    let wire = Wire::to(gateway.addr);
    let browser = Browser::open();
    browser.goto(&format!("http://{}/#channels=demo", wire.addr));
    live(&gateway, 1);
    let first = gateway.publish("demo", "first");
    wait_for_rows(&browser, 1);
    // The browser may try another connection that it still has, which passes nothing either.
    browser.execute("PATIENCE.connect = 1000", &[]);
    // The connection stays open, but nothing passes on it any more. New ones work.
    wire.forget();
    let missed = gateway.publish("demo", "missed");
    let shown = wait_for_rows(&browser, 2);
    assert_eq!(shown, [message(&missed, "missed"), message(&first, "first")]);
    let notes = notes(&browser);
    assert!(notes.contains("no sign of life for") && notes.contains("every 1 s"), "{notes}");
    browser.click("#stop");
    wire.close();
    gateway.settled();
}
