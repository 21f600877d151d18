//! Tests of the first promise, no silent loss, in odd cases. In each of them an event was once
//! lost, forged or doubled without a gap.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use sse_contract::EventId;

use crate::streams::on_both;
use crate::support::{BOUND, Block, Redis, Subscriber, TestGateway, Wire, eventually, request};

fn id(text: &str) -> EventId {
    text.parse().expect("an id")
}

fn gap(block: &Block) -> serde_json::Value {
    assert_eq!(block.event, "gap", "{block:?}");
    serde_json::from_str(&block.data).expect("a gap's data")
}

/// Makes a Redis user that may do everything except what `rules` take away. Returns a gateway's URL
/// for it.
fn user(redis: &Redis, rules: &str) -> String {
    let mut command =
        vec!["ACL", "SETUSER", "gateway", "on", ">secret", "~sse:*", "&sse:*", "+@all"];
    command.extend(rules.split(' '));
    assert_eq!(redis.command(&command), "OK");
    format!("redis://gateway:secret@{}", redis.addr)
}

#[test]
fn what_is_published_once_the_head_is_read_reaches_the_client() {
    on_both(&[], |gateway| {
        for n in 0..100 {
            let channel = format!("fresh-{n}");
            let mut subscriber = gateway.subscribe(&format!("channel={channel}"));
            let event = gateway.publish(&channel, "first");
            assert_eq!(subscriber.event().id, event, "of {channel}");
        }
    });
}

#[test]
fn who_comes_while_redis_is_away_is_let_in_late_and_told() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[("stream.open_wait", "50ms")]);
    let kept = redis.fcall("demo", "kept");
    redis.freeze();
    let mut fresh = gateway.subscribe("channel=demo");
    let header = [("Last-Event-ID", kept.as_str())];
    let mut resumed = Subscriber::open(gateway.addr, "channel=demo", &header);
    let mut plain = gateway.subscribe("channel=demo&checkpoints=off");
    redis.thaw();
    let told = gap(&fresh.next());
    assert_eq!((&told["channel"], &told["reason"]), (&"*".into(), &"late".into()), "{told}");
    assert_eq!(fresh.opening().data, r#"{"from":"now"}"#);
    assert_eq!(gap(&plain.next())["reason"], "late");
    // A client with its own position misses nothing.
    assert_eq!(resumed.opening().id, kept);
    for subscriber in [&mut fresh, &mut plain, &mut resumed] {
        assert!(subscriber.retry.is_some());
    }
    let next = redis.fcall("demo", "next");
    for subscriber in [&mut fresh, &mut plain, &mut resumed] {
        assert_eq!(subscriber.event().id, next);
    }
}

#[test]
fn a_channel_that_redis_refuses_is_refused_and_disturbs_nobody() {
    let redis = Redis::start();
    let url = user(&redis, "resetchannels &sse:public* &sse::probe:*");
    let gateway = TestGateway::redis(&redis, &[("redis.url", &url)]);
    let mut other = gateway.live("channel=public");
    for query in ["channel=secret", "channel=public&channel=secret", "channel=secret"] {
        let path = format!("/events?{query}");
        let answer = request(gateway.addr, "GET", &path, &[], b"");
        let problem = answer.json();
        assert_eq!(answer.status, 403, "{problem}");
        assert_eq!(problem["type"], "urn:sse-gateway:subscribe-denied");
        assert!(problem["detail"].as_str().unwrap().contains("secret"), "{problem}");
        let next = redis.fcall("public", "next");
        assert_eq!(other.event().id, next);
    }
    assert_eq!(gateway.admin("/readyz").status, 200);
    assert_eq!(gateway.sum(|c| c.lags.get()), 0);
    drop(other);
    gateway.settled();
}

#[test]
fn a_channel_that_redis_refuses_later_ends_its_open_streams_alone() {
    let redis = Redis::start();
    let url = user(&redis, "+ping");
    let gateway = TestGateway::redis(&redis, &[("redis.url", &url)]);
    let mut stays = gateway.live("channel=public");
    let mut ends = gateway.live("channel=public&channel=secret");
    user(&redis, "resetchannels &sse:public* &sse::probe:*");
    redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    let (blocks, retry) = ends.rest();
    assert!(retry.is_some() && blocks.iter().all(|b| b.event == "checkpoint"), "{blocks:?}");
    let next = redis.fcall("public", "next");
    assert_eq!(stays.event().id, next);
}

