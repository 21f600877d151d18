//! Tests of `sse-gateway top`: against real gateways, and in a real terminal.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::support::{BOUND, Process, Signal, Subscriber, TestGateway, eventually, own_addr};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sse-gateway"));
    command.arg("top").env_clear().env("TERM", "xterm-256color");
    command
}

/// Prints one frame of these gateways.
fn once(admins: &[String]) -> (Output, String) {
    let mut command = program();
    for admin in admins {
        command.args(["--admin", admin]);
    }
    let output = command.args(["--once", "--interval", "100ms"]).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    (output, text)
}

#[test]
fn one_frame_is_plain_text_with_every_gateway() {
    let gateways = [TestGateway::memory(&[]), TestGateway::memory(&[])];
    let _streams: Vec<Subscriber> =
        gateways.iter().map(|gateway| gateway.live("channel=orders")).collect();
    let admins = [format!("http://{}", gateways[0].admin), gateways[1].admin.to_string()];
    let (output, text) = once(&admins);
    assert!(output.status.success(), "{output:?}");
    for gateway in &gateways {
        assert!(text.contains(&gateway.admin.to_string()), "{text}");
    }
    assert!(text.contains("2 live · 0 joining"), "{text}");
    assert!(text.contains("orders") && text.contains("127.0.0.1"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn a_gateway_that_does_not_answer_is_told_and_ends_the_frame_with_1() {
    let gateway = TestGateway::memory(&[]);
    let nobody = own_addr();
    let (output, text) = once(&[gateway.admin.to_string(), nobody.to_string()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text.contains("silent: connection refused"), "{text}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains(&format!("no answer from {nobody}")), "{error}");
}

#[test]
fn without_a_terminal_or_with_a_bad_address_it_says_what_to_do() {
    for (args, words) in [
        (&[][..], "--once prints one frame"),
        (&["--once", "--admin", "http://a/metrics"], "only the host and the port"),
    ] {
        let output = program().args(args).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{error}");
        assert!(error.contains(words), "{error}");
    }
}

/// A terminal with the program in it.
struct Terminal {
    ours: OwnedFd,
    theirs: OwnedFd,
    process: Process,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn start(admin: &str) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let open = || File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let theirs: OwnedFd = open().into();
        tcsetwinsize(&ours, size(80, 24)).unwrap();
        let mut command = program();
        command.args(["--admin", admin, "--interval", "100ms"]);
        command.stdin(Stdio::from(open())).stdout(Stdio::from(open()));
        let process = Process::start(&mut command).unwrap();
        let screen: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (mut from, into) = (File::from(ours.try_clone().unwrap()), Arc::clone(&screen));
        // It ends when the terminal is dropped by both sides.
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut chunk) {
                into.lock().unwrap().extend_from_slice(&chunk[..n]);
            }
        });
        Terminal { ours, theirs, process, screen }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    fn shows(&self, what: &str) {
        eventually(what, || self.text().contains(what));
    }

    /// Gives the terminal another size, after which everything is drawn.
    fn resize(&self, columns: u16, rows: u16) {
        tcsetwinsize(&self.ours, size(columns, rows)).unwrap();
        // The terminal is not the program's controlling one, so nobody else tells it.
        self.process.signal(Signal::WINCH);
    }

    fn press(&self, keys: &str) {
        rustix::io::write(&self.ours, keys.as_bytes()).unwrap();
    }

    /// Waits for the end, and checks that the terminal is as it was before.
    fn restored(mut self) {
        let ended = self.process.ends_within(BOUND).expect("it ends");
        assert_eq!(ended.code(), Some(0), "{:?}", self.text());
        // It leaves the alternate screen and shows the cursor (xterm's control sequences).
        self.shows("\u{1b}[?1049l");
        self.shows("\u{1b}[?25h");
        let modes = tcgetattr(&self.theirs).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ECHO), "it echoes again");
    }
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

#[test]
fn the_live_view_follows_the_gateway_and_gives_the_terminal_back() {
    let gateway = TestGateway::memory(&[]);
    let terminal = Terminal::start(&gateway.admin.to_string());
    // Only what changes is drawn, so each of these words stands where nothing like it stood.
    terminal.shows(&gateway.admin.to_string());
    let _stream = gateway.live("channel=orders");
    terminal.shows("orders");
    terminal.press("?");
    terminal.shows("Ctrl-C");
    terminal.press("?p");
    terminal.shows("paused");
    terminal.press("ps");
    // The title was "Slowest streams", and the second letter of "Oldest streams" stands already.
    terminal.shows("dest streams");
    terminal.press("q");
    terminal.restored();
}

#[test]
fn a_signal_gives_the_terminal_back_and_a_new_size_is_drawn() {
    let gateway = TestGateway::memory(&[]);
    let terminal = Terminal::start(&gateway.admin.to_string());
    terminal.shows("every 100ms");
    // At 80 columns there is no room for this one.
    assert!(!terminal.text().contains("subject"), "{}", terminal.text());
    terminal.resize(140, 30);
    terminal.shows("subject");
    terminal.process.signal(Signal::TERM);
    terminal.restored();
}
