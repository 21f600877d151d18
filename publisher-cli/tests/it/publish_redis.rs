//! Tests of publishing straight to Redis.

use sse_contract::{LIBRARY_VERSION, LiveMessage, decode_live, library_source};

use crate::cli::{run, start};
use crate::redis_server::RedisServer;

fn load(redis: &RedisServer, version: u32) {
    let ours = format!("local LIBRARY_VERSION = {LIBRARY_VERSION}\n");
    let text = library_source().replace(&ours, &format!("local LIBRARY_VERSION = {version}\n"));
    redis::cmd("FUNCTION").arg("LOAD").arg(text).exec(&mut redis.connect()).unwrap();
}

#[test]
fn an_event_is_in_the_history_and_goes_out_live() {
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    let mut live = connection.as_pubsub();
    live.subscribe("sse:demo").unwrap();
    let run = run(&["demo", "hello", "--event", "tick", "--redis", &redis.url()], "");
    assert_eq!(run.code, 0, "{}", run.err);
    let frame = live.get_message().unwrap();
    let LiveMessage::Event { id, event, data } = decode_live(frame.get_payload_bytes()) else {
        panic!("{frame:?}");
    };
    assert_eq!((&*event, &*data, format!("{id}\n")), ("tick", "hello", run.out));
    assert_eq!(redis.history("sse:history:demo"), ["hello"]);
    assert_eq!(redis.command::<u32>("FCALL sse_version 0"), LIBRARY_VERSION);
}

#[test]
fn many_events_keep_their_order() {
    let redis = RedisServer::start();
    redis.command::<()>("HSET sse:state max_len 100000");
    let input: String = (1..=3000).map(|n| format!("{n}\n")).collect();
    let run = run(&["demo", "--redis", &redis.url()], &input);
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(run.err.starts_with("published 3000 events in "), "{}", run.err);
    assert_eq!(redis.history("sse:history:demo").join("\n") + "\n", input);
}

#[test]
fn an_older_library_is_replaced() {
    let redis = RedisServer::start();
    load(&redis, 0);
    assert_eq!(run(&["demo", "x", "--redis", &redis.url()], "").code, 0);
    assert_eq!(redis.command::<u32>("FCALL sse_version 0"), LIBRARY_VERSION);
}

#[test]
fn a_newer_library_stays() {
    let redis = RedisServer::start();
    load(&redis, 99);
    assert_eq!(run(&["demo", "x", "--redis", &redis.url()], "").code, 0);
    assert_eq!(redis.command::<u32>("FCALL sse_version 0"), 99);
}

#[test]
fn a_user_who_may_not_load_functions_publishes_by_script() {
    let redis = RedisServer::start();
    let url = redis.url_of_user(&["-function"]);
    let run = run(&["demo", "--redis", &url], "a\nb\n");
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(redis.history("sse:history:demo"), ["a", "b"]);
    assert_eq!(redis.command::<Vec<redis::Value>>("FUNCTION LIST"), []);
}

#[test]
fn a_user_who_may_not_even_call_functions_publishes_by_script() {
    let redis = RedisServer::start();
    let url = redis.url_of_user(&["-function", "-fcall"]);
    assert_eq!(run(&["demo", "x", "--redis", &url], "").code, 0);
    assert_eq!(redis.history("sse:history:demo"), ["x"]);
}

#[test]
fn a_channel_that_is_denied_is_named() {
    let redis = RedisServer::start();
    load(&redis, LIBRARY_VERSION);
    let url = redis.url_of_user(&["resetchannels", "&sse:mine"]);
    let run = run(&["mine,theirs", "x", "--redis", &url], "");
    assert_eq!(run.code, 1);
    assert!(
        run.err.contains("channel theirs: not published: redis://")
            && run.err.contains(": this user may not PUBLISH"),
        "{}",
        run.err
    );
    assert!(run.out.starts_with("mine "), "{}", run.out);
}

#[test]
fn partitions_are_found_and_named() {
    let redis = RedisServer::start();
    redis.command::<()>("HSET sse:{0}:state partitions 16 version 2");
    assert_eq!(run(&["orders", "x", "--redis", &redis.url()], "").code, 0);
    assert_eq!(redis.history("sse:{9}:history:orders"), ["x"]);
}