#[test]
fn idempotency_keys_of_nested_names_are_two() {
    on_both(&[], |gateway| {
        let publish = |channel: &str, key: &str| {
            let path = format!("/channels/{channel}");
            let answer = gateway.post(&path, &[("Idempotency-Key", key)], b"x");
            assert_eq!(answer.status, 200, "{}", answer.body);
            answer.json()["id"].as_str().unwrap().to_owned()
        };
        let mut both = gateway.live("channel=user&channel=user:42");
        let (one, two) = (publish("user", "42:7"), publish("user:42", "7"));
        assert_ne!(one, two);
        assert_eq!([both.event().id, both.event().id], [one.clone(), two]);
        assert_eq!(publish("user", "42:7"), one);
    });
}

/// A worker that parses a large body does nothing else meanwhile, so its inbox overflows.
#[test]
fn a_stream_that_opens_while_its_worker_is_behind_misses_nothing_silently() {
    let settings = [
        ("server.workers", "1"),
        // However long the worker takes, no client is let in late.
        ("stream.open_wait", "60s"),
        ("stream.inbox_bytes", "3000"),
        ("stream.queue_events", "2000"),
        ("history.max_len", "100000"),
        ("publish.max_body_bytes", "100000000"),
    ];
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &settings);
    let stop = AtomicBool::new(false);
    let body = format!("[{}0", "0,".repeat(200_000));
    let first = gateway.live("channel=demo");
    let gateway = &gateway;
    let mut opened = Vec::new();
    let last = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                redis.fcall("demo", &"x".repeat(100));
            }
            redis.fcall("demo", "last")
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                gateway.post("/publish", &[("Content-Type", "application/json")], body.as_bytes());
            }
        });
        let end = Instant::now() + BOUND;
        while gateway.metrics.broker.dropped.get() == 0 {
            assert!(Instant::now() < end, "the inbox never overflowed");
        }
        // Each stream has a channel of its own as well, so that the inbox holds many messages
        // besides events.
        let open = |n: usize| gateway.subscribe(&format!("channel=demo&channel=own-{n}"));
        for round in 0..4 {
            let together: Vec<_> =
                (0..80).map(|n| scope.spawn(move || open(80 * round + n))).collect();
            opened.extend(together.into_iter().map(|stream| stream.join().unwrap()));
        }
        stop.store(true, Ordering::Relaxed);
        publisher.join().unwrap()
    });
    let all: Vec<String> = redis
        .command(&["XRANGE", "sse:history:demo", "-", "+"])
        .lines()
        .filter(|line| line.parse::<EventId>().is_ok())
        .map(str::to_owned)
        .collect();
    drop(first);
    for subscriber in &mut opened {
        let from = id(&subscriber.opening().id);
        let mut expected = all.iter().filter(|event| id(event) > from);
        let mut at = String::new();
        while at != last {
            at = subscriber.event().id;
            assert_eq!(Some(&at), expected.next(), "opened at {from}");
        }
    }
}

#[test]
fn a_deposed_master_that_wakes_up_acknowledges_nothing() {
    let old = Redis::start();
    let wire = Wire::to(old.addr);
    let url = format!("redis://{}", wire.addr);
    let settings = [("redis.url", url.as_str()), ("redis.answer_timeout", "500ms")];
    let gateway = TestGateway::redis(&old, &settings);
    let new = old.replica();
    let mut subscriber = gateway.live("channel=demo");
    // Opens the workers' own connections for publishing. The batch below opens one of the pool.
    for _ in 0..8 {
        let event = gateway.publish("demo", "before");
        assert_eq!(subscriber.event().id, event);
    }
    let ndjson = [("Content-Type", "application/x-ndjson")];
    let two = b"{\"channel\":\"demo\",\"data\":1}\n{\"channel\":\"demo\",\"data\":2}\n";
    assert_eq!(gateway.post("/publish", &ndjson, two).status, 200);
    eventually("it is replicated", || new.command(&["XLEN", "sse:history:demo"]) == "10");
    old.freeze();
    assert_eq!(new.command(&["REPLICAOF", "NO", "ONE"]), "OK");
    wire.move_to(new.addr);
    subscriber.event();
    subscriber.event();
    let told = gap(&subscriber.event());
    assert_eq!(told["reason"], "reset", "{told}");
    old.thaw();
    eventually("the old master is awake", || old.command(&["PING"]) == "PONG");
    let mut acknowledged = Vec::new();
    for n in 0..6 {
        acknowledged.push(gateway.publish("demo", &n.to_string()));
        let answer = gateway.post("/publish", &ndjson, two);
        assert_eq!(answer.status, 200, "{}", answer.body);
        for line in answer.body.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            acknowledged.push(line["id"].as_str().expect("an id").to_owned());
        }
    }
    for event in acknowledged {
        // If the old master were used again, a second `reset` would come first.
        assert_eq!(subscriber.event().id, event);
    }
    assert_eq!(old.command(&["XLEN", "sse:history:demo"]), "10");
}

