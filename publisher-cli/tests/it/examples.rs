//! Runs the examples in the help of each command, against a real gateway, and reads what packagers
//! get. That each example is understood is a test of `help.rs`.

use std::path::Path;
use std::process::Command;

use sse_lab::scratch::Scratch;

use crate::cli::{run, start_shell};
use crate::real_gateway::RealGateway;

/// What an example needs that a test has not: other servers, other programs, and time.
const NOT_RUN: [&str; 10] = [
    "tail -f log",
    "redis://user",
    "sse-publish bench",
    "sse.example.org",
    "login.example.org",
    "| jq",
    "--pem",
    "| man",
    "/usr/local",
    "--token",
];

/// The examples in the help of a command.
fn examples(words: &[&str]) -> Vec<String> {
    let help = run(&[words, &["--help"]].concat(), "").out;
    let (_, below) = help.split_once("Examples:\n").expect("every help has examples");
    let lines = below.lines().take_while(|line| line.starts_with("  "));
    lines.map(|line| line.trim().split("  ").next().unwrap().to_owned()).collect()
}

/// Lays the files that the examples name.
fn lay_files(directory: &Path, gateway: &RealGateway) {
    let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
    write("order.json", "{\"id\":17}\n");
    write("events.txt", "1\n2\n");
    write("items.ndjson", "{\"channel\":\"a\",\"data\":{\"x\":1}}\n");
    write("orders.ndjson", "{\"id\":1,\"data\":\"x\"}\n{\"id\":2,\"data\":\"y\"}\n");
    write("jwt.secret", "0123456789abcdef0123456789abcdef\n");
    let secret = directory.join("jwt.secret");
    let token = run(&["token", "--secret-file", secret.to_str().unwrap(), "--publish", "a"], "");
    write("token.txt", &token.out);
    for folder in [".local/share/bash-completion/completions", ".zfunc", ".config/fish/completions"]
    {
        std::fs::create_dir_all(directory.join(folder)).unwrap();
    }
    let lines = "{\"n\":1}\n".repeat(20);
    assert_eq!(run(&["orders", "--url", &gateway.url], &lines).code, 0);
}

#[test]
fn the_examples_in_the_help_do_what_they_say() {
    let (gateway, scratch) = (RealGateway::start(), Scratch::new("examples"));
    let mut count = 0;
    for command in
        ["", "publish", "tail", "token", "token check", "token secret", "key", "completions", "man"]
    {
        let words: Vec<_> = command.split_whitespace().collect();
        for example in examples(&words) {
            if NOT_RUN.iter().any(|word| example.contains(word)) {
                continue;
            }
            // Each in a directory of its own, because some write files, and none overwrites a key.
            let directory = scratch.path().join(format!("{count}"));
            std::fs::create_dir(&directory).unwrap();
            lay_files(&directory, &gateway);
            if example.contains("secret") && example.contains("--out jwt.secret") {
                std::fs::remove_file(directory.join("jwt.secret")).unwrap();
            }
            count += 1;
            let endless = example.starts_with("sse-publish tail") && !example.contains("--limit");
            if endless {
                let mut running = start_shell(&format!("exec {example}"), &directory, &gateway.url);
                let told = running.read_error();
                assert!(told.contains("connected to"), "{example}: {told}");
                running.interrupt();
                assert_eq!(running.finish().code, 130, "{example}");
            } else {
                let run = start_shell(&example, &directory, &gateway.url).finish();
                assert_eq!(run.code, 0, "{example}: {}", run.err);
            }
        }
    }
    assert!(count > 25, "{count}");
}

#[test]
fn completions_are_scripts_and_pages_are_whole() {
    let scratch = Scratch::new("pages");
    let script = run(&["completions", "bash"], "");
    assert_eq!((script.code, script.err.as_str()), (0, ""));
    let path = scratch.path().join("completions");
    std::fs::write(&path, &script.out).unwrap();
    // What bash itself offers for the beginning of a word.
    let line = format!(
        ". {}; COMP_WORDS=(sse-publish tail --fr); COMP_CWORD=2; _sse__publish sse-publish --fr tail; \
         echo ${{COMPREPLY[@]}}",
        path.display()
    );
    let offered = Command::new("bash").args(["-c", &line]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&offered.stdout).trim(), "--from", "{offered:?}");

    let out = scratch.path().to_str().unwrap();
    assert_eq!(run(&["man", "--out", out], "").code, 0);
    for page in ["", "-tail", "-publish", "-bench", "-token", "-token-check", "-key", "-man"] {
        let page = format!("sse-publish{page}.1");
        let text = std::fs::read_to_string(scratch.path().join(&page)).unwrap();
        assert!(text.contains("Exit codes") && !text.contains('\x1b'), "{page}: {text}");
    }
    assert!(run(&["man"], "").out.contains(".TH sse-publish 1"));
}
