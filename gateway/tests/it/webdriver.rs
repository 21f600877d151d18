//! A real browser for tests: just enough of the W3C WebDriver protocol to drive Chromium, WebKitGTK
//! and Firefox.
//!
//! A [`Browser`] owns one driver process, one browser session in it and the session's profile
//! directory. All three are gone when it is dropped, also while a test panics. Calls block, and a
//! failure panics at the caller's line. Async code must use it in a blocking task: a page that
//! waits for the gateway must not hold up the gateway.

mod http;
mod marionette;

use std::fmt::Display;
use std::time::Duration;

use serde_json::{Value, json};

use http::Http;
use marionette::Marionette;

use crate::support::Scratch;

/// How long a script of a test may run, in milliseconds.
const SCRIPT_TIMEOUT_MS: u64 = 60_000;

/// Longer than any answer may take, so that a dead driver fails a test instead of hanging it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

/// The member by which WebDriver marks a JSON object as a reference to an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Which browser it is, and so whose `EventSource`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Chromium,
    Firefox,
    /// WebKitGTK's MiniBrowser. It has no headless mode, so it needs a display.
    WebKit,
}

/// One browser with one tab and a fresh profile.
pub struct Browser {
    // Dropped in this order, because a running browser writes to its profile.
    driver: Driver,
    profile: Scratch,
}

/// Takes the commands of one session, named by WebDriver's paths.
enum Driver {
    Http(Http),
    Firefox(Marionette),
}

impl Browser {
    /// Opens a headless Chromium.
    #[track_caller]
    pub fn open() -> Browser {
        Browser::of(Engine::Chromium)
    }

    /// Starts a driver on a port of its own and opens a session.
    #[track_caller]
    pub fn of(engine: Engine) -> Browser {
        let profile = Scratch::new("browser");
        let timeouts = json!({"script": SCRIPT_TIMEOUT_MS, "pageLoad": 30_000});
        // No browser trusts the certificates of tests.
        let always = json!({"timeouts": timeouts, "acceptInsecureCerts": true});
        let mut capabilities = json!({"alwaysMatch": always});
        let driver = match engine {
            Engine::Chromium => {
                capabilities["alwaysMatch"]["goog:chromeOptions"] = http::chromium(profile.path());
                Http::chromedriver(profile.path()).open(&capabilities).map(Driver::Http)
            }
            Engine::WebKit => Http::webkit(profile.path()).open(&capabilities).map(Driver::Http),
            Engine::Firefox => {
                Marionette::start(profile.path()).open(&capabilities).map(Driver::Firefox)
            }
        };
        let what = "open a session (scripts/test installs Chromium, scripts/browsers the others)";
        Browser { driver: or_panic(what, driver), profile }
    }

    /// Loads a page and waits for its `load` event.
    #[track_caller]
    pub fn goto(&self, url: &str) {
        self.run(&format!("load {url}"), "/url", &json!({"url": url}));
    }

    /// Runs the body of a function with `args` as its `arguments`, and returns its result. A
    /// promise is awaited.
    #[track_caller]
    pub fn execute(&self, script: &str, args: &[Value]) -> Value {
        let body = json!({"script": script, "args": args});
        self.run(&format!("run {script:?}"), "/execute/sync", &body)
    }

    /// Like [`execute`](Self::execute), but the script ends when it calls its last argument, a
    /// function, with the result.
    #[track_caller]
    pub fn execute_async(&self, script: &str, args: &[Value]) -> Value {
        let body = json!({"script": script, "args": args});
        self.run(&format!("run {script:?}"), "/execute/async", &body)
    }

    /// Scrolls the first match of the selector into view and clicks it as a user would. Fails if
    /// something covers it.
    #[track_caller]
    pub fn click(&self, css: &str) {
        let element = self.find(css);
        self.run(&format!("click {css}"), &format!("{element}/click"), &json!({}));
    }

    /// Replaces the text of a field by typing, key by key.
    ///
    /// Chromedriver types only characters of the Basic Multilingual Plane, and every driver takes
    /// those from U+E000 on for keys such as Enter (U+E007). A script can set any text.
    #[track_caller]
    pub fn type_text(&self, css: &str, text: &str) {
        let element = self.find(css);
        self.run(&format!("clear {css}"), &format!("{element}/clear"), &json!({}));
        let typing = format!("type {text:?} into {css}");
        self.run(&typing, &format!("{element}/value"), &json!({"text": text}));
    }