/// The event is sent while the old master is in charge, and acknowledged after it was replaced.
#[test]
fn what_a_deposed_master_acknowledges_late_is_outcome_unknown() {
    let old = Redis::start();
    let wire = Wire::to(old.addr);
    let url = format!("redis://{}", wire.addr);
    let gateway = TestGateway::redis(&old, &[("redis.url", &url), ("redis.answer_timeout", "60s")]);
    let new = old.replica();
    let mut subscriber = gateway.live("channel=demo");
    let before = gateway.publish("demo", "before");
    assert_eq!(subscriber.event().id, before);
    old.command(&["CLIENT", "PAUSE", "100000", "WRITE"]);
    std::thread::scope(|scope| {
        let late = scope.spawn(|| gateway.post("/channels/demo", &[], b"late"));
        // The other blocked client is the tick.
        let blocked = || old.command(&["INFO", "clients"]).contains("blocked_clients:2");
        eventually("the publication waits", blocked);
        new.command(&["REPLICAOF", "NO", "ONE"]);
        wire.move_to(new.addr);
        old.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        assert_eq!(gap(&subscriber.event())["reason"], "reset");
        old.command(&["CLIENT", "UNPAUSE"]);
        let answer = late.join().unwrap();
        assert_eq!(answer.status, 503, "{}", answer.body);
        assert_eq!(answer.json()["type"], "urn:sse-gateway:publish-outcome-unknown");
    });
    let next = gateway.publish("demo", "next");
    assert_eq!(subscriber.event().id, next);
}

#[test]
fn a_publisher_that_names_its_epoch_is_refused_by_a_deposed_master() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[]);
    let first = gateway.publish("demo", "first");
    let publish = |epoch: u64| {
        let history = "sse:history:demo";
        let epoch = epoch.to_string();
        redis.command(&["FCALL", "sse_publish", "2", "sse:state", history, "x", "", &epoch])
    };
    let epoch = id(&first).epoch();
    assert_eq!(id(&publish(epoch)).epoch(), epoch);
    let refused = publish(epoch + 1);
    assert!(refused.starts_with("SSEEPOCH "), "{refused}");
    assert_eq!(redis.command(&["XLEN", "sse:history:demo"]), "2");
}

/// The epoch ended between two ticks. Redis refuses the event and writes nothing, so the gateway
/// may send it again.
#[test]
fn a_publication_into_a_new_epoch_is_sent_again_though_it_has_no_key() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[("redis.tick", "60s")]);
    gateway.publish("demo", "before");
    redis.command(&["FCALL", "sse_fence", "1", "sse:state"]);
    gateway.publish("demo", "after");
    assert_eq!(redis.command(&["XLEN", "sse:history:demo"]), "2");
}

#[test]
fn a_failover_and_back_between_two_ticks_is_told() {
    let a = Redis::start();
    let gateway = TestGateway::redis(&a, &[("redis.tick", "60s")]);
    let b = a.replica();
    let kept = a.fcall("demo", "kept");
    eventually("it is replicated", || b.command(&["XLEN", "sse:history:demo"]) == "1");
    b.command(&["REPLICAOF", "NO", "ONE"]);
    let lost = a.fcall("demo", "lost");
    let theirs = b.fcall("demo", "theirs");
    follow(&a, &b);
    assert_eq!(a.command(&["REPLICAOF", "NO", "ONE"]), "OK");
    let next = a.fcall("demo", "next");
    assert!(id(&next) > id(&lost), "nothing but the lost event tells that it is");
    let mut resumed = gateway.resumed("channel=demo", &kept);
    assert_eq!(gap(&resumed.event())["reason"], "reset");
    assert_eq!([resumed.event().id, resumed.event().id], [theirs, next]);
}

