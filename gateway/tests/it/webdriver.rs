//! A real browser for tests: just enough of the W3C WebDriver protocol to drive headless Chromium.
//!
//! It owns one `chromedriver` process, one browser session in it and the session's profile
//! directory, and promises that all three are gone when a [`Browser`] is dropped, also while a test
//! panics. Calls block, and a failure is a panic at the caller's line: in a test there is nothing
//! else to do with it. It speaks HTTP by hand over one short TCP connection a command, because an
//! async client would have to live in somebody's runtime and a test must be able to drop the
//! browser anywhere. From async code use it in a blocking task: a page that waits for the gateway
//! must not hold up the gateway.

use std::fmt::Display;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::spawn;

/// How long a script of a test may run, in milliseconds.
const SCRIPT_TIMEOUT_MS: u64 = 60_000;

/// Longer than any answer may take, so that a dead chromedriver fails a test instead of hanging it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

/// The member by which WebDriver marks a JSON object as a reference to an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// One headless browser with one tab and a fresh profile.
pub struct Browser {
    driver: Driver,
    /// The path below which this session's commands are.
    session: String,
    /// Chromium's own process, to be ended by hand should the session not end by itself.
    chromium: Option<u64>,
    profile: Profile,
}

impl Browser {
    /// Starts a chromedriver on a port of its own and opens a headless session.
    #[track_caller]
    pub fn open() -> Browser {
        let profile = Profile::new();
        let driver = Driver::start(&profile);
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "timeouts": {"script": SCRIPT_TIMEOUT_MS, "pageLoad": 30_000},
            "goog:chromeOptions": {"args": [
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                // In a container /dev/shm is 64 MB, and a renderer that fills it crashes.
                "--disable-dev-shm-usage",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                format!("--user-data-dir={}", profile.0.display()),
            ]},
        }}});
        let opened = or_panic(
            "open a session (it needs Debian's chromium; scripts/test installs it)",
            driver.command("POST", "/session", &capabilities),
        );
        let Some(id) = opened["sessionId"].as_str() else {
            panic!("chromedriver opened a session without an id: {opened}");
        };
        let session = format!("/session/{id}");
        let chromium = opened["capabilities"]["goog:processID"].as_u64();
        Browser { driver, session, chromium, profile }
    }

    /// Loads a page and waits for its `load` event.
    #[track_caller]
    pub fn goto(&self, url: &str) {
        self.post(&format!("load {url}"), "/url", &json!({"url": url}));
    }

    /// Runs the body of a function, which finds `args` in `arguments`, and gives what it returns. A
    /// returned promise is awaited.
    #[track_caller]
    pub fn execute(&self, script: &str, args: &[Value]) -> Value {
        let body = json!({"script": script, "args": args});
        self.post(&format!("run {script:?}"), "/execute/sync", &body)
    }

    /// As [`execute`](Self::execute), but the script is done when it calls its last argument, a
    /// function, and gives what it calls it with.
    #[track_caller]
    pub fn execute_async(&self, script: &str, args: &[Value]) -> Value {
        let body = json!({"script": script, "args": args});
        self.post(&format!("run {script:?}"), "/execute/async", &body)
    }

    /// Scrolls the first match of the selector into view and clicks it as a user would; something
    /// that covers it is an error.
    #[track_caller]
    pub fn click(&self, css: &str) {
        let element = self.find(css);
        self.post(&format!("click {css}"), &format!("{element}/click"), &json!({}));
    }

    /// Replaces what is in a field by typing, key by key.
    ///
    /// Chromedriver types characters of the Basic Multilingual Plane only, and takes those from
    /// U+E000 for keys such as Enter (U+E007); a script can set anything.
    #[track_caller]
    pub fn type_text(&self, css: &str, text: &str) {
        let element = self.find(css);
        self.post(&format!("clear {css}"), &format!("{element}/clear"), &json!({}));
        let typing = format!("type {text:?} into {css}");
        self.post(&typing, &format!("{element}/value"), &json!({"text": text}));
    }

    /// The text a user sees in the first match of the selector; hidden text is not part of it.
    #[track_caller]
    pub fn text(&self, css: &str) -> String {
        let element = self.find(css);
        let path = format!("{}{element}/text", self.session);
        let text = self.driver.command("GET", &path, &Value::Null);
        or_panic(&format!("read the text of {css}"), text).as_str().unwrap_or_default().to_owned()
    }

    /// The path, below the session's, of the first match.
    #[track_caller]
    fn find(&self, css: &str) -> String {
        let query = json!({"using": "css selector", "value": css});
        let found = self.post(&format!("find {css}"), "/element", &query);
        let Some(id) = found[ELEMENT].as_str() else {
            panic!("chromedriver found {css} but answered no element: {found}");
        };
        format!("/element/{id}")
    }

    #[track_caller]
    fn post(&self, what: &str, path: &str, body: &Value) -> Value {
        or_panic(what, self.driver.command("POST", &format!("{}{path}", self.session), body))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A test may be panicking already, so nothing here may panic. Ending the session ends
        // Chromium; ending only the chromedriver would leave a browser behind on the machine.
        if self.driver.command("DELETE", &self.session, &Value::Null).is_err()
            && let Some(pid) = self.chromium
        {
            let _ = Command::new("kill").arg("-KILL").arg(pid.to_string()).status();
        }
        self.driver.stop();
        self.profile.remove();
    }
}