#[test]
fn events_of_several_partitions_keep_their_order_in_each() {
    let redis = RedisServer::start();
    redis.command::<()>("HSET sse:{0}:state partitions 16 version 2");
    let channels = [("orders", 9), ("demo", 7), ("user:42", 8), ("mail:{orders}", 9)];
    let item = |n: usize| format!("{{\"channel\":\"{}\",\"data\":\"{n}\"}}\n", channels[n % 4].0);
    let input: String = (0..400).map(item).collect();
    let run = run(&["--ndjson", "--json", "--redis", &redis.url()], &input);
    assert_eq!(run.code, 0, "{}", run.err);
    for (n, (channel, partition)) in channels.into_iter().enumerate() {
        let expected: Vec<String> = (n..400).step_by(4).map(|n| n.to_string()).collect();
        assert_eq!(redis.history(&format!("sse:{{{partition}}}:history:{channel}")), expected);
    }
}

#[test]
fn a_number_of_partitions_can_be_given_and_must_be_the_one_in_redis() {
    let redis = RedisServer::start();
    let publish = |partitions: &str| {
        run(&["orders", "x", "--redis", &redis.url(), "--partitions", partitions], "")
    };
    assert_eq!(publish("16").code, 0, "no gateway was here yet");
    assert_eq!(redis.history("sse:{9}:history:orders"), ["x"]);
    redis.command::<()>("HSET sse:{0}:state partitions 16 version 2");
    assert_eq!(publish("16").code, 0);
    let other = publish("4");
    assert_eq!(other.code, 2, "{}", other.err);
    let told = "this Redis holds 16 partitions (sse:{0}:state), --partitions says 4";
    assert!(other.err.contains(told), "{}", other.err);
    // A state that somebody made by mistake.
    redis.command::<()>("HSET sse:state partitions 1 version 2");
    let uncertain = run(&["orders", "x", "--redis", &redis.url()], "");
    assert_eq!(uncertain.code, 2, "{}", uncertain.err);
    for told in ["of 1 partitions (sse:state)", "of 16 (sse:{0}:state)", "--partitions"] {
        assert!(uncertain.err.contains(told), "{}", uncertain.err);
    }
    assert_eq!(publish("16").code, 0);
}

#[test]
fn another_prefix_is_another_world() {
    let redis = RedisServer::start();
    assert_eq!(run(&["a", "x", "--redis", &redis.url(), "--prefix", "p"], "").code, 0);
    assert_eq!(redis.history("p:history:a"), ["x"]);
}

#[test]
fn another_contract_version_is_refused() {
    let redis = RedisServer::start();
    for version in [1, 3] {
        redis.command::<()>(&format!("HSET sse:state partitions 1 version {version}"));
        let run = run(&["a", "x", "--redis", &redis.url()], "");
        assert_eq!(run.code, 2);
        assert!(run.err.contains(&format!("contract version {version}")), "{}", run.err);
        // The library was not loaded: others use this Redis with another version of the contract.
        assert_eq!(redis.command::<Vec<redis::Value>>("FUNCTION LIST"), []);
    }
}

#[test]
fn a_key_used_twice_is_one_event_or_a_conflict() {
    let redis = RedisServer::start();
    let item = |data: &str| {
        format!("{{\"channel\":\"a\",\"data\":\"{data}\",\"idempotency_key\":\"k\"}}\n")
    };
    let input = item("x") + &item("x") + &item("y");
    let run = run(&["--ndjson", "--json", "--redis", &redis.url()], &input);
    assert_eq!(run.code, 1);
    let lines = run.json();
    assert_eq!(lines[0]["id"], lines[1]["id"]);
    assert_eq!(lines[2]["error"]["type"], "SSECONFLICT");
    assert!(
        run.err.contains("line 3: channel a: not published: redis://")
            && run.err.contains(": idempotency_key"),
        "{}",
        run.err
    );
    assert_eq!(redis.history("sse:history:a"), ["x"]);
}