fn follow(replica: &Redis, master: &Redis) {
    master.command(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    let [host, port] = [master.addr.ip().to_string(), master.addr.port().to_string()];
    replica.command(&["REPLICAOF", &host, &port]);
    eventually("the replica is in step", || {
        replica.command(&["INFO", "replication"]).contains("master_link_status:up")
    });
}

/// The data goes back in time while the process stays, as when a hypervisor puts a machine back to
/// an earlier moment, or an operator uses RESTORE.
#[test]
fn a_roll_back_inside_one_process_is_told() {
    let redis = Redis::start_with(&["--enable-debug-command", "yes"]);
    let gateway = TestGateway::redis(&redis, &[("stream.heartbeat", "1s")]);
    let kept = redis.fcall("demo", "kept");
    assert_eq!(redis.command(&["SAVE"]), "OK");
    let mut subscriber = gateway.live("channel=demo");
    let lost = redis.fcall("demo", "lost");
    assert_eq!(subscriber.event().id, lost);
    // Only ticks raise the position of this stream, so several ticks have been heard since the lost
    // event.
    let mut young = subscriber.next();
    while id(&young.id).ms < id(&lost).ms + 500 {
        young = subscriber.next();
    }
    let reload = ["DEBUG", "RELOAD", "NOSAVE"];
    assert_eq!(redis.command(&reload), "OK");
    let next = redis.fcall("demo", "next");
    assert!(id(&next) > id(&lost), "nothing but a count of ticks tells that something is missing");
    let mut resumed = gateway.resumed("channel=demo", &kept);
    assert_eq!(gap(&resumed.event())["reason"], "reset");
    let replayed = resumed.event();
    assert_eq!(replayed.id, next, "{replayed:?}, behind kept {kept} and lost {lost}");
    // The open stream also gets the `reset`, before or after the live event, depending on the next
    // tick.
    let (told, came): (Vec<Block>, Vec<Block>) =
        [subscriber.event(), subscriber.event()].into_iter().partition(|b| b.event == "gap");
    assert_eq!((gap(&told[0])["reason"].as_str(), &came[0].id), (Some("reset"), &next));
}

#[test]
fn a_user_without_a_right_publishes_nothing_and_is_told_so() {
    let redis = Redis::start();
    drop(TestGateway::redis(&redis, &[]));
    for right in ["set", "pexpireat", "xadd"] {
        let url = user(&redis, &format!("-{right}"));
        let gateway = TestGateway::redis(&redis, &[("redis.url", &url)]);
        let channel = format!("without-{right}");
        let key = [("Idempotency-Key", "k")];
        let answer = gateway.post(&format!("/channels/{channel}"), &key, b"x");
        assert_eq!(answer.status, 403, "{right}: {}", answer.body);
        assert_eq!(answer.json()["type"], "urn:sse-gateway:publish-denied");
        assert_eq!(redis.command(&["EXISTS", &format!("sse:history:{channel}")]), "0", "{right}");
    }
}

/// An error that is not the library's own may come from the middle of a script, so nobody knows
/// what was written.
#[test]
fn an_error_that_is_not_the_librarys_own_is_outcome_unknown_and_not_repeated() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[("redis.tick", "60s")]);
    // Once this stream is open, no tick is under way that would find the other library.
    drop(gateway.live("channel=other"));
    // A foreign library, whose publish writes something and then fails.
    let odd = "#!lua name=sse\n\
        redis.register_function('sse_version', function() return 2 end)\n\
        redis.register_function('sse_publish', function(keys) redis.call('INCR', 'sse:calls') \
        return redis.error_reply('NOPERM no permission behind a publish') end)";
    redis.command(&["FUNCTION", "LOAD", "REPLACE", odd]);
    let answer = gateway.post("/channels/demo", &[("Idempotency-Key", "k")], b"x");
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(answer.json()["type"], "urn:sse-gateway:publish-outcome-unknown");
    assert_eq!(redis.command(&["GET", "sse:calls"]), "1");
}

#[test]
fn a_history_that_cannot_be_read_is_told_and_delays_nobody() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[]);
    let first = redis.fcall("demo", "first");
    let second = redis.fcall("demo", "second");
    redis.command(&["SET", "sse:history:text", "x"]);
    redis.command(&["XADD", "sse:history:long", "5-999999999999999", "data", "x"]);
    redis.command(&["XADD", "sse:history:late", "99999999999999999-1", "data", "x"]);
    for poisoned in ["text", "long", "late"] {
        let query = format!("channel={poisoned}&channel=demo");
        let mut subscriber = gateway.resumed(&query, &first);
        let told = gap(&subscriber.event());
        assert_eq!((&told["channel"], &told["reason"]), (&poisoned.into(), &"trimmed".into()));
        assert_eq!(subscriber.event().id, second, "{poisoned}");
        eventually("it is live", || gateway.sum(|c| c.joining.get()) == 0);
        let next = redis.fcall("demo", "next");
        while subscriber.event().id != next {}
        assert_eq!(gateway.resumed("channel=demo", &first).event().id, second);
    }
}

