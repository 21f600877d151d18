//! Tests of the modules for pages, `clients/js/src/follow.js` and `clients/js/src/state.js`, in Chromium:
//! behind a service worker, while gateways come and go, and while a state cannot be loaded.

use serde_json::{Value, json};

use crate::event_source::{Heard, heard, live};
use crate::life::Program;
use crate::site::{End, Site, Worker};
use crate::support::{Redis, Signal, Subscriber, TestGateway, Wire, eventually, own_addr};
use crate::webdriver::Browser;

const QUICK: [(&str, &str); 2] = [("stream.heartbeat", "1h"), ("stream.retry", "100ms")];

/// A page that uses one of the modules.
struct Page<'b> {
    browser: &'b Browser,
}

impl<'b> Page<'b> {
    /// Calls `follow` in the page that the browser shows.
    #[track_caller]
    fn follow(browser: &'b Browser, address: &str, options: Value) -> Self {
        const FOLLOW: &str = "
            const [address, options] = arguments;
            Object.assign(window, { heard: [], gaps: [], sources: [] });
            const Native = EventSource;
            window.EventSource = class extends Native {
                constructor(...all) {
                    super(...all);
                    this.alive = 0;
                    this.addEventListener('alive', () => this.alive++);
                    sources.push(this);
                }
            };
            const event = ({ type, lastEventId: id, data }) => heard.push({ type, id, data });
            const gap = (told) => gaps.push(told);
            return import('/follow.js').then(({ follow }) => {
                window.stop = follow(address, { event, gap, ...options });
            });";
        browser.execute(FOLLOW, &[json!(address), options]);
        Page { browser }
    }

    /// Calls `followState`. In the page, `loads` holds the loads that were begun, each with its
    /// signal and the functions that settle it. The option `answers` settles loads as soon as they
    /// are begun. `said` holds what was shown and applied, in order.
    #[track_caller]
    fn follow_state(browser: &'b Browser, options: Value) -> Self {
        const FOLLOW_STATE: &str = "
            Object.assign(window, { loads: [], said: [], failures: [], waits: [] });
            const wait = setTimeout;
            window.setTimeout = (what, time) => { waits.push(time); return wait(what, time); };
            const { answers = [], ...others } = arguments[0];
            const load = (signal) =>
                new Promise((resolve, reject) => {
                    const answer = answers[loads.push({ resolve, reject, signal }) - 1];
                    if (answer) resolve(answer);
                });
            const show = (state) => said.push(state);
            const apply = (e) => said.push(`${e.type} ${e.data}`);
            const failed = (error) => failures.push(error.message);
            return import('/state.js').then(({ followState }) => {
                const own = { load, show, apply, failed, types: ['paid'], retry: 100 };
                window.stop = followState('/events?channel=demo', { ...own, ...others });
            });";
        browser.execute(FOLLOW_STATE, &[options]);
        Page { browser }
    }

    #[track_caller]
    fn get(&self, expression: &str) -> Value {
        self.browser.execute(&format!("return {expression}"), &[])
    }

    #[track_caller]
    fn wait_for(&self, expression: &str, value: impl Into<Value>) {
        let value = value.into();
        eventually(&format!("{expression} is {value}"), || self.get(expression) == value);
    }

    /// Waits until the page has heard at least `count` events, and returns all.
    #[track_caller]
    fn heard(&self, count: usize) -> Vec<Heard> {
        eventually(&format!("the page has heard {count} events"), || {
            self.get("heard.length").as_u64() >= Some(count as u64)
        });
        serde_json::from_value(self.get("heard")).unwrap()
    }

    #[track_caller]
    fn stop(self) {
        self.browser.execute("stop()", &[]);
    }
}

/// A gateway in a process of its own, which can be killed or stopped.
fn program(redis: &Redis) -> Program {
    let quick = QUICK.map(|(key, value)| format!("{key}={value}"));
    let url = format!("redis.url={}", redis.url());
    Program::start(&["broker=redis", &url, "log.level=warn", &quick[0], &quick[1]])
}

