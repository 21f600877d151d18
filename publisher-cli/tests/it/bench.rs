//! Tests of `bench` against a real server that writes to sockets in a loop, and against a scripted
//! gateway.

use std::net::SocketAddr;
use std::sync::mpsc;

use sse_bench::floor::Floor;

use crate::cli::{run, run_trusting, start};
use crate::scripted_gateway::{ScriptedGateway, announce, reply, reply_and_hold, response, stream};
use crate::tls_front::TlsFront;

fn floor() -> Floor {
    Floor::start(SocketAddr::from(([127, 0, 0, 1], 0)), 1).unwrap()
}

#[test]
fn what_is_published_reaches_every_stream() {
    let floor = floor();
    let url = format!("http://{}/events?n={{n}}", floor.addr());
    let run = run(
        &[
            "bench",
            &url,
            "--connections",
            "50",
            "--ramp",
            "20",
            "--seconds",
            "2",
            "--publish",
            "demo",
            "--rate",
            "100",
            "--size",
            "300",
            "--json",
        ],
        "",
    );
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{}", run.out);
    let report = &run.json()[0];
    assert_eq!(report["connections"]["open"], 50);
    let published = report["published"]["events"].as_u64().unwrap();
    assert!(published > 0);
    assert_eq!(report["stamped"], 50 * published);
    assert_eq!(report["events"], 50 * published);
    for fault in ["lost", "duplicated", "out_of_order", "gaps"] {
        assert_eq!(report[fault], 0, "{fault}");
    }
    let latency = &report["latency_ms"];
    assert!(
        latency["max"].as_f64() > Some(0.0) && latency["p50"].as_f64() <= latency["max"].as_f64()
    );
    assert!(report["bytes"].as_u64() > Some(50 * published * 300));
    assert_eq!(floor.dropped(), 0);
}

#[test]
fn https_is_loaded_like_http_and_its_certificate_is_checked() {
    let floor = floor();
    let front = TlsFront::of(floor.addr());
    let url = format!("https://localhost:{}/events", front.addr.port());
    let (publish, rate) = (["--publish", "demo"], ["--rate", "50", "--seconds", "1", "--json"]);
    let arguments = [&["bench", &url, "--connections", "20"], &publish[..], &rate[..]].concat();
    let run = run_trusting(&front.certificate, &arguments);
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{}", run.out);
    let report = &run.json()[0];
    assert_eq!(report["connections"]["open"], 20);
    let published = report["published"]["events"].as_u64().unwrap();
    assert!(published > 0);
    assert_eq!(report["stamped"], 20 * published);
    assert_eq!(report["lost"], 0);

    let other = TlsFront::of(floor.addr());
    let run = run_trusting(&other.certificate, &arguments);
    assert_eq!(run.code, 1, "{}", run.out);
    assert!(run.out.contains("certificate"), "{}\n{}", run.out, run.err);
}

#[test]
fn those_that_stall_are_not_counted() {
    let floor = floor();
    let url = format!("http://localhost:{}/", floor.addr().port());
    let run = run(
        &[
            "bench",
            &url,
            "--connections",
            "10",
            "--seconds",
            "1",
            "--publish",
            "demo",
            "--stalled",
            "0.2",
        ],
        "",
    );
    assert_eq!(run.code, 0, "{} {}", run.out, run.err);
    assert!(run.out.contains("10 open in"), "{}", run.out);
    assert!(run.out.contains("stalled      2 of them read nothing"), "{}", run.out);
    assert!(run.out.contains("\nlost         0\n"), "{}", run.out);
    assert!(run.out.contains("\nlatency      p50 "), "{}", run.out);
}

#[test]
fn of_events_of_others_only_the_number_is_told() {
    let blocks = "id: 1\ndata: a\n\nevent: gap\ndata: {}\n\nid: 2\ndata: b\ndata: c\n\n";
    // The second stream ends too. Then no stream is left, and the run is over.
    let gateway = ScriptedGateway::play(vec![reply(stream(blocks)), reply(stream(blocks))]);
    let url = format!("{}/feed?user={{n}}", gateway.url);
    let run = run(
        &["bench", &url, "--connections", "2", "--ramp", "1", "--token", "t", "--header", "X-A: b"],
        "",
    );
    assert_eq!(run.code, 1, "{}", run.err);
    assert!(run.out.contains("2 open in"), "{}", run.out);
    assert!(run.out.contains("2 closed; the first closed: the server closed"), "{}", run.out);
    assert!(run.out.contains("received     4 events"), "{}", run.out);
    assert!(run.out.contains("gap events   2\n"), "{}", run.out);
    assert!(run.out.contains("latency and loss cannot be told"), "{}", run.out);
    let host = gateway.url.strip_prefix("http://").unwrap().to_owned();
    for (number, request) in gateway.requests().iter().enumerate() {
        assert_eq!(request.line, format!("GET /feed?user={number} HTTP/1.1"));
        assert_eq!(request.header("host"), Some(host.as_str()));
        assert_eq!(request.header("authorization"), Some("Bearer t"));
        assert_eq!(request.header("x-a"), Some("b"));
        assert_eq!(request.header("accept"), Some("text/event-stream"));
    }
}

#[test]
fn why_the_first_connection_failed_is_told() {
    for (answer, why) in [
        (response("503 Service Unavailable", "text/plain", "", ""), "answered 503"),
        (response("200 OK", "text/html", "", "<html>"), "answered text/html, not an event stream"),
    ] {
        let gateway = ScriptedGateway::play(vec![reply(answer)]);
        let run = run(&["bench", &gateway.url, "--connections", "1"], "");
        assert_eq!(run.code, 1);
        assert!(
            run.out.contains(&format!("1 failed, 0 closed; the first failed: {why}\n")),
            "{}",
            run.out
        );
    }
}

#[test]
fn ctrl_c_ends_it_with_the_report_so_far() {
    let (came, coming) = mpsc::channel();
    let hold = announce(came, reply_and_hold(stream("data: x\n\n")));
    let gateway = ScriptedGateway::play(vec![hold]);
    let running = start(&["bench", &gateway.url, "--connections", "1", "--seconds", "3600"]);
    coming.recv().unwrap();
    running.interrupt();
    let run = running.finish();
    assert_eq!((run.code, run.err.as_str()), (130, ""));
    assert!(run.out.contains("ended by Ctrl-C"), "{}", run.out);
}

#[test]
fn more_connections_than_descriptors_are_refused() {
    let run = run(&["bench", "http://127.0.0.1:9", "--connections", "4000000000"], "");
    assert_eq!((run.code, run.out.as_str()), (1, ""));
    let want = "4000000000 connections need 4000000064 descriptors, this process may have ";
    assert!(run.err.contains(want) && run.err.contains("raise ulimit -n"), "{}", run.err);
}
