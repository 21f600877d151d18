//! Tests of publishing through a gateway.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::cli::{run, run_with, start};
use crate::scripted_gateway::{
    ScriptedGateway, announce, publish_all, publish_some, reply, reply_and_hold, response,
};

const PROBLEM: &str = "application/problem+json";

#[test]
fn one_event_prints_its_id() {
    let gateway = ScriptedGateway::play(vec![publish_all("id")]);
    let run = run(
        &[
            "demo",
            "hello\nworld",
            "--event",
            "tick",
            "--url",
            &gateway.url,
            "--token",
            "t0k",
            "--header",
            "X-A: b",
        ],
        "",
    );
    assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (0, "id-1\n", ""));
    let request = &gateway.requests()[0];
    assert_eq!(request.line, "POST /publish HTTP/1.1");
    assert_eq!(request.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(request.header("authorization"), Some("Bearer t0k"));
    assert_eq!(request.header("x-a"), Some("b"));
    let item = &request.items()[0];
    assert_eq!((&item["channel"], &item["data"]), (&"demo".into(), &"hello\nworld".into()));
    assert_eq!(item["event"], "tick");
    let (run_id, number) = item["idempotency_key"].as_str().unwrap().split_once('-').unwrap();
    assert_eq!((run_id.len(), number), (32, "1"));
}

#[test]
fn the_trace_of_the_environment_goes_with_the_request() {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let sent = |arguments: &[&str], trace: &str| {
        let gateway = ScriptedGateway::play(vec![publish_all("id")]);
        let arguments = [&["demo", "x", "--url", &gateway.url], arguments].concat();
        let run = run_with(&[("TRACEPARENT", trace)], &arguments);
        assert_eq!(run.code, 0, "{}", run.err);
        gateway.requests()[0].header("traceparent").map(str::to_owned)
    };
    assert_eq!(sent(&[], trace).as_deref(), Some(trace));
    assert_eq!(sent(&["--header", "traceparent: of-the-line"], trace).unwrap(), "of-the-line");
    assert_eq!(sent(&[], "what no\nheader can have"), None);
}

#[test]
fn a_gateway_that_asks_for_a_pause_gets_it() {
    let away = r#"{"type":"urn:sse-gateway:redis-unavailable","status":503,"detail":"away"}"#;
    let busy = response("503 Service Unavailable", PROBLEM, "Retry-After: 1\r\n", away);
    let gateway = ScriptedGateway::play(vec![reply(busy), publish_all("id")]);
    let started = Instant::now();
    let run = run(&["demo", "hello", "--url", &gateway.url], "");
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!((run.code, run.out.as_str()), (0, "id-1\n"));
    let requests = gateway.requests();
    assert_eq!(requests[0].body, requests[1].body);
}

#[test]
fn a_pause_longer_than_patience_ends_it() {
    let busy = response("429 Too Many Requests", PROBLEM, "Retry-After: 600\r\n", "{}");
    let gateway = ScriptedGateway::play(vec![reply(busy)]);
    let run = run(&["demo", "--url", &gateway.url, "--json"], "a\nb\n");
    assert_eq!(run.code, 1);
    assert!(
        run.err.contains("lines 1 to 2: channel demo: not published: http://127.0.0.1:")
            && run.err.contains(": HTTP 429"),
        "{}",
        run.err
    );
    assert_eq!(run.json()[2]["summary"]["failed"], 2);
}

#[test]
fn an_answer_that_breaks_off_loses_no_account() {
    let gateway =
        ScriptedGateway::play(vec![publish_some("first", 1, false), publish_all("second")]);
    let run = run(&["demo", "--url", &gateway.url, "--json"], "a\nb\nc\n");
    assert_eq!(run.code, 0, "{}", run.err);
    let ids: Vec<_> = run.json().iter().take(3).map(|line| line["id"].clone()).collect();
    assert_eq!(ids, ["first-1", "second-1", "second-2"]);
    let requests = gateway.requests();
    assert_eq!(
        (requests[0].data(), requests[1].data()),
        (vec!["a".into(), "b".into(), "c".into()], vec!["b".into(), "c".into()])
    );
    assert_eq!(requests[0].items()[1..], requests[1].items()[..]);
}

#[test]
fn what_is_in_doubt_is_called_so() {
    let gateway = ScriptedGateway::play(vec![publish_some("id", 1, false)]);
    let run = run(&["demo", "--url", &gateway.url, "--json", "--retry-for", "0"], "a\nb\nc\n");
    assert_eq!(run.code, 1);
    let outcomes: Vec<_> = run.json().iter().take(3).map(|line| line["outcome"].clone()).collect();
    assert_eq!(outcomes, ["published", "unknown", "unknown"]);
    assert!(
        run.err.contains("lines 2 to 3: channel demo: unknown whether published"),
        "{}",
        run.err
    );
    assert!(run.err.contains("nothing after line 3 was tried"), "{}", run.err);
}

