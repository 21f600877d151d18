//! Tests that need Redis: other publishers, other versions of the contract, and faults of Redis.

mod partitions;
mod repartition;
mod spanning;
mod topologies;

use crate::support::{Redis, Subscriber, TestGateway, Wire, eventually};

#[test]
fn any_redis_client_publishes() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[]);
    let mut subscriber = gateway.live("channel=demo");
    let id = redis.fcall("demo", "by FCALL");
    assert_eq!((subscriber.event().id, id.contains('-')), (id.clone(), true));
    redis.command(&["PUBLISH", "sse:demo", "raw\ndata: x"]);
    let raw = subscriber.event();
    assert_eq!((raw.id.as_str(), raw.data.as_str()), ("", "raw\ndata: x"));
    redis.command(&[&b"PUBLISH"[..], b"sse:demo", b"\xc3\x28"]);
    assert_eq!(subscriber.event().data, "\u{fffd}(");
    let typed = ["FCALL", "sse_publish", "2", "sse:state", "sse:history:demo", "x", "tick"];
    redis.command(&typed);
    assert_eq!(subscriber.event().event, "tick");
    let mut second = gateway.resumed("channel=demo", &id);
    assert_eq!(second.next().event, "tick", "what was published raw is live only");
}

#[test]
fn a_bad_fcall_is_refused_by_name() {
    let redis = Redis::start();
    let _gateway = TestGateway::redis(&redis, &[("publish.max_event_bytes", "1000")]);
    let publish = |history: &str, data: &str, event: &str| {
        redis.command(&["FCALL", "sse_publish", "2", "sse:state", history, data, event])
    };
    let large = "x".repeat(1001);
    for (answer, word) in [
        (publish("sse:history:a b", "x", ""), "channel"),
        (publish("sse:history:", "x", ""), "channel"),
        (publish("other:history:a", "x", ""), "keys"),
        (publish("sse:history:a", "x", "a\nb"), "event"),
        (publish("sse:history:a", "x", "gap"), "reserved"),
        (publish("sse:history:a", &large, ""), "data: 1001 bytes, at most 1000"),
    ] {
        assert!(answer.starts_with("SSEINVALID ") && answer.contains(word), "{answer}");
    }
    assert_eq!(redis.command(&["KEYS", "sse:history:*"]), "", "nothing was written");
}

#[test]
fn the_library_is_replaced_only_by_a_newer_one() {
    let redis = Redis::start();
    let library = |version: u32| {
        format!(
            "#!lua name=sse\nredis.register_function{{function_name='sse_version', \
             callback=function() return {version} end, flags={{'no-writes'}}}}"
        )
    };
    redis.command(&["FUNCTION", "LOAD", &library(0)]);
    drop(TestGateway::redis(&redis, &[]));
    assert_eq!(
        redis.command(&["FCALL", "sse_version", "0"]),
        sse_contract::LIBRARY_VERSION.to_string()
    );
    redis.command(&["FUNCTION", "LOAD", "REPLACE", &library(99)]);
    // A library that claims to be newer is kept, although a gateway cannot use this one.
    assert!(TestGateway::try_start(&[("broker", "redis"), ("redis.url", &redis.url())]).is_err());
    assert_eq!(redis.command(&["FCALL", "sse_version", "0"]), "99");
}

#[test]
fn where_functions_are_refused_scripts_serve() {
    let redis = Redis::start();
    let rules = "on >secret ~sse:* &sse:* +@all -function -fcall -config";
    let mut setuser = vec!["ACL", "SETUSER", "gateway"];
    setuser.extend(rules.split(' '));
    assert_eq!(redis.command(&setuser), "OK");
    let url = format!("redis://gateway:secret@{}", redis.addr);
    let gateway = TestGateway::redis(&redis, &[("redis.url", &url)]);
    let mut subscriber = gateway.live("channel=demo");
    let id = gateway.publish("demo", "hello");
    assert_eq!(subscriber.event().id, id);
    redis.command(&["SCRIPT", "FLUSH"]);
    redis.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    let next = loop {
        let answer = gateway.post("/channels/demo", &[], b"again");
        if answer.status == 200 {
            break answer.json()["id"].as_str().unwrap().to_owned();
        }
    };
    assert_eq!(subscriber.event().id, next);
    assert_eq!(gateway.resumed("channel=demo", &id).next().id, next);
}

