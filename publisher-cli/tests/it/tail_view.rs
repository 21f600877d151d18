//! Tests of where `tail` begins and of what it shows, against a real gateway.

use serde_json::Value;

use crate::cli::{Run, run};
use crate::real_gateway::RealGateway;
use crate::scripted_gateway::{ScriptedGateway, reply, stream};

/// Publishes lines on a channel, and returns the ids.
fn publish(gateway: &RealGateway, channel: &str, lines: &str) -> Vec<String> {
    let run = run(&[channel, "--json", "--url", &gateway.url], lines);
    assert_eq!(run.code, 0, "{}", run.err);
    let ids = run.json().into_iter().filter_map(|line| line["id"].as_str().map(str::to_owned));
    ids.collect()
}

fn tail(gateway: &RealGateway, arguments: &[&str]) -> Run {
    run(&[&["tail", "--quiet", "--url", &gateway.url], arguments].concat(), "")
}

#[test]
fn the_last_events_are_those_of_all_channels_together() {
    let gateway = RealGateway::start();
    // More than one page of a history.
    publish(&gateway, "a", &"old\n".repeat(1200));
    publish(&gateway, "b", "1\n2\n");
    publish(&gateway, "a", "3\n");
    for (from, limit, want) in
        [("-3", "3", "1\n2\n3\n"), ("-1", "1", "3\n"), ("-4", "2", "old\n1\n")]
    {
        let seen = tail(&gateway, &["a,b", "--from", from, "-n", limit, "--data-only"]);
        assert_eq!((seen.code, seen.out.as_str(), seen.err.as_str()), (0, want, ""), "{from}");
    }
    let all = tail(&gateway, &["b,b", "--from", "-5", "--count", "2", "--data-only"]);
    assert_eq!((all.out.as_str(), all.err.as_str()), ("1\n2\n", ""));
}

#[test]
fn a_time_begins_with_what_was_published_since() {
    let gateway = RealGateway::start();
    let ids = publish(&gateway, "a", "1\n2\n");
    let since = tail(&gateway, &["a", "--from", "30m", "-n", "2", "--data-only"]);
    assert_eq!((since.code, since.out.as_str(), since.err.as_str()), (0, "1\n2\n", ""));

    let shown = tail(&gateway, &["a", "--from", "oldest", "-n", "1", "--json", "--time"]);
    let time = shown.json()[0]["time"].as_str().unwrap().to_owned();
    let at = tail(&gateway, &["a", "--since", &time, "-n", "1", "--json"]);
    assert_eq!(at.json()[0]["id"], ids[0].as_str(), "{}", at.err);

    let future = tail(&gateway, &["a", "--from", "2999-01-01T00:00:00Z"]);
    assert_eq!(future.code, 1);
    assert!(future.err.contains(&format!("{}: --from is in the future", gateway.url)));
    let nonsense = tail(&gateway, &["a", "--from", "yesterday"]);
    assert_eq!(nonsense.code, 64);
    assert!(nonsense.err.contains("\"yesterday\" is not a time; write 5m"), "{}", nonsense.err);
}

#[test]
fn what_tail_prints_as_json_can_be_published_again() {
    let gateway = RealGateway::start();
    let items = "{\"data\":\"plain\"}\n{\"event\":\"tick\",\"data\":{\"a\": [1.10, \"x\"]}}\n{\"data\":\"\\\"q\\\"\"}\n";
    assert_eq!(run(&["--ndjson", "a", "--url", &gateway.url], items).code, 0);
    let parts = |channel: &str, further: &[&str]| {
        let from = [&[channel, "--from", "oldest", "-n", "3", "--json"], further].concat();
        tail(&gateway, &from)
    };
    let stripped = |run: &Run| -> Vec<(Value, Value)> {
        run.json().into_iter().map(|line| (line["event"].clone(), line["data"].clone())).collect()
    };
    let original = parts("a", &[]);
    for (copy, further) in [("b", &[][..]), ("c", &["--parse", "--time"])] {
        let lines = parts("a", further).out;
        let published = run(&["--ndjson", copy, "--url", &gateway.url], &lines);
        assert_eq!(published.code, 0, "{}", published.err);
        assert_eq!(stripped(&parts(copy, &[])), stripped(&original), "{copy}");
    }
    // With its id as the key, an event is published once however often the lines are.
    let lines = parts("a", &["--channel"]).out;
    let again = ["--ndjson", "--key-field", "id", "--json", "--url", &gateway.url];
    let (first, second) = (run(&again, &lines), run(&again, &lines));
    assert_eq!(first.code, 0, "{}", first.err);
    assert_eq!(first.json()[..3], second.json()[..3]);
}