// A `match`, because a panic in a closure would be told with this file's line, not the test's.
#[track_caller]
fn or_panic<T>(what: &str, result: Result<T, impl Display>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("the browser did not {what}: {error}"),
    }
}

/// A running chromedriver.
struct Driver {
    process: Child,
    port: u16,
    /// Held open, because a chromedriver whose standard output is gone dies at its next line.
    _stdout: BufReader<ChildStdout>,
}

impl Driver {
    #[track_caller]
    fn start(profile: &Profile) -> Driver {
        let mut command = Command::new("chromedriver");
        command
            .arg("--port=0")
            // Both leave directories there.
            .env("TMPDIR", &profile.0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = spawn(&mut command, "chromium-driver and chromium");
        let mut stdout = BufReader::new(process.stdout.take().expect("it is piped"));
        let Some(port) = announced_port(&mut stdout) else {
            let _ = process.kill();
            panic!("chromedriver ended without a port: {:?}", process.wait());
        };
        Driver { process, port, _stdout: stdout }
    }

    /// Sends one command and gives the `value` of its answer, or what went wrong in words.
    fn command(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let answer = self.exchange(method, path, body);
        let mut answer = answer.map_err(|error| format!("no answer from chromedriver: {error}"))?;
        let value = answer["value"].take();
        match value["error"].as_str() {
            None => Ok(value),
            // Only the first line: a stack trace of chromedriver's own code follows.
            Some(error) => {
                let message = value["message"].as_str().unwrap_or_default();
                Err(format!("{error}: {}", message.lines().next().unwrap_or_default()))
            }
        }
    }

    fn exchange(&self, method: &str, path: &str, body: &Value) -> io::Result<Value> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        // One write: a head and a body apart would wait for each other's acknowledgement.
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\
             Content-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n\r\n{body}",
            self.port,
            body.len(),
        );
        stream.write_all(request.as_bytes())?;
        read_answer(BufReader::new(stream))
    }

    fn stop(&mut self) {
        // Both fail only where it is gone already, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // A session that did not open leaves a driver without a `Browser`.
        self.stop();
    }
}

/// Reads chromedriver's standard output up to "… was started successfully on port 41235.".
fn announced_port(stdout: &mut impl BufRead) -> Option<u16> {
    stdout.lines().map_while(Result::ok).find_map(|line| {
        let (_, port) = line.split_once("was started successfully on port ")?;
        port.trim_end_matches('.').parse().ok()
    })
}

/// Reads one HTTP answer, whose body has exactly `Content-Length` bytes, and its JSON. The status
/// is left aside: an error is told in the body as well.
fn read_answer(mut stream: impl BufRead) -> io::Result<Value> {
    let mut length = None;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = Some(value.trim().parse::<usize>().map_err(invalid)?);
        }
    }
    let mut body = vec![0; length.ok_or_else(|| invalid("an answer without Content-Length"))?];
    stream.read_exact(&mut body)?;
    serde_json::from_slice(&body).map_err(invalid)
}

fn invalid(error: impl Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// A profile directory nobody else uses: two browsers on one profile are one browser.
struct Profile(PathBuf);

impl Profile {
    #[track_caller]
    fn new() -> Profile {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sse-gateway-browser-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // An older process of the same id may have been killed before it could tidy up.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path)
            .unwrap_or_else(|error| panic!("cannot make the profile {}: {error}", path.display()));
        Profile(path)
    }

    /// Chromium's helpers may still write a last file while the directory is being emptied, and the
    /// removal then fails; it is done again until they are through.
    fn remove(&self) {
        for _ in 0..50 {
            match fs::remove_dir_all(&self.0) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    thread::park_timeout(Duration::from_millis(20));
                }
                _ => return,
            }
        }
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The client against pages that need no server, so that a test of the gateway that fails in the
/// browser can be told from a browser that cannot be driven.
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    const PAGE: &str = "data:text/html,<input id=name value=old><button onclick=\"\
        said.textContent='hello, '+document.querySelector('input').value\">ok</button><p id=said>";

    #[test]
    fn a_page_is_typed_into_clicked_and_read() {
        let browser = Browser::open();
        browser.goto(PAGE);
        browser.type_text("#name", "wörld \"\\ :");
        browser.click("button");
        assert_eq!(browser.text("#said"), "hello, wörld \"\\ :");
    }

    #[test]
    fn scripts_get_arguments_and_give_results() {
        let browser = Browser::open();
        let hostile = json!("a\r\n\0\u{feff}\u{2028}😀");
        assert_eq!(browser.execute("return arguments[0]", std::slice::from_ref(&hostile)), hostile);
        let later = "const done = arguments[1]; setTimeout(() => done(arguments[0] + 1), 10)";
        assert_eq!(browser.execute_async(later, &[json!(41)]), json!(42));
        assert_eq!(browser.execute("return Promise.resolve(1)", &[]), json!(1));
    }

    #[test]
    fn a_failure_says_what_failed_and_leaves_nothing_behind() {
        let browser = Browser::open();
        let profile = browser.profile.0.clone();
        let chromium = browser.chromium.expect("chromedriver told Chromium's process");
        let failure = catch_unwind(AssertUnwindSafe(move || {
            browser.goto(PAGE);
            browser.click("#absent");
        }));
        let message = *failure.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("did not find #absent: no such element"), "{message}");
        assert!(!profile.exists());
        // Empty for a process that is gone, and for one that only waits for its parent to notice.
        let command_line = fs::read(format!("/proc/{chromium}/cmdline")).unwrap_or_default();
        assert!(command_line.is_empty());
    }
}