#[test]
fn a_library_that_vanishes_is_loaded_again() {
    let redis = RedisServer::start();
    let mut running = start(&["a", "--json", "--redis", &redis.url()]);
    running.write("x");
    assert!(running.read().contains("\"published\""));
    redis.command::<()>("FUNCTION FLUSH");
    running.write("y");
    assert!(running.read().contains("\"published\""));
    assert_eq!(running.finish().code, 0);
    assert_eq!(redis.history("sse:history:a"), ["x", "y"]);
}

#[test]
fn in_another_epoch_the_event_is_published_all_the_same() {
    let redis = RedisServer::start();
    let mut running = start(&["a", "--json", "--redis", &redis.url()]);
    running.write("x");
    assert!(running.read().contains("\"published\""));
    // From here on the run knows the epoch and passes it.
    running.write("y");
    assert!(running.read().contains("\"published\""));
    let fenced: String = redis.command("FCALL sse_fence 1 sse:state");
    let seq = |id: &str| id.split_once('-').unwrap().1.parse::<u64>().unwrap();
    running.write("z");
    let line: serde_json::Value = serde_json::from_str(&running.read()).unwrap();
    assert_eq!(seq(line["id"].as_str().unwrap()) >> 16, seq(&fenced) >> 16, "{line}");
    assert_eq!(running.finish().code, 0);
    assert_eq!(redis.history("sse:history:a"), ["x", "y", "z"]);
    let stats: String = redis.command("INFO errorstats");
    assert!(stats.contains("errorstat_SSEEPOCH:count=1"), "the old epoch was refused: {stats}");
}

#[test]
fn what_redis_undid_is_sent_again() {
    let redis = RedisServer::start();
    let mut running = start(&["a", "--json", "--redis", &redis.url()]);
    running.write("x");
    assert!(running.read().contains("\"published\""));
    redis.command::<()>("RENAME sse:known:1 aside");
    redis.command::<()>("SET sse:known:1 x");
    running.write("y");
    let undone = |_| redis.command::<String>("INFO errorstats").contains("WRONGTYPE");
    assert!((0..100_000).any(undone), "it was tried and undone");
    redis.command::<()>("RENAME aside sse:known:1");
    assert!(running.read().contains("\"published\""));
    assert_eq!(running.finish().code, 0);
    assert_eq!(redis.history("sse:history:a"), ["x", "y"]);
}

#[test]
fn what_nobody_can_know_is_said_so_and_not_repeated() {
    let redis = RedisServer::start();
    let mut running = start(&["a", "--json", "--redis", &redis.url()]);
    running.write("x");
    assert!(running.read().contains("\"published\""));
    redis.command::<()>("CONFIG SET maxmemory 1");
    running.write("y");
    let line = running.read();
    assert!(line.contains("\"unknown\"") && line.contains("OOM"), "{line}");
    redis.command::<()>("CONFIG SET maxmemory 0");
    let run = running.finish();
    assert_eq!(run.code, 1, "{}", run.err);
    assert_eq!(redis.history("sse:history:a"), ["x"]);
}

#[test]
fn a_lost_connection_is_made_again() {
    let redis = RedisServer::start();
    let mut running = start(&["a", "--json", "--redis", &redis.url()]);
    running.write("x");
    assert!(running.read().contains("\"published\""));
    redis.command::<i64>("CLIENT KILL TYPE normal SKIPME yes");
    running.write("y");
    assert!(running.read().contains("\"published\""));
    assert_eq!(running.finish().code, 0);
    assert_eq!(redis.history("sse:history:a"), ["x", "y"]);
}

#[test]
fn a_server_that_dies_is_reported_by_the_line() {
    let redis = RedisServer::start();
    let url = redis.url();
    let mut running = start(&["a", "--json", "--redis", &url, "--retry-for", "10ms"]);
    running.write("x");
    assert!(running.read().contains("\"published\""));
    drop(redis);
    running.write("y");
    let run = running.finish();
    assert_eq!(run.code, 1, "{}", run.err);
    assert!(run.err.contains("line 2: channel a: "), "{}", run.err);
}

#[test]
fn a_wrong_password_is_no_connection_and_is_not_repeated() {
    let redis = RedisServer::start();
    let url = format!("redis://nobody:hunter2@{}", redis.addr);
    let run = run(&["a", "x", "--redis", &url], "");
    assert_eq!(run.code, 2);
    assert!(!run.err.contains("hunter2"), "{}", run.err);
}