/// Through a service worker Chromium sends no `Last-Event-ID`. After a clean end its stream begins
/// at "now" again, or at the `last_event_id` in its URL, where it began the last time.
#[test]
fn behind_a_service_worker_nothing_is_lost_and_nothing_comes_twice() {
    let redis = Redis::start();
    let gateways = [(); 2].map(|()| TestGateway::redis(&redis, &QUICK));
    let site = Site::before(gateways[0].addr);
    let browser = Browser::open();
    site.visit_behind(Worker::PassesOn, &browser);
    let page = Page::follow(&browser, "/events?channel=demo", json!({"retry": 100}));
    live(&gateways[0], 1);
    let publish = |data: &str| heard("message", &gateways[0].publish("demo", data), data);
    let mut published = vec![publish("before")];
    page.heard(1);
    let ends = [End::InOrder, End::InOrder, End::Cut, End::InOrder, End::Cut, End::Cut];
    for (n, end) in ends.into_iter().enumerate() {
        site.hold();
        site.end(end);
        eventually("it wants to come back", || site.waiting() > 0);
        published.push(publish("while it was away"));
        let gateway = &gateways[(n + 1) % 2];
        site.move_to(gateway.addr);
        live(gateway, 1);
        published.push(publish("when it was back"));
        let last = published.last().map(|event| event.id.clone());
        eventually("it hears what follows", || {
            page.heard(1).last().map(|event| event.id.clone()) == last
        });
        assert_eq!(page.heard(1), published, "after {end:?}");
    }
    assert_eq!(page.get("gaps"), json!([]));
    page.stop();
    gateways.iter().for_each(TestGateway::settled);
}

#[test]
fn behind_a_service_worker_gateways_are_drained_killed_and_replaced() {
    let redis = Redis::start();
    let (drained, last) = (TestGateway::redis(&redis, &QUICK), TestGateway::redis(&redis, &QUICK));
    let killed = program(&redis);
    let site = Site::before(drained.addr);
    let browser = Browser::open();
    site.visit_behind(Worker::PassesOn, &browser);
    let page = Page::follow(&browser, "/events?channel=demo", json!({"retry": 100}));
    live(&drained, 1);
    let publish = |data: &str| heard("message", &last.publish("demo", data), data);
    let mut published = vec![publish("before")];
    page.heard(1);

    site.hold();
    drained.stop();
    eventually("it wants to come back", || site.waiting() > 0);
    published.push(publish("after the drain"));
    site.move_to(killed.addr);
    page.heard(2);
    published.push(publish("before the kill"));
    page.heard(3);

    site.hold();
    drop(killed);
    eventually("it wants to come back", || site.waiting() > 0);
    published.push(publish("after the kill"));
    site.move_to(last.addr);
    page.heard(4);
    published.push(publish("the last"));
    assert_eq!(page.heard(5), published);
    assert_eq!(page.get("gaps"), json!([]));
    page.stop();
    last.settled();
}

#[test]
fn a_closed_event_source_and_a_dead_connection_are_opened_again() {
    let redis = Redis::start();
    let (frozen, last) = (program(&redis), TestGateway::redis(&redis, &QUICK));
    let site = Site::before(last.addr);
    let browser = Browser::open();
    site.visit(&browser);
    let options = json!({"retry": 100, "silence": 2000});
    let page = Page::follow(&browser, "/events?channel=demo", options);
    live(&last, 1);
    let publish = |data: &str| heard("message", &last.publish("demo", data), data);
    let mut published = vec![publish("before")];
    page.heard(1);

    site.refuse();
    site.end(End::Cut);
    page.wait_for("sources[0].readyState", 2);
    published.push(publish("while it was refused"));
    site.move_to(frozen.addr);
    published.push(publish("before the frost"));
    page.heard(3);
    frozen.signal(Signal::STOP);
    published.push(publish("during the frost"));
    site.move_to(last.addr);
    published.push(publish("the last"));
    assert_eq!(page.heard(5), published);
    assert_eq!(page.get("gaps"), json!([]));
    page.stop();
    last.settled();
}