#[test]
fn a_user_who_may_not_publish_writes_nothing() {
    let redis = Redis::start();
    let _gateway = TestGateway::redis(&redis, &[]);
    let rules = [
        "ACL",
        "SETUSER",
        "guest",
        "on",
        "nopass",
        "~sse:*",
        "+@all",
        "resetchannels",
        "&sse:allowed",
    ];
    assert_eq!(redis.command(&rules), "OK");
    let url = format!("redis://guest:x@{}", redis.addr);
    let settings = [("broker", "redis"), ("redis.url", url.as_str())];
    let guest = TestGateway::try_start(&settings);
    // As this user a gateway cannot subscribe to its channels, so a plain Redis client tests the
    // script's own check.
    drop(guest);
    let denied = redis.command_as(
        "guest",
        &["FCALL", "sse_publish", "2", "sse:state", "sse:history:denied", "x"],
    );
    assert!(denied.starts_with("SSEDENIED"), "{denied}");
    assert_eq!(redis.command(&["EXISTS", "sse:history:denied"]), "0");
    let allowed = redis.command_as(
        "guest",
        &["FCALL", "sse_publish", "2", "sse:state", "sse:history:allowed", "x"],
    );
    assert!(allowed.contains('-'), "{allowed}");
}

#[test]
fn an_interrupted_subscription_loses_nothing() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[]);
    let mut subscriber = gateway.live("channel=demo");
    for n in 0..300 {
        if n % 50 == 25 {
            redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        }
        redis.fcall("demo", &n.to_string());
    }
    for n in 0..300 {
        let block = subscriber.event();
        assert_eq!((block.event.as_str(), block.data.as_str()), ("", n.to_string().as_str()));
    }
}

#[test]
fn a_redis_that_hangs_is_found_and_its_return_repaired() {
    let redis = Redis::start();
    let settings = [("redis.answer_timeout", "500ms"), ("redis.connect_timeout", "500ms")];
    let gateway = TestGateway::redis(&redis, &settings);
    let mut subscriber = gateway.live("channel=demo");
    let id = redis.fcall("demo", "before");
    assert_eq!(subscriber.event().id, id);
    redis.freeze();
    eventually("the hanging connection is found", || gateway.sum(|c| c.joining.get()) == 1);
    redis.thaw();
    let id = redis.fcall("demo", "after");
    assert_eq!(subscriber.event().id, id);
}

#[test]
fn another_contract_is_refused_at_start() {
    let redis = Redis::start();
    drop(TestGateway::redis(&redis, &[]));
    redis.command(&["HSET", "sse:state", "partitions", "16"]);
    let settings = [("broker", "redis"), ("redis.url", &redis.url())];
    let error = TestGateway::try_start(&settings).err().unwrap();
    assert!(error.contains("16") && error.contains("partitions"), "{error}");
}

#[test]
fn other_limits_in_redis_hold_for_all() {
    let redis = Redis::start();
    drop(TestGateway::redis(&redis, &[("publish.max_event_bytes", "10")]));
    let gateway = TestGateway::redis(&redis, &[("publish.max_event_bytes", "1000")]);
    let answer = gateway.post("/channels/a", &[], b"more than ten bytes");
    assert_eq!((answer.status, answer.json()["field"].as_str()), (413, Some("data")));
}

/// Reads the next event, which must be a `reset` gap for all channels. Returns the gap's data.
fn reset(subscriber: &mut Subscriber) -> serde_json::Value {
    let gap = subscriber.event();
    assert_eq!(gap.event, "gap", "{gap:?}");
    let data: serde_json::Value = serde_json::from_str(&gap.data).unwrap();
    assert_eq!((&data["reason"], &data["channel"]), (&"reset".into(), &"*".into()), "{data}");
    data
}

fn id(text: &str) -> sse_contract::EventId {
    text.parse().expect("an id")
}

#[test]
fn a_redis_reloaded_from_an_older_dump_is_told_once_and_ids_rise() {
    let mut redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[]);
    let kept = redis.fcall("demo", "kept");
    redis.command(&["SAVE"]);
    let mut subscriber = gateway.live("channel=demo");
    let lost = redis.fcall("demo", "lost");
    assert_eq!(subscriber.event().id, lost);
    redis.kill();
    redis.restart();
    let data = reset(&mut subscriber);
    assert_eq!(data["oldest"], kept.as_str());
    let new = loop {
        let answer = gateway.post("/channels/demo", &[], b"new");
        if answer.status == 200 {
            break answer.json()["id"].as_str().unwrap().to_owned();
        }
    };
    assert!(id(&new) > id(&lost), "{new} {lost}");
    assert_eq!(subscriber.event().id, new);
    // The lost event's id is of an old epoch, so its client is sent a `reset`, and then the later
    // events that exist.
    let header = [("Last-Event-ID", lost.as_str())];
    let mut resumed = Subscriber::open(gateway.addr, "channel=demo", &header);
    reset(&mut resumed);
    assert_eq!(resumed.event().id, new);
}

