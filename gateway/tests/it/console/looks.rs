//! How the console looks and is operated: by keyboard, on a phone, by people who see little. And
//! the pictures in `docs/`, which are made here.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{data, get, open, paste, rows, wait_for, wait_for_rows, wait_for_state};
use crate::parsers::installed;
use crate::support::{TestGateway, Wire, eventually};
use crate::webdriver::Browser;

const ESCAPE: &str = "\u{e00c}";
const ENTER: &str = "\u{e007}";
const DOWN: &str = "\u{e015}";

/// Sets the size of the screen in CSS pixels, and how many pixels of the device one of them has.
#[track_caller]
fn screen(browser: &Browser, width: u32, height: u32, scale: f64) {
    let mobile = width < 500;
    browser.devtools(
        "Emulation.setDeviceMetricsOverride",
        &json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile}),
    );
}

#[track_caller]
fn scheme(browser: &Browser, name: &str) {
    let feature = json!({"name": "prefers-color-scheme", "value": name});
    browser.devtools("Emulation.setEmulatedMedia", &json!({"features": [feature]}));
}

/// Publishes an event of a type.
fn send(gateway: &TestGateway, channel: &str, kind: &str, text: &str) {
    let path = format!("/channels/{channel}?event={kind}");
    assert_eq!(gateway.post(&path, &[], text.as_bytes()).status, 200);
}

/// A shop's events, the same each time.
fn story(gateway: &TestGateway, events: std::ops::Range<usize>) {
    for n in events {
        let order = 4100 + n / 3;
        let (channel, kind, text) = match n % 6 {
            0 => (
                "orders",
                "created",
                format!(
                    "{{\"order\":{order},\"total\":\"{}.90\",\"currency\":\"EUR\",\"items\":[{{\"sku\":\"A-17\",\"quantity\":2}},{{\"sku\":\"B-3\",\"quantity\":1}}]}}",
                    40 + n % 57
                ),
            ),
            3 => ("orders", "paid", format!("{{\"order\":{order},\"by\":\"card\"}}")),
            1 | 4 => (
                "telemetry",
                "reading",
                format!(
                    "{{\"device\":\"pump-{}\",\"celsius\":{}.{},\"ok\":true}}",
                    n % 4,
                    20 + n % 7,
                    n % 10
                ),
            ),
            2 => (
                "telemetry",
                "reading",
                format!(
                    "{{\"device\":\"fan-{}\",\"rpm\":{},\"ok\":true}}",
                    n % 3,
                    1180 + n * 7 % 90
                ),
            ),
            _ => ("chat", "", format!("Order {order} is on its way\nIt arrives on Friday")),
        };
        send(gateway, channel, kind, &text);
    }
}

/// Asks axe-core for violations of WCAG 2.2 (A and AA) and of its best practices.
#[track_caller]
fn axe_finds_nothing(browser: &Browser, at: &str) {
    if get(browser, "typeof axe") == "undefined" {
        let axe = installed().join("node_modules/axe-core/axe.min.js");
        let axe = fs::read_to_string(axe).expect("scripts/test installs axe-core");
        browser.execute(&axe, &[]);
    }
    let found = browser.execute(
        "return axe.run(document, {resultTypes: ['violations', 'incomplete']}).then(result =>
             [result.passes.length, result.violations.map(({id, nodes}) =>
                 [id, nodes.map(node => node.html + ' ' + node.failureSummary)])])",
        &[],
    );
    assert_eq!(found[1], json!([]), "{at}");
}

