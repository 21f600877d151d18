//! Tests of following channels.

use std::sync::mpsc;

use crate::cli::{run, start};
use crate::scripted_gateway::{
    ScriptedGateway, announce, reply, reply_and_hold, response, stream, wait_for,
};

#[test]
fn a_stream_that_is_cut_resumes_where_it_was() {
    let gateway = ScriptedGateway::play(vec![
        // The second event is not complete, so the client must ask for it again.
        reply(stream("retry: 1\n\nid: 1-0\ndata: a\ndata: b\n\nid: 2-0\ndata: c")),
        reply(stream("id: 2-0\nevent: tick\ndata: c\n\n")),
    ]);
    let run =
        run(&["tail", "demo", "a+b", "--limit", "2", "--url", &gateway.url, "--token", "t"], "");
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(run.out, "1-0  message  a\\nb\n2-0  tick  c\n");
    let requests = gateway.requests();
    assert_eq!(requests[0].line, "GET /events?channel=demo&channel=a%2Bb HTTP/1.1");
    assert_eq!(requests[0].header("last-event-id"), None);
    assert_eq!(requests[0].header("accept"), Some("text/event-stream"));
    assert_eq!(requests[1].header("last-event-id"), Some("1-0"));
    assert_eq!(requests[1].header("authorization"), Some("Bearer t"));
}

#[test]
fn a_checkpoint_moves_the_position_and_a_gap_is_told() {
    let blocks = "retry: 1\nevent: checkpoint\nid: 5-0\ndata:\n\n\
        event: gap\nid: 5-0\ndata: {\"channel\":\"*\",\"reason\":\"reset\",\"after\":\"5-0\",\"oldest\":\"\"}\n\n";
    let gateway =
        ScriptedGateway::play(vec![reply(stream(blocks)), reply(stream("id: 6-0\ndata: x\n\n"))]);
    let run = run(&["tail", "demo", "--limit", "1", "--url", &gateway.url], "");
    assert_eq!((run.code, run.out.as_str()), (0, "6-0  message  x\n"));
    assert!(run.err.contains("gap on all channels: reset, after 5-0\n"), "{}", run.err);
    assert_eq!(gateway.requests()[1].header("last-event-id"), Some("5-0"));
}

#[test]
fn json_has_gaps_and_checkpoints_in_line() {
    let blocks =
        "event: checkpoint\nid: 5-0\ndata:\n\nevent: gap\nid: 5-0\ndata: {}\n\ndata: raw\n\n";
    let gateway = ScriptedGateway::play(vec![reply(stream(blocks))]);
    let run = run(
        &["tail", "demo", "--json", "--checkpoints", "--limit", "1", "--url", &gateway.url],
        "",
    );
    let names: Vec<_> = run.json().iter().map(|line| line["event"].clone()).collect();
    assert_eq!(names, ["checkpoint", "gap", "message"]);
    assert!(run.json()[2]["id"].is_null());
}

#[test]
fn where_to_begin_is_in_the_first_url() {
    let gateway = ScriptedGateway::play(vec![
        reply(stream("retry: 1\n\n")),
        reply(response("204 No Content", "text/plain", "", "")),
    ]);
    let run = run(&["tail", "demo", "--from", "oldest", "--url", &gateway.url], "");
    assert_eq!(run.code, 0);
    assert!(run.err.contains("not to come back"), "{}", run.err);
    for request in gateway.requests() {
        assert_eq!(request.line, "GET /events?channel=demo&last_event_id=0 HTTP/1.1");
    }
}

