//! Tests with a browser's own `EventSource`: what pages see, with Chromium's parser, its rules for
//! reconnecting, and its idea of which answers are final.

use std::net::SocketAddr;

use serde::Deserialize;
use serde_json::json;

use crate::streams::on_both;
use crate::support::{Redis, Subscriber, TestGateway, Wire, eventually};
use crate::webdriver::Browser;

/// An `EventSource` in a page of the gateway's origin, and every event that it dispatched.
pub struct EventSource<'b> {
    browser: &'b Browser,
}

/// An event as a listener received it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Heard {
    /// The type that the listener was registered for, or `message` for `onmessage`.
    #[serde(rename = "type")]
    pub kind: String,
    pub id: String,
    pub data: String,
}

impl<'b> EventSource<'b> {
    /// Opens an `EventSource`, in a page of the gateway, that listens to these types besides
    /// `message`.
    #[track_caller]
    pub fn open(browser: &'b Browser, addr: SocketAddr, query: &str, types: &[&str]) -> Self {
        Self::of(browser, &format!("http://{addr}"), query, types)
    }

    /// Opens an `EventSource`, in a page of this origin, that listens to these types besides
    /// `message`.
    #[track_caller]
    pub fn of(browser: &'b Browser, origin: &str, query: &str, types: &[&str]) -> Self {
        const OPEN: &str = "
            const [url, types] = arguments;
            window.heard = [];
            window.errors = [];
            window.source = new EventSource(url);
            const hear = type => ({lastEventId: id, data}) => heard.push({type, id, data});
            source.onmessage = hear('message');
            for (const type of types) source.addEventListener(type, hear(type));
            source.onerror = () => errors.push(source.readyState);";
        browser.goto(&format!("{origin}/"));
        browser.execute(OPEN, &[json!(format!("/events?{query}")), json!(types)]);
        EventSource { browser }
    }

    /// Everything heard so far.
    #[track_caller]
    pub fn heard(&self) -> Vec<Heard> {
        serde_json::from_value(self.browser.execute("return heard", &[])).unwrap()
    }

    /// Waits until the page has heard at least `count` events, and returns all.
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<Heard> {
        eventually(&format!("the page has heard {count} events"), || {
            self.browser.execute("return heard.length", &[]).as_u64() >= Some(count as u64)
        });
        self.heard()
    }

    /// `readyState` at each `error` event: 0 means that the browser will reconnect, 2 that it never
    /// will.
    #[track_caller]
    pub fn errors(&self) -> Vec<u64> {
        serde_json::from_value(self.browser.execute("return errors", &[])).unwrap()
    }

    /// Closes the `EventSource`, as a page does.
    #[track_caller]
    pub fn close(self) {
        self.browser.execute("source.close()", &[]);
    }
}

/// Waits until the gateway has this many streams and all of them are live.
#[track_caller]
pub fn live(gateway: &TestGateway, streams: u64) {
    eventually("all streams are live", || {
        gateway.sum(|c| c.subscribers.get()) == streams && gateway.sum(|c| c.joining.get()) == 0
    });
}

/// An event to compare with what was heard.
pub fn heard(kind: &str, id: &str, data: &str) -> Heard {
    Heard { kind: kind.to_owned(), id: id.to_owned(), data: data.to_owned() }
}

#[test]
fn a_page_hears_plain_and_typed_events_with_their_ids() {
    let browser = Browser::open();
    on_both(&[], |gateway| {
        let page = EventSource::open(&browser, gateway.addr, "channel=demo", &["tick"]);
        live(gateway, 1);
        let publish = |event: &str, data: &str| {
            let path = format!("/channels/demo?event={event}");
            let answer = gateway.post(&path, &[], data.as_bytes());
            answer.json()["id"].as_str().expect("an id").to_owned()
        };
        let first = gateway.publish("demo", "hello");
        let second = publish("tick", "1");
        publish("unheard", "nobody listens");
        let last = gateway.publish("demo", "two\nlines");
        let expected = [
            heard("message", &first, "hello"),
            heard("tick", &second, "1"),
            heard("message", &last, "two\nlines"),
        ];
        // The page does not listen for the opening checkpoint either.
        assert_eq!(page.wait_for(3), expected);
        assert_eq!(page.errors(), [0; 0]);
        page.close();
    });
}

#[test]
fn a_page_moves_to_another_gateway_and_hears_all_once() {
    let redis = Redis::start();
    let [one, two] = [(); 2].map(|()| TestGateway::redis(&redis, &[("stream.retry", "100ms")]));
    let wire = Wire::to(one.addr);
    let browser = Browser::open();
    let page = EventSource::open(&browser, wire.addr, "channel=demo", &["gap"]);
    live(&one, 1);
    let publish = |numbers: std::ops::Range<u32>| {
        let event = |n: u32| heard("message", &two.publish("demo", &n.to_string()), &n.to_string());
        numbers.map(event).collect::<Vec<_>>()
    };
    let mut published = publish(0..50);
    page.wait_for(1);
    wire.move_to(two.addr);
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| publish(50..300));
        one.stop();
        published.extend(publisher.join().unwrap());
    });
    live(&two, 1);
    published.extend(publish(300..310));
    assert_eq!(page.wait_for(310), published);
    assert_eq!(page.errors(), [0], "one stream ended, and it was to come back");
    page.close();
    two.settled();
}

#[test]
fn a_draining_gateway_never_closes_a_page() {
    let redis = Redis::start();
    let settings = [("stream.retry", "100ms"), ("drain.spread", "40s"), ("drain.deadline", "50s")];
    let mut one = TestGateway::redis(&redis, &settings);
    let two = TestGateway::redis(&redis, &settings);
    let wire = Wire::to(one.addr);
    let browser = Browser::open();
    let page = EventSource::open(&browser, wire.addr, "channel=demo", &["gap"]);
    live(&one, 1);
    // A drain ends streams roughly in the order in which they were opened. These keep the gateway
    // draining for some seconds.
    let others: Vec<Subscriber> = (0..500).map(|_| one.subscribe("channel=demo")).collect();
    live(&one, 501);
    one.drain();
    let refused = one.metrics.rejected.with_label_values(&["draining"]);
    eventually("it came back and was sent away, again and again", || refused.get() >= 3);
    let id = two.publish("demo", "meanwhile");
    wire.move_to(two.addr);
    assert_eq!(page.wait_for(1), [heard("message", &id, "meanwhile")]);
    let errors = page.errors();
    assert!(errors.len() >= 4 && errors.iter().all(|state| *state == 0), "{errors:?}");
    page.close();
    drop(others);
    one.stop();
    two.settled();
}

#[test]
fn what_is_final_by_nature_closes_a_page() {
    let gateway = TestGateway::memory(&[]);
    let browser = Browser::open();
    let page = EventSource::open(&browser, gateway.addr, "channel=no%20name", &[]);
    eventually("it is closed", || page.errors() == [2]);
    page.close();
    gateway.settled();
}