#[test]
fn a_promoted_replica_that_lagged_is_told_once_and_ids_rise() {
    let mut old = Redis::start();
    let wire = Wire::to(old.addr);
    let url = format!("redis://{}", wire.addr);
    let gateway = TestGateway::redis(&old, &[("redis.url", &url)]);
    let new = old.replica();
    let mut subscriber = gateway.live("channel=demo");
    let kept = old.fcall("demo", "kept");
    assert_eq!(subscriber.event().id, kept);
    eventually("it is replicated", || new.command(&["XLEN", "sse:history:demo"]) == "1");
    // The replica is promoted before the last event reaches it. For a while there are two masters,
    // and both take events.
    assert_eq!(new.command(&["REPLICAOF", "NO", "ONE"]), "OK");
    let lost = old.fcall("demo", "lost");
    assert_eq!(subscriber.event().id, lost);
    wire.cut();
    // Until a gateway ticks on the new master, both masters continue the old epoch. `theirs` must
    // be of a later millisecond than any tick of the old master.
    let milliseconds = || {
        let time = new.command(&["TIME"]);
        let (seconds, micros) = time.split_once('\n').expect("two numbers");
        (seconds.to_owned(), format!("{micros:0>6}")[..3].to_owned())
    };
    let then = milliseconds();
    eventually("the time goes on", || milliseconds() > then);
    let theirs = new.fcall("demo", "theirs");
    assert_eq!(id(&theirs).epoch(), id(&lost).epoch());
    wire.move_to(new.addr);
    old.kill();
    let data = reset(&mut subscriber);
    assert_eq!(data["oldest"], kept.as_str());
    assert_eq!(subscriber.event().id, theirs);
    let next = new.fcall("demo", "next");
    assert_ne!(id(&next).epoch(), id(&lost).epoch());
    assert!(id(&next) > id(&theirs), "{next} {theirs}");
    assert_eq!(subscriber.event().id, next);
}

#[test]
fn a_master_that_becomes_a_replica_is_left_for_the_new_one() {
    let old = Redis::start();
    let wire = Wire::to(old.addr);
    let url = format!("redis://{}", wire.addr);
    let gateway = TestGateway::redis(&old, &[("redis.url", &url)]);
    let new = old.replica();
    let mut subscriber = gateway.live("channel=demo");
    let kept = old.fcall("demo", "kept");
    assert_eq!(subscriber.event().id, kept);
    eventually("it is replicated", || new.command(&["XLEN", "sse:history:demo"]) == "1");
    // A failover on purpose, as by Sentinel: the address leads to the new master, and the old one
    // stays alive.
    new.command(&["REPLICAOF", "NO", "ONE"]);
    wire.move_to(new.addr);
    let [host, port] = [new.addr.ip().to_string(), new.addr.port().to_string()];
    old.command(&["REPLICAOF", &host, &port]);
    reset(&mut subscriber);
    let next = new.fcall("demo", "next");
    assert_eq!(subscriber.event().id, next);
    assert_eq!(gateway.post("/channels/demo", &[], b"through the gateway").status, 200);
}

#[test]
fn an_operators_word_lets_a_restart_pass() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let gateway = TestGateway::redis(&redis, &[("redis.durable", "true")]);
    let mut subscriber = gateway.live("channel=demo");
    let first = redis.fcall("demo", "first");
    assert_eq!(subscriber.event().id, first);
    redis.kill();
    redis.restart();
    eventually("live again", || {
        gateway.sum(|c| c.joining.get()) == 0 && gateway.sum(|c| c.lags.get()) > 0
    });
    let second = redis.fcall("demo", "second");
    assert_eq!(subscriber.event().id, second, "no gap: nothing was lost");
}

#[test]
fn an_evicted_history_ends_the_epoch() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[]);
    let mut subscriber = gateway.live("channel=demo");
    let first = redis.fcall("demo", &"x".repeat(1000));
    assert_eq!(subscriber.event().id, first);
    redis.command(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"]);
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    // Redis evicts only when a write needs memory.
    let full = redis.command(&["SET", "other", "x"]);
    assert!(full.contains("OOM"), "{full}");
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    reset(&mut subscriber);
    let next = redis.fcall("demo", "next");
    assert_eq!(subscriber.event().id, next);
}

