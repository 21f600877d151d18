//! Tests of access in a browser: Chromium's own `EventSource` with cookies and tickets.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::access::token;
use crate::event_source::{EventSource, heard, live};
use crate::support::{TestGateway, Wire, eventually};
use crate::webdriver::Browser;

const SETTINGS: [(&str, &str); 3] = [
    (
        "auth.jwt.keys",
        "alg=HS256 secret=a-secret-of-at-least-32-bytes-for-tests subscribe=user:{sub}:*",
    ),
    ("auth.jwt.leeway", "0s"),
    ("stream.retry", "100ms"),
];

fn in_seconds(seconds: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + seconds
}

fn set_cookie(browser: &Browser, token: &str) {
    browser.execute("document.cookie = `sse_token=${arguments[0]}; path=/`", &[json!(token)]);
}

fn everything() -> String {
    token(json!({ "sub": "publisher", "publish": ["*"] }))
}

/// Opens a page of the gateway and sets the cookie, before any stream is opened there.
fn visit(browser: &Browser, gateway: &TestGateway, token: &str) {
    browser.goto(&format!("http://{}/", gateway.addr));
    set_cookie(browser, token);
}

#[test]
fn when_its_token_expires_a_page_goes_on_under_a_new_cookie_without_a_hole() {
    let gateway = TestGateway::memory(&SETTINGS);
    let browser = Browser::open();
    visit(&browser, &gateway, &token(json!({ "sub": "42", "exp": in_seconds(10) })));
    let page = EventSource::open(&browser, gateway.addr, "channel=user:42:mail", &["gap"]);
    live(&gateway, 1);
    // Applications that renew sessions do so before the old token expires.
    set_cookie(&browser, &token(json!({ "sub": "42" })));
    let (mut published, publisher) = (Vec::new(), everything());
    let mut publish = || {
        let data = published.len().to_string();
        let id = gateway.publish_as("user:42:mail", &data, &publisher);
        published.push(heard("message", &id, &data));
    };
    let expired = sse_gateway::stream::close_reason::CloseReason::Expired as usize;
    eventually("its stream ends", || {
        publish();
        gateway.sum(|cells| cells.closed[expired].get()) == 1
    });
    publish();
    live(&gateway, 1);
    publish();
    assert_eq!(page.wait_for(published.len()), published);
    assert_eq!(page.errors(), [0], "one error, after which it comes back by itself");
    page.close();
    gateway.settled();
}

#[test]
fn with_a_bad_or_an_ended_token_a_page_stops_and_does_not_hammer() {
    let gateway = TestGateway::memory(&SETTINGS);
    let browser = Browser::open();
    visit(&browser, &gateway, "nonsense");
    let page = EventSource::open(&browser, gateway.addr, "channel=user:42:mail", &[]);
    eventually("it is closed", || page.errors() == [2]);
    page.close();
    // The cookie expires and is not renewed in time.
    set_cookie(&browser, &token(json!({ "sub": "42", "exp": in_seconds(10) })));
    let page = EventSource::open(&browser, gateway.addr, "channel=user:42:mail", &[]);
    live(&gateway, 1);
    eventually("it is closed", || page.errors().last() == Some(&2));
    assert_eq!(page.errors(), [0, 2], "it came back once");
    page.close();
    // The subject is revoked.
    set_cookie(&browser, &token(json!({ "sub": "42", "iat": in_seconds(0) - 5 })));
    let page = EventSource::open(&browser, gateway.addr, "channel=user:42:mail", &[]);
    live(&gateway, 1);
    assert_eq!(
        crate::support::request(gateway.admin, "DELETE", "/connections?subject=42", &[], b"")
            .status,
        200
    );
    eventually("it is closed", || page.errors().last() == Some(&2));
    assert_eq!(page.errors(), [0, 2], "it came back once");
    let rejected = |reason: &str| gateway.metrics.rejected.with_label_values(&[reason]).get();
    assert_eq!((rejected("unauthenticated"), rejected("revoked")), (2, 1));
    page.close();
    gateway.settled();
}

/// `follow.js` gets a ticket for each connection, so the page needs no cookie.
#[test]
fn a_page_follows_with_a_ticket_for_each_connection() {
    let gateway = TestGateway::memory(&SETTINGS);
    let wire = Wire::to(gateway.addr);
    let browser = Browser::open();
    browser.goto(&format!("http://{}/", wire.addr));
    let script = include_str!("../../../clients/js/src/follow.js").replace("export function", "function")
        + "
        const [token] = arguments;
        Object.assign(window, { heard: [], gaps: [], tickets: 0 });
        const ticket = async () => {
            tickets++;
            const answer = await fetch('/tickets', { method: 'POST', headers: { Authorization: `Bearer ${token}` } });
            return answer.status === 201 ? (await answer.json()).ticket : null;
        };
        const event = ({ type, lastEventId: id, data }) => heard.push({ type, id, data });
        window.stop = follow('/events?channel=user:42:mail', { retry: 100, ticket, event, gap: (told) => gaps.push(told) });";
    browser.execute(&script, &[json!(token(json!({ "sub": "42", "iat": in_seconds(0) - 5 })))]);
    live(&gateway, 1);
    let publisher = everything();
    let mut published = Vec::new();
    for n in 0..4 {
        let id = gateway.publish_as("user:42:mail", &n.to_string(), &publisher);
        published.push(json!({ "type": "message", "id": id, "data": n.to_string() }));
        eventually("it is heard", || {
            browser.execute("return heard.length", &[]) == published.len()
        });
        wire.cut();
        let id = gateway.publish_as("user:42:mail", "meanwhile", &publisher);
        published.push(json!({ "type": "message", "id": id, "data": "meanwhile" }));
        wire.move_to(gateway.addr);
        eventually("it comes back", || {
            browser.execute("return heard.length", &[]) == published.len()
        });
    }
    assert_eq!(browser.execute("return heard", &[]), Value::Array(published));
    assert_eq!(browser.execute("return gaps", &[]), json!([]));
    assert!(browser.execute("return tickets", &[]).as_u64() >= Some(5));
    // The subject is revoked: `/tickets` refuses it, and `follow` stops.
    assert_eq!(
        crate::support::request(gateway.admin, "DELETE", "/connections?subject=42", &[], b"")
            .status,
        200
    );
    gateway.settled();
    let before = browser.execute("return tickets", &[]).as_u64();
    eventually("it asked once more, and stopped", || {
        browser.execute("return tickets", &[]).as_u64() > before
    });
    gateway.settled();
}