#[test]
fn a_connection_that_closes_without_a_word_is_doubt_and_then_retried() {
    let gateway = ScriptedGateway::play(vec![reply(""), publish_all("id")]);
    let run = run(&["demo", "x", "--url", &gateway.url], "");
    assert_eq!((run.code, run.out.as_str()), (0, "id-1\n"));
    assert_eq!(gateway.requests().len(), 2);
}

#[test]
fn one_item_refused_does_not_hold_back_the_others() {
    let results = "{\"line\":1,\"channel\":\"demo\",\"id\":\"1-0\"}\n\
        {\"line\":2,\"channel\":\"demo\",\"error\":{\"type\":\"urn:sse-gateway:too-large\",\"title\":\"t\",\
        \"status\":413,\"detail\":\"data: 9 bytes, at most 8\"}}\n\
        {\"line\":3,\"channel\":\"demo\",\"id\":\"3-0\"}\n";
    let answer = response("207 Multi-Status", "application/x-ndjson", "", results);
    let gateway = ScriptedGateway::play(vec![reply(answer)]);
    let url = gateway.url.clone();
    let run = run(&["demo", "--url", &url], "a\nb\nc\n");
    assert_eq!(run.code, 1);
    assert!(
        run.err.contains(&format!(
            "line 2: channel demo: not published: {url}: data: 9 bytes, at most 8\n"
        )),
        "{}",
        run.err
    );
    assert!(run.err.contains("published 2 events in "), "{}", run.err);
}

#[test]
fn results_are_read_whatever_the_status_is() {
    let result = |line| {
        let error = r#"{"type":"urn:sse-gateway:redis-unavailable","status":503,"detail":"away"}"#;
        format!("{{\"line\":{line},\"channel\":\"demo\",\"error\":{error}}}\n")
    };
    let away = result(1) + &result(2);
    let status = "503 Service Unavailable";
    let busy = response(status, "application/x-ndjson", "Retry-After: 0\r\n", &away);
    let gateway = ScriptedGateway::play(vec![reply(busy), publish_all("id")]);
    assert_eq!(run(&["demo", "--url", &gateway.url], "a\nb\n").code, 0);
    assert_eq!(gateway.requests()[1].data(), ["a", "b"]);

    let error = r#"{"type":"urn:sse-gateway:too-large","status":413,"detail":"data: 9 bytes"}"#;
    let line = format!("{{\"line\":1,\"channel\":\"demo\",\"error\":{error}}}\n");
    let large = response("413 Payload Too Large", "application/x-ndjson", "", &line);
    let gateway = ScriptedGateway::play(vec![reply(large)]);
    let run = run(&["demo", "x", "--url", &gateway.url], "");
    assert_eq!(run.code, 1);
    assert!(run.err.ends_with(": data: 9 bytes\n"), "{}", run.err);
}

#[test]
fn a_request_too_large_is_sent_in_halves() {
    let large = response("413 Payload Too Large", "text/html", "", "<html>");
    let gateway = ScriptedGateway::play(vec![reply(large), publish_all("x"), publish_all("y")]);
    let run = run(&["demo", "--url", &gateway.url], "a\nb\nc\nd\n");
    assert_eq!(run.code, 0, "{}", run.err);
    let sent: Vec<_> = gateway.requests().iter().map(|request| request.data().concat()).collect();
    assert_eq!(sent, ["abcd", "ab", "cd"]);
}

#[test]
fn the_first_event_that_some_clients_cannot_read_is_told_of_once() {
    // The data are short enough, but in a stream each of their lines gets a field name.
    let (long, lines) = ("x".repeat(70_000), format!("{{\"data\":{:?}}}", "y\n".repeat(10_000)));
    for (arguments, input, place) in [
        (vec!["demo"], format!("short\n{long}\n{long}\n"), "line 2: "),
        (vec!["demo", "--json"], format!("short\n{long}\n{long}\n"), "line 2: "),
        (vec!["demo", "--ndjson"], format!("{lines}\n{lines}\n"), "line 1: "),
        (vec!["demo", &long], String::new(), ""),
    ] {
        let gateway = ScriptedGateway::play(vec![publish_all("id")]);
        let run = run(&[&arguments[..], &["--url", &gateway.url]].concat(), &input);
        assert_eq!(run.code, 0, "{}", run.err);
        let warning =
            format!("sse-publish: {place}channel demo: warning: some clients (r3labs/sse, go-sse)");
        assert!(run.err.starts_with(&warning), "{}", run.err);
        assert_eq!(run.err.matches("warning").count(), 1, "{}", run.err);
        assert!(!run.out.contains("warning"), "{}", run.out);
    }
}