    /// The text that a user sees in the first match of the selector, without hidden text.
    #[track_caller]
    pub fn text(&self, css: &str) -> String {
        let element = self.find(css);
        let text =
            self.run(&format!("read the text of {css}"), &format!("{element}/text"), &Value::Null);
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Types into whatever has the focus, as a user without a mouse does. WebDriver takes the
    /// characters from U+E000 on for keys: U+E007 is Enter, U+E00C Escape, U+E004 Tab.
    #[track_caller]
    pub fn press(&self, keys: &str) {
        let keys = keys.chars().flat_map(|key| {
            ["keyDown", "keyUp"].map(|what| json!({"type": what, "value": key.to_string()}))
        });
        let keyboard = json!({"type": "key", "id": "keys", "actions": keys.collect::<Vec<_>>()});
        self.run("press keys", "/actions", &json!({"actions": [keyboard]}));
    }

    /// Runs a command of Chromium's DevTools protocol.
    #[track_caller]
    pub fn devtools(&self, command: &str, parameters: &Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.run(command, "/goog/cdp/execute", &body)
    }

    /// The path of the first match, below the session's.
    #[track_caller]
    fn find(&self, css: &str) -> String {
        let query = json!({"using": "css selector", "value": css});
        let found = self.run(&format!("find {css}"), "/element", &query);
        let Some(id) = found[ELEMENT].as_str() else {
            panic!("the browser found {css} but answered no element: {found}");
        };
        format!("/element/{id}")
    }

    /// Sends one command: a POST if it has a body, else a GET.
    #[track_caller]
    fn run(&self, what: &str, path: &str, body: &Value) -> Value {
        or_panic(
            what,
            match &self.driver {
                Driver::Http(driver) => driver.command(path, body),
                Driver::Firefox(driver) => driver.command(path, body),
            },
        )
    }
}

// A `match`, because a panic in a closure would name this file's line instead of the test's.
#[track_caller]
fn or_panic<T>(what: &str, result: Result<T, impl Display>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("the browser did not {what}: {error}"),
    }
}

/// A driver's words about a command that failed. Only the first line, because the stack trace of
/// the driver's own code follows.
fn in_words(failure: &Value) -> String {
    let text = |member: &str| failure[member].as_str().unwrap_or_default();
    format!("{}: {}", text("error"), text("message").lines().next().unwrap_or_default())
}

/// Tests the client with pages that need no server. If these pass, a test of the gateway that fails
/// in the browser does not fail because of the browser.
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    const PAGE: &str = "data:text/html,<input id=name value=old><button onclick=\"\
        said.textContent='hello, '+document.querySelector('input').value\">ok</button><p id=said>";

    #[test]
    fn a_page_is_typed_into_clicked_and_read() {
        is_typed_into_clicked_and_read(&Browser::open());
    }

    #[test]
    fn scripts_get_arguments_and_give_results() {
        get_arguments_and_give_results(&Browser::open());
    }

    #[test]
    #[ignore = "make browsers"]
    fn firefox_does_the_same() {
        let browser = Browser::of(Engine::Firefox);
        is_typed_into_clicked_and_read(&browser);
        get_arguments_and_give_results(&browser);
    }

    #[test]
    #[ignore = "make browsers"]
    fn webkit_does_the_same() {
        let browser = Browser::of(Engine::WebKit);
        is_typed_into_clicked_and_read(&browser);
        get_arguments_and_give_results(&browser);
    }

    fn is_typed_into_clicked_and_read(browser: &Browser) {
        browser.goto(PAGE);
        browser.type_text("#name", "wörld \"\\ :");
        browser.click("button");
        assert_eq!(browser.text("#said"), "hello, wörld \"\\ :");
    }

    fn get_arguments_and_give_results(browser: &Browser) {
        let hostile = json!("a\r\n\0\u{feff}\u{2028}😀");
        assert_eq!(browser.execute("return arguments[0]", std::slice::from_ref(&hostile)), hostile);
        let later = "const done = arguments[1]; setTimeout(() => done(arguments[0] + 1), 10)";
        assert_eq!(browser.execute_async(later, &[json!(41)]), json!(42));
        assert_eq!(browser.execute("return Promise.resolve(1)", &[]), json!(1));
    }

    #[test]
    fn a_failure_says_what_failed_and_leaves_nothing_behind() {
        fails_and_leaves_nothing_behind(Engine::Chromium);
    }

    #[test]
    #[ignore = "make browsers"]
    fn a_failure_of_firefox_leaves_nothing_behind() {
        fails_and_leaves_nothing_behind(Engine::Firefox);
    }

    fn fails_and_leaves_nothing_behind(engine: Engine) {
        let browser = Browser::of(engine);
        let profile = browser.profile.path().to_owned();
        let process = match &browser.driver {
            Driver::Http(driver) => driver.chromium.expect("chromedriver told Chromium's process"),
            Driver::Firefox(driver) => driver.pid(),
        };
        let failure = catch_unwind(AssertUnwindSafe(move || {
            browser.goto(PAGE);
            browser.click("#absent");
        }));
        let message = *failure.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("did not find #absent: no such element"), "{message}");
        assert!(!profile.exists());
        // Empty for a process that is gone, and for one that only waits to be reaped.
        let command_line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        assert!(command_line.is_empty());
    }
}
