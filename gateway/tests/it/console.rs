//! Tests of the console at `/` in Chromium, used by somebody who tries the gateway.

use serde_json::{Value, json};

use crate::event_source::live;
use crate::site::{End, Site, Worker};
use crate::streams::on_both;
use crate::support::{Redis, TestGateway, eventually, own_addr};
use crate::webdriver::Browser;

/// A row of the console's list, which shows the newest event first.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    id: String,
    kind: String,
    text: String,
}

#[track_caller]
fn rows(browser: &Browser) -> Vec<Row> {
    const ROWS: &str = "return [...document.querySelectorAll('#events li')].map(li => \
        [li.dataset.id, li.dataset.type, li.querySelector('pre, p').textContent])";
    let rows: Vec<(String, String, String)> =
        serde_json::from_value(browser.execute(ROWS, &[])).unwrap();
    rows.into_iter().map(|(id, kind, text)| Row { id, kind, text }).collect()
}

fn row(id: &str, kind: &str, text: &str) -> Row {
    Row { id: id.to_owned(), kind: kind.to_owned(), text: text.to_owned() }
}

#[track_caller]
fn wait_for_rows(browser: &Browser, count: usize) -> Vec<Row> {
    eventually(&format!("{count} rows are shown"), || rows(browser).len() >= count);
    rows(browser)
}

/// A data attribute of an element of the page.
#[track_caller]
fn data(browser: &Browser, css: &str, name: &str) -> Value {
    let script = "return document.querySelector(arguments[0]).dataset[arguments[1]] ?? null";
    browser.execute(script, &[json!(css), json!(name)])
}

#[track_caller]
fn wait_for_state(browser: &Browser, state: &str) {
    eventually(&format!("the console is {state}"), || data(browser, "#state", "state") == state);
}

/// Fills in the form, publishes, and returns the id that the console shows.
#[track_caller]
fn publish(browser: &Browser, kind: &str, text: &str) -> String {
    browser.type_text("#publish-type", kind);
    browser.type_text("#publish-data", text);
    browser.click("#publish");
    eventually("it is published", || data(browser, "#publish-result", "outcome") == "ok");
    data(browser, "#publish-result", "id").as_str().expect("an id").to_owned()
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
        let opened = || gateway.sum(|c| c.subscribers.get()) == 1;
        eventually("it is subscribed", || opened() && gateway.sum(|c| c.joining.get()) == 0);
        let plain = publish(&browser, "", "hello <b>world</b>\nsecond line");
        browser.type_text("#publish-channel", "orders/eu");
        let typed = publish(&browser, "tick", "{\"n\":1}");
        let expected = [
            row(&typed, "tick", "{\"n\":1}"),
            row(&plain, "message", "hello <b>world</b>\nsecond line"),
        ];
        assert_eq!(wait_for_rows(&browser, 2), expected);
        assert_eq!(browser.text("#count-events"), "2");
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
    assert!(browser.text("#channels-error").ends_with("not '!'"));
    assert_eq!(data(&browser, "#state", "state"), "idle");
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
            .map(|text| row(&gateway.publish("demo", text), "message", text))
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
        eventually("the gap is shown", || {
            browser.execute("return document.querySelectorAll('li.gap').length", &[]) == 1
        });
        assert!(browser.text("li.gap p").contains("after nonsense may be missing"));
        assert_eq!(browser.text("#count-gaps"), "1");
        let id = gateway.publish("demo", "live");
        let rows = wait_for_rows(&browser, 2);
        assert_eq!((rows.len(), &rows[0]), (2, &row(&id, "message", "live")));
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
    browser.goto(&format!("http://{addr}/#channels=demo"));
    live(&gateway, 1);
    let first = gateway.publish("demo", "before");
    wait_for_rows(&browser, 1);
    gateway.stop();
    wait_for_state(&browser, "reconnecting");
    let second = redis.fcall("demo", "while it was away");
    let gateway = start();
    wait_for_state(&browser, "live");
    let third = gateway.publish("demo", "after");
    let expected = [
        row(&third, "message", "after"),
        row(&second, "message", "while it was away"),
        row(&first, "message", "before"),
    ];
    assert_eq!(wait_for_rows(&browser, 3), expected);
    assert_ne!(browser.text("#count-reconnects"), "0");
    assert_eq!(browser.text("#count-gaps"), "0");
    browser.click("#stop");
    gateway.settled();
}

#[test]
fn what_died_with_a_process_is_shown_as_a_gap() {
    let addr = own_addr().to_string();
    let start = || TestGateway::memory(&[("server.listen", &addr), ("stream.retry", "1s")]);
    let gateway = start();
    let browser = Browser::open();
    browser.goto(&format!("http://{addr}/#channels=demo"));
    live(&gateway, 1);
    gateway.publish("demo", "before");
    wait_for_rows(&browser, 1);
    gateway.stop();
    let gateway = start();
    let rows = wait_for_rows(&browser, 2);
    assert_eq!(rows[0].kind, "gap");
    assert!(rows[0].text.contains("the history began anew"), "{rows:?}");
    let id = gateway.publish("demo", "after");
    assert_eq!(wait_for_rows(&browser, 3)[0], row(&id, "message", "after"));
    browser.click("#stop");
    gateway.settled();
}

#[test]
fn a_sign_of_life_is_no_event() {
    let mut redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[("stream.heartbeat", "1s")]);
    let browser = Browser::open();
    browser.goto(&format!("http://{}/#channels=demo", gateway.addr));
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
    assert_eq!((shown.len(), &shown[0]), (2, &row(&id, "message", "back")));
    assert_eq!(shown[1].kind, "gap");
    browser.click("#stop");
    drop(other);
    gateway.settled();
}

#[test]
fn the_browsers_own_event_source_is_shown_not_to_have_been_resumed() {
    let gateway = TestGateway::memory(&[("stream.retry", "100ms")]);
    let site = Site::before(gateway.addr);
    site.serve("/console", 200, "text/html", include_str!("../../src/http/console.html"));
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
    assert!(shown[0].text.contains(&format!("after {first} may be missing")), "{shown:?}");
    browser.click("#stop");
    gateway.settled();
}