/// The controls whose border differs from what is around it by less than 3:1 (WCAG 1.4.11), and
/// that have no filled background either.
const FAINT: &str = "
    const rgb = text => (text.match(/[\\d.]+/g) ?? []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
    const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
    const behind = element => {
        for (let at = element; at; at = at.parentElement) {
            const colour = rgb(getComputedStyle(at).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
    };
    const controls = [...document.querySelectorAll('input:not([type=checkbox]), select, textarea, button, .menu > summary')];
    const bordered = controls.filter(c => c.checkVisibility() && !c.matches('.link, .item, [role=tab], #unseen'));
    return [bordered.length, bordered.filter(c => {
        const around = behind(c.parentElement), style = getComputedStyle(c);
        return style.borderTopWidth === '0px'
            || (ratio(rgb(style.borderTopColor), around) < 3 && ratio(behind(c), around) < 3);
    }).map(c => c.id || c.outerHTML)]";

#[track_caller]
fn is_accessible(browser: &Browser, at: &str) {
    axe_finds_nothing(browser, at);
    let faint = browser.execute(FAINT, &[]);
    assert!(faint[0].as_u64() > Some(5), "{faint}");
    assert_eq!(faint[1], json!([]), "{at}");
}

#[test]
fn axe_finds_nothing_in_light_and_dark_on_a_desk_and_on_a_phone() {
    let gateway = TestGateway::memory(&[("history.max_len", "20")]);
    let wire = Wire::to(gateway.addr);
    let browser = Browser::open();
    for (name, width, height) in
        [("light", 1440, 860), ("dark", 390, 844), ("dark", 1440, 860), ("light", 390, 844)]
    {
        screen(&browser, width, height, 1.0);
        scheme(&browser, name);
        let at = |what: &str| format!("{what}, {name}, {width}");
        browser.goto("about:blank");
        browser.goto(&format!("http://{}/", wire.addr));
        is_accessible(&browser, &at("empty"));
        browser.goto(&format!("http://{}/#channels=orders,telemetry,chat&from=unknown", wire.addr));
        wait_for_state(&browser, "live");
        wait_for_rows(&browser, 1);
        story(&gateway, 0..12);
        wait_for(&browser, "count.events", 12);
        is_accessible(&browser, &at("events and a gap"));
        browser.execute("step(3); choose(chosen, true)", &[]);
        // Colours and layouts meet once each; the rest is looked at in two of the four.
        let all = (name == "light") == (width > 500);
        for tab in if all { &["tree", "bytes", "raw", "fields"][..] } else { &["tree"] } {
            browser.execute("showTab(arguments[0])", &[(*tab).into()]);
            is_accessible(&browser, &at(tab));
        }
        browser.execute(
            "closeDetail(); for (const m of document.querySelectorAll('.menu')) m.open = true",
            &[],
        );
        is_accessible(&browser, &at("menus"));
        browser.execute("closeMenus(); $('help').showModal()", &[]);
        axe_finds_nothing(&browser, &at("help"));
        browser.execute("$('help').close()", &[]);
        paste(&browser, "#channels", "no!name");
        browser.execute("begin()", &[]);
        is_accessible(&browser, &at("an error"));
        browser.execute("stop('idle')", &[]);
    }
    gateway.settled();
}

/// What has the focus: an element's id, or its tag.
#[track_caller]
fn focus(browser: &Browser) -> Value {
    get(browser, "document.activeElement.id || document.activeElement.tagName")
}

/// Types keys, and waits until the focus is on an element.
#[track_caller]
fn press(browser: &Browser, keys: &str, expected: &str) {
    browser.press(keys);
    eventually(&format!("after {keys:?} the focus is on {expected}"), || {
        focus(browser) == expected
    });
}

#[test]
fn the_console_is_operated_by_keys_alone() {
    let gateway = TestGateway::memory(&[]);
    let browser = Browser::open();
    browser.goto(&format!("http://{}/", gateway.addr));
    press(&browser, "s", "channels");
    press(&browser, &format!("demo{ENTER}"), "channels");
    wait_for_state(&browser, "live");
    press(&browser, ESCAPE, "events");
    press(&browser, "c", "publish-data");
    press(&browser, &format!("hello{ENTER}"), "publish-data");
    wait_for_rows(&browser, 1);
    press(&browser, ESCAPE, "events");
    press(&browser, "p", "events");
    gateway.publish("demo", "held back");
    wait_for(&browser, "$('held').textContent", "1 held back");
    assert_eq!(rows(&browser)[0].text, "hello");
    press(&browser, "p", "events");
    eventually("it is shown", || rows(&browser)[0].text == "held back");
    press(&browser, "/hello", "filter");
    eventually("it is filtered", || rows(&browser).len() == 1);
    press(&browser, ESCAPE, "filter");
    press(&browser, ESCAPE, "events");
    press(&browser, "?", "keys-on");
    press(&browser, ESCAPE, "events");
    // Whoever speaks to the machine switches keys of one character off (WCAG 2.1.4).
    browser.execute("$('keys-on').click(); $('events').focus()", &[]);
    press(&browser, "s", "events");
    browser.click("#stop");
    gateway.settled();
}

#[test]
fn the_list_is_read_by_keys_and_stays_where_it_is_read() {
    let gateway = TestGateway::memory(&[]);
    let browser = Browser::open();
    open(&browser, &gateway, "channels=demo");
    for n in 0..50 {
        gateway.publish("demo", &n.to_string());
    }
    wait_for(&browser, "count.events", 50);
    press(&browser, &format!("{ESCAPE}{DOWN}jjk"), "events");
    assert_eq!(get(&browser, "chosen.data"), "48");
    let active = "$($('events').getAttribute('aria-activedescendant')).row === chosen";
    assert_eq!(get(&browser, active), true);
    press(&browser, ENTER, "events");
    wait_for(&browser, "$('detail').hidden", false);
    // The end of the list: the chosen row is drawn, and the first is not any more.
    press(&browser, "\u{e010}", "events");
    assert_eq!(get(&browser, "chosen.type"), "open");
    assert_eq!(
        get(&browser, "[chosen, all.rows.at(-1)].map(row => $('r' + row.n) !== null)"),
        json!([true, false])
    );
    press(&browser, ESCAPE, "events");
    wait_for(&browser, "$('detail').hidden", true);
    gateway.publish("demo", "above");
    wait_for(&browser, "$('unseen').textContent", "↑ 1 new");
    let still =
        "const [row, list] = ['r' + chosen.n, 'events'].map(id => $(id).getBoundingClientRect());
        return row.top >= list.top - 1 && row.bottom <= list.bottom + 1";
    assert_eq!(browser.execute(still, &[]), true);
    press(&browser, "n", "events");
    wait_for(&browser, "$('unseen').hidden", true);
    browser.click("#stop");
    gateway.settled();
}

#[test]
fn a_control_that_has_done_its_work_keeps_the_focus() {
    let gateway = TestGateway::memory(&[]);
    let browser = Browser::open();
    open(&browser, &gateway, "channels=demo");
    let controls =
        ["publish", "pause", "pause", "older", "clear", "gaps", "stop", "subscribe", "stop"];
    for control in controls {
        browser.execute("$(arguments[0]).focus()", &[control.into()]);
        press(&browser, ENTER, control);
    }
    gateway.settled();
}

#[test]
fn on_a_phone_the_form_folds_and_events_begin_in_the_first_half() {
    let gateway = TestGateway::memory(&[]);
    let browser = Browser::open();
    screen(&browser, 390, 844, 1.0);
    browser.goto(&format!("http://{}/", gateway.addr));
    browser.type_text("#channels", "orders, telemetry, chat");
    browser.click("#subscribe");
    wait_for_state(&browser, "live");
    assert_eq!(get(&browser, "$('sub').open"), false);
    assert_eq!(focus(&browser), "events");
    story(&gateway, 0..12);
    wait_for_rows(&browser, 12);
    assert_eq!(
        get(
            &browser,
            "document.querySelector('[aria-posinset=\"1\"]').getBoundingClientRect().bottom < 422"
        ),
        true
    );
    // The page is as wide as the screen, and the tools stay.
    assert_eq!(get(&browser, "document.documentElement.scrollWidth"), 390);
    for tool in [
        "#pause",
        "#clear",
        "#filter",
        "#older",
        "#export",
        "#gaps",
        "#publish-data",
        "#publish",
        "#sub summary",
    ] {
        let seen = "const box = document.querySelector(arguments[0]).getBoundingClientRect();
            return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2)?.closest(arguments[0]) !== null";
        assert_eq!(browser.execute(seen, &[tool.into()]), true, "{tool}");
    }
    browser.click("[aria-posinset='1']");
    wait_for(&browser, "$('detail').hidden", false);
    assert_eq!(focus(&browser), "detail-close");
    browser.click("#detail-close");
    assert_eq!(focus(&browser), "events");
    browser.click("#more");
    browser.type_text("#publish-key", "a-key");
    browser.click("#publish");
    eventually("it is published", || data(&browser, "#publish-result", "outcome") == "ok");
    browser.execute("stop('idle')", &[]);
    gateway.settled();
}

/// `make pictures` sets the variable and writes them into `docs/`.
#[test]
fn pictures_are_made_in_light_and_dark_and_on_a_phone() {
    let settings = [("history.max_len", "3"), ("stream.retry", "1s")];
    let gateway = TestGateway::memory(&settings);
    let wire = Wire::to(gateway.addr);
    let browser = Browser::open();
    let link = format!("http://{}/#channels=orders,telemetry,chat", wire.addr);
    let picture = |name: &str, width: u32, height: u32, scale: f64| {
        let taken = browser.devtools("Page.captureScreenshot", &json!({"format": "png"}));
        let png = STANDARD.decode(taken["data"].as_str().expect("a picture")).unwrap();
        // The size stands in the first chunk, IHDR (PNG, section 11.2.1).
        let size = [16, 20].map(|at| u32::from_be_bytes(png[at..at + 4].try_into().unwrap()));
        assert_eq!(size, [width, height].map(|n| (f64::from(n) * scale) as u32));
        if let Some(into) = std::env::var_os("TEST_PICTURES") {
            fs::write(Path::new(&into).join(name), png).unwrap();
        }
    };
    screen(&browser, 1360, 800, 1.25);
    scheme(&browser, "light");
    browser.goto(&link);
    wait_for_state(&browser, "live");
    let seconds = || get(&browser, "ticks.length").as_u64();
    let mut told = 0;
    for events in [6, 18, 9, 24, 30, 12, 21] {
        story(&gateway, told..told + events);
        told += events;
        let before = seconds();
        eventually("a second passes", || seconds() > before);
    }
    wait_for(&browser, "count.events", told);
    // A gap: more is published while the page is away than is kept of each channel.
    wire.cut();
    gateway.settled();
    story(&gateway, told..told + 60);
    wire.move_to(gateway.addr);
    wait_for(&browser, "count.gaps", 3);
    story(&gateway, told + 60..told + 65);
    paste(&browser, "#publish-data", "{\"order\":4137,\"carrier\":\"post\"}");
    browser.type_text("#publish-type", "shipped");
    browser.click("#publish");
    eventually("it is published", || data(&browser, "#publish-result", "outcome") == "ok");
    browser.execute(
        "choose(all.rows.findLast(row => row.type === 'created'), true); toTop(); askChannels()",
        &[],
    );
    picture("console.png", 1360, 800, 1.25);
    scheme(&browser, "dark");
    picture("console-dark.png", 1360, 800, 1.25);
    browser.execute("closeDetail()", &[]);
    screen(&browser, 390, 844, 1.5);
    wait_for(&browser, "innerWidth", 390);
    browser.execute("$('sub').open = false; document.activeElement.blur(); drawAll()", &[]);
    picture("console-phone.png", 390, 844, 1.5);
    browser.execute("stop('idle')", &[]);
    gateway.settled();
}