/// The guide recommends such a worker. The browser's own EventSource then resumes by itself.
#[test]
fn a_service_worker_that_leaves_events_alone_takes_nothing_away() {
    let gateway = TestGateway::memory(&QUICK);
    let site = Site::before(gateway.addr);
    let browser = Browser::open();
    site.visit_behind(Worker::LeavesAlone, &browser);
    let page = Page::follow(&browser, "/events?channel=demo", json!({}));
    live(&gateway, 1);
    let publish = |data: &str| heard("message", &gateway.publish("demo", data), data);
    let mut published = vec![publish("before")];
    page.heard(1);
    for end in [End::InOrder, End::Cut] {
        site.hold();
        site.end(end);
        eventually("it wants to come back", || site.waiting() > 0);
        published.push(publish("while it was away"));
        site.move_to(gateway.addr);
        assert_eq!(page.heard(published.len()), published);
    }
    assert_eq!(page.get("sources.length"), 1);
    page.stop();
    gateway.settled();
}

/// A stream that can have no checkpoint has a heartbeat that scripts can see.
#[test]
fn while_redis_is_away_a_page_keeps_its_connection() {
    let mut redis = Redis::start();
    let settings = [("stream.heartbeat", "1s"), ("stream.retry", "100ms")];
    let gateway = TestGateway::redis(&redis, &settings);
    let site = Site::before(gateway.addr);
    let browser = Browser::open();
    site.visit(&browser);
    let page = Page::follow(&browser, "/events?channel=demo", json!({"silence": 6000}));
    live(&gateway, 1);
    redis.kill();
    // These heartbeats take longer than `silence`.
    let alive = "sources.reduce((sum, source) => sum + source.alive, 0)";
    eventually("it has heard some heartbeats", || page.get(alive).as_u64() >= Some(18));
    assert_eq!(page.get("sources.length"), 1);
    redis.restart();
    live(&gateway, 1);
    let id = gateway.publish("demo", "back");
    assert_eq!(page.heard(1), [heard("message", &id, "back")]);
    assert_eq!(page.get("sources.length"), 1);
    assert_eq!(page.get("gaps[0].reason"), "reset");
    page.stop();
    gateway.settled();
}

#[test]
fn a_page_of_another_origin_follows_with_its_cookies_if_it_wants_to() {
    // The gateway's configuration names the site's address, so the site comes first.
    let site = Site::before(own_addr());
    let origin = format!("http://{}", site.addr);
    let gateway = TestGateway::memory(&[("cors.origins", &origin)]);
    let wire = Wire::to(gateway.addr);
    let browser = Browser::open();
    site.visit(&browser);
    browser.execute("document.cookie = 'session=17'", &[]);
    let address = format!("http://{}/events?channel=demo", wire.addr);
    for with in [false, true] {
        let page = Page::follow(&browser, &address, json!({"withCredentials": with}));
        live(&gateway, 1);
        assert_eq!(wire.asked().contains("session=17"), with);
        let id = gateway.publish("demo", "hello");
        assert_eq!(page.heard(1), [heard("message", &id, "hello")]);
        page.stop();
        gateway.settled();
    }
}

/// If a proxy removes the position from the query, the stream cannot be resumed, and the page is
/// told of a gap.
#[test]
fn a_stream_that_cannot_be_resumed_is_a_gap() {
    let gateway = TestGateway::memory(&QUICK);
    let site = Site::before(gateway.addr);
    let browser = Browser::open();
    site.visit_behind(Worker::PassesOn, &browser);
    let page = Page::follow(&browser, "/events?channel=demo", json!({"retry": 100}));
    browser.execute(
        "const set = URLSearchParams.prototype.set;
         URLSearchParams.prototype.set = function (name, value) {
             if (name !== 'last_event_id') set.call(this, name, value);
         };",
        &[],
    );
    live(&gateway, 1);
    let first = gateway.publish("demo", "first");
    page.heard(1);
    site.hold();
    site.end(End::InOrder);
    eventually("it wants to come back", || site.waiting() > 0);
    gateway.publish("demo", "missed");
    site.move_to(gateway.addr);
    let told = json!({"channel": "*", "reason": "not_resumed", "after": first});
    page.wait_for("gaps", json!([told]));
    let last = gateway.publish("demo", "last");
    let expected = [heard("message", &first, "first"), heard("message", &last, "last")];
    assert_eq!(page.heard(2), expected);
    page.stop();
    gateway.settled();
}