#[test]
fn the_channel_of_each_event_is_the_first_line_of_its_data() {
    let blocks = "event: checkpoint\nid: 4-0\ndata: {\"from\":\"now\"}\n\n\
        data: orders\ndata: a\ndata: b\nid: 5-0\n\ndata: demo\ndata:\n\n";
    let gateway = ScriptedGateway::play(vec![reply(stream(blocks))]);
    let shown = run(&["tail", "demo,orders", "-c", "-n", "2", "-q", "--url", &gateway.url], "");
    assert_eq!((shown.code, shown.err.as_str()), (0, ""));
    assert_eq!(shown.out, "5-0  orders  message  a\\nb\n-  demo  message  \n");
    let line = "GET /events?channel=demo&channel=orders&annotate=channel HTTP/1.1";
    assert_eq!(gateway.requests()[0].line, line);

    // A gateway that does not know the parameter ignores it.
    let gateway = ScriptedGateway::play(vec![reply(stream("data: x\nid: 5-0\n\n"))]);
    let shown = run(&["tail", "demo,orders", "-c", "--url", &gateway.url], "");
    assert_eq!((shown.code, shown.out.as_str()), (1, ""));
    assert!(shown.err.contains("does not tell the channel"), "{}", shown.err);
}

#[test]
fn a_gateway_tells_the_channel_of_each_event() {
    let gateway = RealGateway::start();
    publish(&gateway, "a", "1\n");
    publish(&gateway, "b", "{\"x\":1}\n\n");
    let shown = tail(&gateway, &["a,b", "-s", "oldest", "-n", "3", "-F", "{channel}={data}"]);
    assert_eq!((shown.out.as_str(), shown.err.as_str()), ("a=1\nb={\"x\":1}\nb=\n", ""));
    let json =
        tail(&gateway, &["a,b", "-s", "oldest", "-n", "2", "--json", "--parse", "-c"]).json();
    assert_eq!((&json[0]["channel"], &json[1]["channel"]), (&"a".into(), &"b".into()));
    assert_eq!(json[1]["data"]["x"], 1);
}

#[test]
fn one_channel_needs_no_annotation() {
    let gateway = RealGateway::start();
    publish(&gateway, "a", "1\n");
    let seen =
        tail(&gateway, &["a", "--from", "-1", "-n", "1", "-F", "{channel}\\t{type}\\t{json}"]);
    assert_eq!((seen.out.as_str(), seen.err.as_str()), ("a\tmessage\t1\n", ""));
}

#[test]
fn a_gap_ends_it_with_a_code_of_its_own_if_that_is_asked_for() {
    let blocks = "retry: 1\nid: 4-0\ndata: x\n\nevent: gap\nid: 5-0\ndata: {\"channel\":\"*\",\"reason\":\"reset\"}\n\n";
    let gateway = ScriptedGateway::play(vec![reply(stream(blocks))]);
    let ended = run(&["tail", "demo", "--fail-on-gap", "-q", "--url", &gateway.url], "");
    assert_eq!((ended.code, ended.out.as_str()), (3, "4-0  message  x\n"));
    assert_eq!(ended.err, "sse-publish: gap on all channels: reset\n");
}

#[test]
fn the_sign_of_life_of_a_stream_is_no_event() {
    let blocks = "event: alive\ndata:\n\nid: 5-0\ndata: x\n\n";
    let gateway = ScriptedGateway::play(vec![reply(stream(blocks))]);
    let seen = run(&["tail", "demo", "-n", "1", "-q", "--url", &gateway.url], "");
    assert_eq!((seen.code, seen.out.as_str()), (0, "5-0  message  x\n"));
}