#[test]
fn a_clock_set_back_by_hand_loses_nothing_silently() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[]);
    let mut subscriber = gateway.live("channel=demo");
    let first = redis.fcall("demo", "first");
    assert_eq!(subscriber.event().id, first);
    let back = sse_contract::EventId { ms: 1000, ..id(&first) };
    redis.command(&["HSET", "sse:state", "id", &back.to_string()]);
    reset(&mut subscriber);
    let second = redis.fcall("demo", "second");
    assert!(id(&second) > id(&first));
    assert_eq!(subscriber.event().id, second);
}

#[test]
fn ids_rise_after_all_is_lost_though_the_clock_was_ahead_of_the_time() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[]);
    let mut subscriber = gateway.live("channel=demo");
    let now = id(&redis.fcall("demo", "first"));
    subscriber.event();
    // The state that a master leaves whose time was an hour fast.
    let ahead = sse_contract::EventId { ms: now.ms + 3_600_000, ..now };
    redis.command(&["HSET", "sse:state", "id", &ahead.to_string()]);
    let second = redis.fcall("demo", "second");
    assert!(id(&second) > ahead);
    assert_eq!(subscriber.event().id, second);
    redis.command(&["FLUSHALL"]);
    reset(&mut subscriber);
    let third = redis.fcall("demo", "third");
    assert!(id(&third) > id(&second), "{third} {second}");
    assert_eq!(subscriber.event().id, third);
}

#[test]
fn a_fence_by_hand_is_told() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[]);
    let mut subscriber = gateway.live("channel=demo");
    redis.command(&["DEL", "sse:history:demo"]);
    redis.command(&["FCALL", "sse_fence", "1", "sse:state"]);
    reset(&mut subscriber);
}

#[test]
fn a_frame_of_another_version_is_read_from_history() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[]);
    let mut subscriber = gateway.live("channel=demo");
    redis.command(&[&b"PUBLISH"[..], b"sse:demo", b"\xff\x02what comes after version 1"]);
    let next = redis.fcall("demo", "next");
    assert_eq!(subscriber.event().id, next);
    assert!(gateway.sum(|c| c.lags.get()) >= 1);
}

/// Otherwise anybody who may publish on one channel could make every stream read history.
#[test]
fn a_refused_frame_concerns_the_streams_of_its_channel_alone() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[("server.workers", "1")]);
    let [mut demo, mut other, mut both] =
        ["channel=demo", "channel=other", "channel=other&channel=demo"].map(|q| gateway.live(q));
    redis.command(&[&b"PUBLISH"[..], b"sse:demo", b"\xff\x02what comes after version 1"]);
    let (next, elsewhere) = (redis.fcall("demo", "next"), redis.fcall("other", "elsewhere"));
    assert_eq!(demo.event().id, next);
    assert_eq!(other.event().id, elsewhere);
    assert_eq!([both.event().id, both.event().id], [next, elsewhere]);
    assert_eq!(gateway.sum(|c| c.lags.get()), 2);
}

#[test]
fn a_quiet_client_is_told_no_gap_when_a_busy_channel_was_trimmed() {
    let redis = Redis::start();
    let settings = [("history.max_len", "100"), ("stream.heartbeat", "1s")];
    let gateway = TestGateway::redis(&redis, &settings);
    let query: Vec<String> = (0..100).map(|n| format!("channel=c{n}")).collect();
    let query = query.join("&");
    let busy: String =
        (0..2500).map(|n| format!("{{\"channel\":\"c0\",\"data\":\"{n}\"}}\n")).collect();
    let quiet: Vec<String> = (1..100).map(|n| format!("channel=c{n}")).collect();
    let mut subscriber = gateway.live(&quiet.join("&"));
    let ndjson = [("Content-Type", "application/x-ndjson")];
    assert_eq!(gateway.post("/publish", &ndjson, busy.as_bytes()).status, 200);
    // The busy channel was trimmed many times. Waits until the quiet client has a checkpoint above
    // all of that.
    let last = redis.command(&["HGET", "sse:state", "id"]);
    let cursor = loop {
        let block = subscriber.next();
        assert_eq!(block.event, "checkpoint");
        if id(&block.id) > id(&last) {
            break block.id;
        }
    };
    assert!(cursor.len() <= 128);
    drop(subscriber);
    let header = [("Last-Event-ID", cursor.as_str())];
    let mut resumed = Subscriber::open(gateway.addr, &query, &header);
    assert_eq!(resumed.next().event, "checkpoint", "all hundred channels, and no gap");
    let event = gateway.publish("c50", "x");
    assert_eq!(resumed.event().id, event);
}