#[test]
fn a_state_whose_first_load_fails_is_loaded_again_and_then_followed() {
    let gateway = TestGateway::memory(&QUICK);
    let site = Site::before(gateway.addr);
    site.serve("/api/orders", 503, "text/plain", "not now");
    let browser = Browser::open();
    site.visit(&browser);
    let page = Page::follow_state(&browser, json!({}));
    // The load as the guide writes it.
    browser.execute(
        "window.orders = async (signal) => {
             const answer = await fetch('/api/orders', { signal });
             if (!answer.ok) throw new Error(`/api/orders: ${answer.status}`);
             return answer.json();
         };
         window.relay = setInterval(() => {
             for (const { resolve, reject, signal } of loads.splice(0)) orders(signal).then(resolve, reject);
         }, 5);",
        &[],
    );
    live(&gateway, 1);
    publish(&gateway, "paid", "17");
    eventually("it has failed more than once", || site.count("/api/orders") > 2);
    assert_eq!(page.get("failures[0]"), "/api/orders: 503");
    assert_eq!(page.get("said"), json!([]));
    site.serve("/api/orders", 200, "application/json", "\"loaded\"");
    page.wait_for("said", json!(["loaded", "paid 17"]));
    publish(&gateway, "paid", "18");
    publish(&gateway, "", "untyped");
    page.wait_for("said", json!(["loaded", "paid 17", "paid 18", "message untyped"]));
    page.stop();
    gateway.settled();
}

#[test]
fn a_load_that_does_not_end_is_given_up() {
    let gateway = TestGateway::memory(&QUICK);
    let site = Site::before(gateway.addr);
    let browser = Browser::open();
    site.visit(&browser);
    let options = json!({"patience": 300, "answers": [null, "in time"]});
    let page = Page::follow_state(&browser, options);
    page.wait_for("said", json!(["in time"]));
    assert_eq!(page.get("loads[0].signal.aborted"), true);
    assert_eq!(page.get("failures"), json!(["not loaded in 300 ms"]));
    // A load that ends too late is not shown.
    browser.execute("loads[0].resolve('too late')", &[]);
    assert_eq!(page.get("said"), json!(["in time"]));
    page.stop();
    gateway.settled();
}

/// All pages hear of a reset at once, and must not load at once.
#[test]
fn after_a_reset_pages_wait_a_random_time_and_load_again() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &QUICK);
    let site = Site::before(gateway.addr);
    let browser = Browser::open();
    site.visit(&browser);
    browser.execute("Math.random = () => 0.25", &[]);
    let page = Page::follow_state(&browser, json!({"spread": 2345}));
    page.wait_for("loads.length", 1);
    browser.execute("loads[0].resolve('loaded')", &[]);
    page.wait_for("said", json!(["loaded"]));
    live(&gateway, 1);
    redis.command(&["FCALL", "sse_fence", "1", "sse:state"]);
    page.wait_for("loads.length", 2);
    assert_eq!(page.get("waits.includes(2345 / 4)"), true, "{}", page.get("waits"));
    live(&gateway, 1);
    // The event is held back until the state is loaded.
    let id = publish(&gateway, "paid", "17");
    let mut other = gateway.live("channel=demo&last_event_id=0");
    while other.event().id != id {}
    assert_eq!(page.get("said"), json!(["loaded"]));
    browser.execute("loads[1].resolve('loaded again')", &[]);
    page.wait_for("said", json!(["loaded", "loaded again", "paid 17"]));
    page.stop();
    drop(other);
    gateway.settled();
}