#[test]
fn a_refusal_is_the_end_and_says_why() {
    for status in ["400 Bad Request", "403 Forbidden", "404 Not Found"] {
        let problem = response(status, "application/problem+json", "", r#"{"detail":"because"}"#);
        let gateway = ScriptedGateway::play(vec![reply(problem)]);
        let run = run(&["tail", "demo", "--url", &gateway.url], "");
        assert_eq!(run.code, 1);
        assert_eq!(run.err, format!("sse-publish: {}: HTTP {status}: because\n", gateway.url));
        gateway.requests();
    }
}

#[test]
fn who_is_not_let_in_is_told_what_to_do() {
    let problem =
        r#"{"type":"urn:sse-gateway:authentication-required","detail":"say who you are"}"#;
    let answer = response("401 Unauthorized", "application/problem+json", "", problem);
    let gateway = ScriptedGateway::play(vec![reply(answer)]);
    let run = run(&["tail", "demo", "--url", &gateway.url], "");
    assert_eq!(run.code, 1);
    let told = "HTTP 401 Unauthorized: say who you are; give a --token or --key";
    assert!(run.err.starts_with(&format!("sse-publish: {}: {told}", gateway.url)), "{}", run.err);
}

#[test]
fn a_page_is_not_a_stream() {
    let gateway = ScriptedGateway::play(vec![reply(response("200 OK", "text/html", "", "<html>"))]);
    let run = run(&["tail", "demo", "--url", &gateway.url], "");
    assert_eq!(run.code, 1);
    assert!(run.err.contains("text/html, not an event stream"), "{}", run.err);
}

#[test]
fn trouble_of_the_server_passes() {
    let gateway = ScriptedGateway::play(vec![
        // Shortens the wait before reconnecting, so that the test is fast.
        reply(stream("retry: 1\n\n")),
        reply(response("503 Service Unavailable", "text/plain", "Retry-After: 0\r\n", "")),
        reply(""),
        reply(stream("id: 1-0\ndata: x\n\n")),
    ]);
    let run = run(&["tail", "demo", "--limit", "1", "--data-only", "--url", &gateway.url], "");
    assert_eq!((run.code, run.out.as_str()), (0, "x\n"));
    assert_eq!(gateway.requests().len(), 4);
}

#[test]
fn silence_is_a_dead_connection() {
    let gateway = ScriptedGateway::play(vec![
        reply_and_hold(stream("retry: 1\nid: 3-0\ndata: x\n\n")),
        reply(stream("id: 4-0\ndata: y\n\n")),
    ]);
    let url = gateway.url.clone();
    let run = run(&["tail", "demo", "--limit", "2", "--idle-timeout", "100ms", "--url", &url], "");
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(run.err.contains("nothing came for 100ms"), "{}", run.err);
    assert_eq!(gateway.requests()[1].header("last-event-id"), Some("3-0"));
}

#[test]
fn an_event_without_end_is_refused() {
    let endless = format!("data: {}\n", "x".repeat(1 << 20)).repeat(17);
    let gateway = ScriptedGateway::play(vec![reply(stream(&endless))]);
    let run = run(&["tail", "demo", "--url", &gateway.url], "");
    assert_eq!(run.code, 1);
    assert!(run.err.contains("larger than"), "{}", run.err);
}

#[test]
fn a_closed_stdout_ends_it_quietly() {
    let (close, closed) = mpsc::channel();
    let blocks = reply_and_hold(stream("id: 1-0\ndata: x\n\n"));
    let gateway = ScriptedGateway::play(vec![wait_for(closed, blocks)]);
    let url = gateway.url.clone();
    let mut running = start(&["tail", "demo", "--url", &url]);
    drop(running.output.take());
    close.send(()).unwrap();
    let run = running.finish();
    let connected = format!("sse-publish: connected to {url}\n");
    assert_eq!((run.code, run.err), (0, connected));
}

#[test]
fn ctrl_c_is_exit_code_130() {
    let (came, coming) = mpsc::channel();
    let gateway =
        ScriptedGateway::play(vec![announce(came, reply_and_hold(stream("id: 1-0\ndata: x\n\n")))]);
    let mut running = start(&["tail", "demo", "--url", &gateway.url]);
    coming.recv().unwrap();
    assert_eq!(running.read(), "1-0  message  x\n");
    running.interrupt();
    let run = running.finish();
    assert_eq!((run.code, run.err.lines().count()), (130, 1), "{}", run.err);
}

#[test]
fn each_connection_is_told_unless_nobody_wants_to_know() {
    let script = || {
        vec![
            reply(stream("retry: 1\n\nid: 1-0\ndata: a\n\n")),
            reply(stream("id: 2-0\ndata: b\n\n")),
        ]
    };
    let gateway = ScriptedGateway::play(script());
    let url = gateway.url.clone();
    let told = run(&["tail", "demo", "--limit", "2", "--url", &url], "");
    let lines: Vec<&str> = told.err.lines().collect();
    assert_eq!(lines.len(), 3, "{}", told.err);
    assert_eq!(lines[0], format!("sse-publish: connected to {url}"));
    assert!(lines[1].contains("the stream ended; reconnecting in"), "{}", lines[1]);
    assert_eq!(lines[2], format!("sse-publish: connected to {url}, going on after 1-0"));
    gateway.requests();
    let gateway = ScriptedGateway::play(script());
    let quiet = run(&["tail", "demo", "--limit", "2", "--quiet", "--url", &gateway.url], "");
    assert_eq!((quiet.code, quiet.err.as_str()), (0, ""));
}