#[test]
fn a_history_that_redis_refuses_is_told_and_delays_nobody() {
    let redis = Redis::start();
    let url = user(&redis, "resetkeys ~sse:state ~sse:known:* ~sse:history:public* ~sse:idem:*");
    let gateway = TestGateway::redis(&redis, &[("redis.url", &url)]);
    let first = redis.fcall("public", "first");
    let second = redis.fcall("public", "second");
    redis.fcall("secret", "unread");
    for _ in 0..2 {
        let mut subscriber = gateway.resumed("channel=secret&channel=public", &first);
        assert_eq!(gap(&subscriber.event())["channel"], "secret");
        assert_eq!(subscriber.event().id, second);
        assert_eq!(gateway.resumed("channel=public", &first).event().id, second);
        eventually("it is live", || gateway.sum(|c| c.joining.get()) == 0);
        let live = redis.fcall("secret", "live");
        // After a cached page, the gap comes once more. And a worker may hear of the first round's
        // event only now.
        let before = |block: &Block| block.event == "gap" || id(&block.id) < id(&live);
        let next = std::iter::repeat_with(|| subscriber.event()).find(|block| !before(block));
        assert_eq!(next.unwrap().id, live);
    }
}

#[test]
fn a_frame_of_the_far_future_stops_nobody() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[]);
    let mut subscriber = gateway.live("channel=demo");
    let epoch = id(&redis.fcall("demo", "first")).epoch();
    subscriber.event();
    for ms in [9_000_000_000_000_u64, 98_000_000_000_000, 999_999_999_999_999] {
        for seq in [epoch << 16, 1] {
            let frame = format!("{ms}-{seq}\n\nforged");
            let frame = [&b"\xff\x01"[..], frame.as_bytes()].concat();
            redis.command(&[&b"PUBLISH"[..], b"sse:demo", &frame]);
            let next = redis.fcall("demo", "next");
            assert_eq!(subscriber.event().id, next, "behind {ms}-{seq}");
            assert_eq!(id(&next).epoch(), epoch);
            let fresh = redis.fcall("other", "x");
            let before = EventId { ms: id(&fresh).ms - 1, ..id(&fresh) };
            let mut opened = gateway.live("channel=other");
            assert!(id(&redis.fcall("other", "y")) > before);
            assert_eq!(opened.event().data, "y");
        }
    }
}

#[test]
fn a_cursor_of_the_far_future_stops_nobody() {
    on_both(&[], |gateway| {
        let first = gateway.publish("demo", "first");
        for cursor in ["999999999999999-1", "99999999999999-1", "5-99999999999999"] {
            let mut odd = gateway.subscribe(&format!("channel=demo&last_event_id={cursor}"));
            assert_eq!(gap(&odd.event())["reason"], "unknown_id", "{cursor}");
            let next = gateway.publish("demo", "next");
            assert_eq!(odd.event().id, next);
            assert_eq!(gateway.resumed("channel=demo", &first).event().data, "next");
        }
    });
}

/// Redis' state says whether writes survive a restart. The first gateway wrote that they do not,
/// and the setting of another gateway does not change it.
#[test]
fn one_gateways_word_for_durability_does_not_speak_for_the_others() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let first = TestGateway::redis(&redis, &[]);
    let believer = TestGateway::redis(&redis, &[("redis.durable", "true")]);
    let mut subscriber = first.live("channel=demo");
    let event = redis.fcall("demo", "first");
    assert_eq!(subscriber.event().id, event);
    redis.kill();
    redis.restart();
    assert_eq!(gap(&subscriber.event())["reason"], "reset");
    drop(believer);
}

#[test]
fn an_idle_stream_without_a_position_shows_signs_of_life() {
    let redis = Redis::start();
    let settings = [("stream.heartbeat", "1s"), ("stream.open_wait", "50ms")];
    let gateway = TestGateway::redis(&redis, &settings);
    redis.freeze();
    let mut waiting = gateway.subscribe("channel=demo");
    let alive = waiting.next();
    assert_eq!((alive.event.as_str(), alive.id.as_str()), ("alive", ""));
    let mut plain = gateway.subscribe("channel=demo&checkpoints=off");
    plain.heartbeat();
    redis.thaw();
}

/// The clients leave while they wait for the head of their response, which a frozen Redis delays.
#[test]
fn a_client_that_leaves_while_it_waits_leaves_nothing_behind() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[("stream.open_wait", "60s")]);
    redis.freeze();
    let mut waiting = Vec::new();
    for n in 0..20 {
        let mut stream = TcpStream::connect(gateway.addr).unwrap();
        let head = format!("GET /events?channel=c{n} HTTP/1.1\r\nHost: test\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        waiting.push(stream);
    }
    eventually("all wait", || gateway.sum(|c| c.subscribers.get()) == 20);
    drop(waiting);
    gateway.settled();
    redis.thaw();
}