#[test]
fn more_events_than_are_held_back_are_dropped_and_the_state_is_loaded_again() {
    let gateway = TestGateway::memory(&QUICK);
    let site = Site::before(gateway.addr);
    let browser = Browser::open();
    site.visit(&browser);
    let page = Page::follow_state(&browser, json!({"held": 3}));
    page.wait_for("loads.length", 1);
    live(&gateway, 1);
    for n in 1..=4 {
        publish(&gateway, "paid", &n.to_string());
    }
    page.wait_for("loads.length", 2);
    assert_eq!(page.get("loads[0].signal.aborted"), true);
    assert_eq!(page.get("failures"), json!(["more than 3 events came during a load"]));
    publish(&gateway, "paid", "5");
    publish(&gateway, "paid", "6");
    browser.execute("loads[0].resolve('too old'); loads[1].resolve('with 1 to 4')", &[]);
    page.wait_for("said", json!(["with 1 to 4", "paid 5", "paid 6"]));
    page.stop();
    gateway.settled();
}

/// A full gateway answers as if it opened the stream, and ends it.
#[test]
fn a_state_loaded_before_the_stream_was_let_in_is_loaded_again() {
    let gateway = TestGateway::memory(&[QUICK[0], QUICK[1], ("stream.max_streams", "1")]);
    let other: Subscriber = gateway.live("channel=other");
    let site = Site::before(gateway.addr);
    let browser = Browser::open();
    site.visit(&browser);
    let page = Page::follow_state(&browser, json!({}));
    page.wait_for("loads.length", 1);
    browser.execute("loads[0].resolve('loaded')", &[]);
    page.wait_for("said", json!(["loaded"]));
    publish(&gateway, "paid", "missed");
    drop(other);
    page.wait_for("loads.length", 2);
    browser.execute("loads[1].resolve('with what was missed')", &[]);
    page.wait_for("said", json!(["loaded", "with what was missed"]));
    publish(&gateway, "paid", "17");
    page.wait_for("said.at(-1)", "paid 17");
    assert_eq!(page.get("loads.length"), 2);
    page.stop();
    gateway.settled();
}

#[test]
fn a_state_is_shown_while_redis_is_away_and_loaded_again_when_it_is_back() {
    let mut redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[QUICK[0], QUICK[1], ("stream.open_wait", "100ms")]);
    let site = Site::before(gateway.addr);
    let browser = Browser::open();
    redis.kill();
    site.visit(&browser);
    let page = Page::follow_state(&browser, json!({"spread": 0}));
    page.wait_for("loads.length", 1);
    browser.execute("loads[0].resolve('loaded')", &[]);
    page.wait_for("said", json!(["loaded"]));
    redis.restart();
    page.wait_for("loads.length", 2);
    browser.execute("loads[1].resolve('loaded again')", &[]);
    live(&gateway, 1);
    publish(&gateway, "paid", "17");
    page.wait_for("said", json!(["loaded", "loaded again", "paid 17"]));
    assert_eq!(page.get("loads.length"), 2);
    page.stop();
    gateway.settled();
}

#[test]
fn a_page_that_stops_aborts_its_load_and_shows_nothing_more() {
    let gateway = TestGateway::memory(&QUICK);
    let site = Site::before(gateway.addr);
    let browser = Browser::open();
    site.visit(&browser);
    let page = Page::follow_state(&browser, json!({}));
    page.wait_for("loads.length", 1);
    live(&gateway, 1);
    browser.execute("stop(); loads[0].resolve('too late')", &[]);
    assert_eq!(page.get("loads[0].signal.aborted"), true);
    gateway.settled();
    assert_eq!(page.get("said"), json!([]));
    assert_eq!(page.get("loads.length"), 1);
}

/// Publishes one event of this type on `demo`, and returns its id.
#[track_caller]
fn publish(gateway: &TestGateway, event: &str, data: &str) -> String {
    let answer = gateway.post(&format!("/channels/demo?event={event}"), &[], data.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["id"].as_str().expect("an id").to_owned()
}