#[test]
fn an_event_that_every_client_can_read_and_one_that_was_not_published_are_not_told_of() {
    let gateway = ScriptedGateway::play(vec![publish_all("id")]);
    let input = format!("{}\n", "x".repeat(65_000));
    assert!(!run(&["demo", "--url", &gateway.url], &input).err.contains("warning"));

    let large = response("413 Payload Too Large", PROBLEM, "", r#"{"detail":"too large"}"#);
    let gateway = ScriptedGateway::play(vec![reply(large)]);
    let run = run(&["demo", "--url", &gateway.url], &format!("{}\n", "x".repeat(70_000)));
    assert_eq!(run.code, 1);
    assert!(!run.err.contains("warning"), "{}", run.err);
}

#[test]
fn a_refused_token_ends_it_at_once() {
    let denied =
        response("401 Unauthorized", PROBLEM, "", r#"{"title":"Unauthorized","detail":"expired"}"#);
    let gateway = ScriptedGateway::play(vec![reply(denied)]);
    let run = run(&["demo", "--url", &gateway.url], "a\n");
    assert_eq!(run.code, 1);
    assert!(
        run.err.contains("line 1: channel demo: not published: http://")
            && run.err.contains(": expired"),
        "{}",
        run.err
    );
}

#[test]
fn what_is_no_gateway_is_told_so() {
    let page = response("200 OK", "text/html", "", "<html>");
    let gateway = ScriptedGateway::play(vec![reply(page)]);
    let run = run(&["demo", "x", "--url", &gateway.url], "");
    assert_eq!(run.code, 1);
    assert!(run.err.contains("is no gateway"), "{}", run.err);
}

#[test]
fn a_redirect_is_not_followed_but_told() {
    let moved = response(
        "301 Moved Permanently",
        "text/html",
        "Location: https://a.example/publish\r\n",
        "",
    );
    let gateway = ScriptedGateway::play(vec![reply(moved)]);
    let run = run(&["demo", "x", "--url", &gateway.url], "");
    assert_eq!(run.code, 1);
    assert!(run.err.contains("to https://a.example/publish"), "{}", run.err);
}

#[test]
fn nobody_there_is_exit_code_2() {
    // Nothing listens on port 1. A port that the kernel chose could be taken by another test.
    let run = run(&["demo", "x", "--url", "http://127.0.0.1:1", "--retry-for", "1ms"], "");
    assert_eq!(run.code, 2, "{}", run.err);
    assert!(
        run.err.contains("not published: http://127.0.0.1:1: connection refused\n"),
        "{}",
        run.err
    );
}

#[test]
fn lasting_trouble_is_told_with_the_url_and_the_time_left() {
    let mut running = start(&["demo", "x", "--url", "http://127.0.0.1:1", "--retry-for", "60s"]);
    let told = running.read_error();
    let begin = "sse-publish: retrying http://127.0.0.1:1: connection refused (";
    let left = told.strip_prefix(begin).and_then(|rest| rest.strip_suffix(" s left)\n"));
    let left: u64 = left.unwrap_or_else(|| panic!("{told}")).parse().unwrap();
    assert!((1..60).contains(&left), "{told}");
    running.interrupt();
    assert_eq!(running.finish().code, 130);
}

#[test]
fn a_line_is_sent_while_the_input_stays_open() {
    let (came, coming) = mpsc::channel();
    let first = announce(came, publish_all("x"));
    let gateway = ScriptedGateway::play(vec![first, publish_all("y")]);
    let mut running = start(&["demo", "--url", &gateway.url]);
    running.write("a");
    coming.recv().unwrap();
    running.write("b");
    let run = running.finish();
    assert_eq!(run.code, 0, "{}", run.err);
    let sent: Vec<_> = gateway.requests().iter().map(|request| request.data().concat()).collect();
    assert_eq!(sent, ["a", "b"]);
}

#[test]
fn bad_lines_are_named_and_the_others_sent() {
    let gateway = ScriptedGateway::play(vec![publish_all("id")]);
    let items = "{\"data\":{\"b\": 1}}\n\n{\"channel\":\"a b\",\"data\":1}\n{\"channels\":[\"x\",\"y\"],\"data\":\"z\"}\n";
    let run = run(&["--ndjson", "demo", "--url", &gateway.url], items);
    assert_eq!(run.code, 1);
    assert!(
        run.err.contains("line 3: not published: channel \"a b\": a channel name holds only"),
        "{}",
        run.err
    );
    let items = gateway.requests()[0].items();
    let pairs: Vec<_> =
        items.iter().map(|item| format!("{}={}", item["channel"], item["data"])).collect();
    assert_eq!(pairs, [r#""demo"="{\"b\":1}""#, r#""x"="z""#, r#""y"="z""#]);
}

#[test]
fn a_wrong_command_line_is_exit_code_64() {
    for arguments in [
        &["a{b", "x"][..],
        &[],
        &["demo", "--file", "/nonexistent"],
        &["demo", "x", "--url", "ftp://a"],
    ] {
        assert_eq!(run(arguments, "").code, 64, "{arguments:?}");
    }
    assert_eq!(run(&["--help"], "").code, 0);
}

#[test]
fn ctrl_c_leaves_a_full_account() {
    let (came, coming) = mpsc::channel();
    let gateway = ScriptedGateway::play(vec![announce(came, reply_and_hold(""))]);
    let running = start(&["demo", "x", "--url", &gateway.url]);
    coming.recv().unwrap();
    running.interrupt();
    let run = running.finish();
    assert_eq!((run.code, run.out.as_str()), (130, ""));
    assert!(
        run.err.contains("channel demo: unknown whether published: http://")
            && run.err.contains(": interrupted"),
        "{}",
        run.err
    );
}
