//! A broker with several partitions, on one Redis.

use std::process::{Command, Output};

use serde_json::{Value, json};
use sse_contract::{Channel, EventId, Keys};
use sse_lab::resp::Connection;

use super::{id, reset};
use crate::access::{JWT, bearer, token};
use crate::support::{Answer, Redis, Subscriber, TestGateway, eventually, own_addr, request};

const P: u16 = 4;
const PARTITIONS: (&str, &str) = ("redis.partitions", "4");
const NDJSON: (&str, &str) = ("Content-Type", "application/x-ndjson");

/// A channel of each partition, by the partition's number.
fn channels() -> Vec<Channel> {
    let keys = Keys::new("sse", P);
    let mut channels: Vec<Option<Channel>> = vec![None; P.into()];
    for channel in (0..100).map(|n| format!("c{n}")) {
        let of = usize::from(keys.partition(&channel));
        channels[of].get_or_insert_with(|| channel.parse().unwrap());
    }
    channels.into_iter().map(|channel| channel.expect("a hundred channels are in all")).collect()
}

fn query(channel: &Channel) -> String {
    format!("channel={channel}")
}

/// The lines that answer an NDJSON request.
fn lines(answer: &Answer) -> Vec<Value> {
    answer.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs the program with several partitions on this Redis.
fn operator(redis: &Redis, args: &[&str]) -> Output {
    let url = redis.url();
    let common = ["--redis", &url, "--set", "redis.partitions=4", "--set", "log.level=off"]
        .map(str::to_owned);
    let program = env!("CARGO_BIN_EXE_sse-gateway");
    Command::new(program).args(common).args(args).env_clear().output().expect("it runs")
}

#[test]
fn each_partition_has_its_events_live_and_in_its_history() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[PARTITIONS]);
    for (partition, channel) in channels().iter().enumerate() {
        let mut subscriber = gateway.live(&query(channel));
        let first = gateway.publish(channel.as_str(), "first");
        assert_eq!(subscriber.event().id, first);
        let live = format!("sse:{{{partition}}}:{channel}");
        redis.command(&["SPUBLISH", &live, "raw"]);
        assert_eq!(subscriber.event().data, "raw");
        let second = gateway.publish(channel.as_str(), "second");
        assert_eq!(subscriber.event().id, second);
        assert_eq!(gateway.resumed(&query(channel), &first).next().id, second);
        let kept = redis.command(&["XLEN", &format!("sse:{{{partition}}}:history:{channel}")]);
        assert_eq!(kept, "2");
        let page = request(gateway.addr, "GET", &format!("/channels/{channel}"), &[], b"");
        assert_eq!(page.json()["last_id"], second.as_str());
    }
    assert_eq!(redis.command(&["KEYS", "sse:[^{]*"]), "", "every name is in a partition");
    gateway.settled();
}

#[test]
fn as_many_partitions_as_there_may_be_are_served() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[("redis.partitions", "256")]);
    let keys = Keys::new("sse", 256);
    let names = (0..).map(|n| format!("c{n}"));
    let ends: Vec<String> =
        names.filter(|name| [0, 255].contains(&keys.partition(name))).take(4).collect();
    let query: Vec<String> = ends.iter().map(|name| format!("channel={name}")).collect();
    let mut subscriber = gateway.live(&query.join("&"));
    for name in &ends {
        gateway.publish(name, name);
        assert_eq!(subscriber.event().data, *name);
    }
    assert_eq!(gateway.admin("/readyz").status, 200);
}

#[test]
fn a_batch_over_all_partitions_is_answered_in_its_order_and_published_in_that_of_each() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[PARTITIONS]);
    let channels = channels();
    let mut subscribers: Vec<Subscriber> =
        channels.iter().map(|channel| gateway.live(&query(channel))).collect();
    // The partitions alternate, and some items are of none.
    let channel_of = |n: usize| match n % 50 {
        7 => "not a channel",
        _ => channels[[0, 2, 1, 1, 3, 0, 3][n % 7]].as_str(),
    };
    let item = |n: usize| json!({ "channel": channel_of(n), "data": n.to_string() }).to_string();
    let items: Vec<String> = (0..600).map(item).collect();
    let in_lines = lines(&gateway.post("/publish", &[NDJSON], items.join("\n").as_bytes()));
    let json = [("Content-Type", "application/json")];
    let array = format!("[{}]", items.join(","));
    let of_array = gateway.post("/publish", &json, array.as_bytes()).json()["results"].clone();
    for results in [in_lines, of_array.as_array().expect("results").clone()] {
        assert_eq!(results.len(), items.len());
        let mut expected: Vec<Vec<(String, String)>> = vec![Vec::new(); P.into()];
        for (n, result) in results.iter().enumerate() {
            assert_eq!(result["channel"], channel_of(n), "{n}: {result}");
            match result["id"].as_str() {
                Some(id) => {
                    let of = channels.iter().position(|channel| channel.as_str() == channel_of(n));
                    expected[of.unwrap()].push((id.to_owned(), n.to_string()));
                }
                None => assert_eq!(channel_of(n), "not a channel", "{result}"),
            }
        }
        for (subscriber, expected) in subscribers.iter_mut().zip(expected) {
            assert!(!expected.is_empty() && expected.is_sorted_by_key(|(text, _)| id(text)));
            for published in expected {
                let block = subscriber.event();
                assert_eq!((block.id, block.data), published);
            }
        }
    }
    drop(subscribers);
    gateway.settled();
}

/// Publishes events of all partitions in one request, two of each. Fails if one is not published.
fn publish_everywhere(gateway: &TestGateway) {
    let channels = channels();
    let item = |n: usize| json!({ "channel": channels[n % channels.len()].as_str(), "data": "x" });
    let items: Vec<Value> = (0..2 * channels.len()).map(item).collect();
    let json = [("Content-Type", "application/json")];
    let answer = gateway.post("/publish", &json, Value::from(items).to_string().as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[test]
fn a_batch_over_all_partitions_goes_to_their_server_on_one_connection() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[PARTITIONS]);
    let mut monitor = Connection::to(redis.addr);
    monitor.ask([&b"MONITOR"[..]]);
    (0..3).for_each(|_| publish_everywhere(&gateway));
    // Each line holds the address of the connection: `<time> [<db> <addr>] "FCALL" …`.
    let mut from: Vec<String> = Vec::new();
    while from.len() < 3 * usize::from(P) {
        let line = monitor.read().text().to_owned();
        if line.contains(" \"FCALL\" \"sse_publish_batch\"") {
            from.extend(line.split([' ', ']']).nth(2).map(str::to_owned));
        }
    }
    let mut batches = from.chunks(P.into());
    assert!(batches.all(|calls| calls.iter().all(|addr| *addr == calls[0])), "{from:?}");
}

#[test]
fn a_batch_over_all_partitions_brings_back_a_library_that_is_gone() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[PARTITIONS]);
    let mut subscribers: Vec<Subscriber> =
        channels().iter().map(|channel| gateway.live(&query(channel))).collect();
    redis.command(&["FUNCTION", "FLUSH"]);
    publish_everywhere(&gateway);
    for subscriber in &mut subscribers {
        assert_eq!([subscriber.event().data, subscriber.event().data], ["x", "x"]);
    }
    drop(subscribers);
    gateway.settled();
}

/// A user that may do everything but read and write the histories of partition 2.
fn user_without_histories_of_one(redis: &Redis) -> String {
    let rules = "on >secret &sse:* +@all ~sse:{0}:* ~sse:{1}:* ~sse:{3}:* ~sse:{2}:state \
                 ~sse:{2}:known:*";
    let mut setuser = vec!["ACL", "SETUSER", "gateway"];
    setuser.extend(rules.split_whitespace());
    assert_eq!(redis.command(&setuser), "OK");
    format!("redis://gateway:secret@{}", redis.addr)
}

#[test]
fn where_one_partition_takes_nothing_its_items_are_named_and_the_others_published() {
    let redis = Redis::start();
    let url = user_without_histories_of_one(&redis);
    let gateway = TestGateway::redis(&redis, &[PARTITIONS, ("redis.url", &url)]);
    let channels = channels();
    let mut subscriber = gateway.live(&query(&channels[3]));
    let items = [0, 2, 1, 2, 3, 2]
        .map(|of: usize| json!({ "channel": channels[of].as_str(), "data": "x" }).to_string());
    let answer = gateway.post("/publish", &[NDJSON], items.join("\n").as_bytes());
    let outline: Vec<(u64, bool)> = lines(&answer)
        .iter()
        .map(|result| (result["line"].as_u64().unwrap(), result["id"].is_string()))
        .collect();
    assert_eq!(
        outline,
        [(1, true), (2, false), (3, true), (4, false), (5, true), (6, false)],
        "{}",
        answer.body
    );
    assert_eq!(subscriber.event().data, "x");
}

#[test]
fn another_number_than_the_one_in_redis_is_refused_and_writes_nothing() {
    for (there, others) in [("1", ["4", "256"]), ("4", ["1", "8"])] {
        let redis = Redis::start();
        drop(TestGateway::redis(&redis, &[("redis.partitions", there)]));
        let keys = || {
            let keys = redis.command(&["KEYS", "*"]);
            let mut keys: Vec<String> = keys.lines().map(str::to_owned).collect();
            keys.sort();
            keys
        };
        let before = keys();
        for other in others {
            let settings =
                [("broker", "redis"), ("redis.url", &redis.url()), ("redis.partitions", other)];
            let error = TestGateway::try_start(&settings).err().expect("it is refused");
            let told = [
                format!("partitions: Redis holds {there}"),
                format!("configured for {other}"),
                redis.addr.to_string(),
            ];
            assert!(told.iter().all(|told| error.contains(told)), "{error}");
            assert_eq!(keys(), before, "{there} and {other}");
        }
        drop(TestGateway::redis(&redis, &[("redis.partitions", there)]));
    }
}

/// Otherwise one call with plain names would take away the live side of all gateways.
#[test]
fn a_gateway_that_runs_is_not_stopped_by_a_state_of_another_number() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[PARTITIONS]);
    let channel = &channels()[1];
    let mut subscriber = gateway.live(&query(channel));
    redis.command(&["HSET", "sse:state", "partitions", "1"]);
    redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    eventually("it has begun new sessions", || {
        gateway.metrics.broker.sessions.get() == 2 * u64::from(P)
    });
    let published = gateway.publish(channel.as_str(), "x");
    assert_eq!(subscriber.event().id, published);
}

#[test]
fn sessions_that_are_lost_in_turn_lose_no_event() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[PARTITIONS]);
    let channels = channels();
    let mut subscribers: Vec<Subscriber> =
        channels.iter().map(|channel| gateway.live(&query(channel))).collect();
    let fcall = |of: usize, data: &str| {
        let [state, history] =
            [format!("sse:{{{of}}}:state"), format!("sse:{{{of}}}:history:{}", channels[of])];
        redis.command(&["FCALL", "sse_publish", "2", &state, &history, data])
    };
    for n in 0..200 {
        if n % 50 == 25 {
            redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        }
        fcall(n % 4, &n.to_string());
    }
    for n in 0..200 {
        let block = subscribers[n % 4].event();
        assert_eq!((block.event.as_str(), block.data), ("", n.to_string()));
    }
}

#[test]
fn a_fence_begins_an_epoch_in_each_partition_and_shows_its_clock() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[PARTITIONS]);
    let mut subscribers: Vec<Subscriber> =
        channels().iter().map(|channel| gateway.live(&query(channel))).collect();
    let output = operator(&redis, &["fence"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for (partition, line) in text.lines().enumerate() {
        let begins = format!("partition {partition}: a new epoch began at ");
        let clock = line.strip_prefix(&begins).unwrap_or_else(|| panic!("{text}"));
        let state = format!("sse:{{{partition}}}:state");
        let now: EventId = id(&redis.command(&["HGET", &state, "id"]));
        assert_eq!(now.epoch(), id(clock).epoch());
    }
    assert_eq!(text.lines().count(), usize::from(P), "{text}");
    subscribers.iter_mut().for_each(|subscriber| drop(reset(subscriber)));
}

#[test]
fn a_fence_that_fails_in_one_partition_names_it_and_is_made_in_the_others() {
    let redis = Redis::start();
    drop(TestGateway::redis(&redis, &[PARTITIONS]));
    let epoch = |partition: u16| {
        id(&redis.command(&["HGET", &format!("sse:{{{partition}}}:state"), "id"])).epoch()
    };
    let before: Vec<u64> = (0..P).map(epoch).collect();
    // A tick of this partition needs no such right, because its generation is young.
    let library = redis.command(&["FUNCTION", "LIST", "WITHCODE"]);
    let code = library.split_once("#!lua").expect("the code").1;
    let broken = format!(
        "#!lua{}",
        code.replacen(
            "local function sse_fence(keys)",
            "local function sse_fence(keys) if keys[1] == 'sse:{2}:state' then return \
             redis.error_reply('ERR not here') end",
            1
        )
    );
    redis.command(&["FUNCTION", "LOAD", "REPLACE", &broken]);
    let output = operator(&redis, &["fence"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("partition 2: ") && error.contains("not here"), "{error}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");
    let after: Vec<u64> = (0..P).map(epoch).collect();
    let changed: Vec<bool> = before.iter().zip(&after).map(|(a, b)| a != b).collect();
    assert_eq!(changed, [true, true, false, true]);
}

#[test]
fn limits_are_compared_in_all_partitions_and_written_where_they_differ() {
    let redis = Redis::start();
    drop(TestGateway::redis(&redis, &[PARTITIONS]));
    let shown = |args: &[&str]| {
        let output = operator(&redis, args);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = shown(&["settings"]);
    assert!(text.starts_with("in Redis: history.max_len 1000"), "{text}");
    redis.command(&["HSET", "sse:{2}:state", "max_len", "7"]);
    let text = shown(&["settings"]);
    assert!(text.contains("in Redis, partitions 0, 1, 3: history.max_len 1000"), "{text}");
    assert!(text.contains("in Redis, partition 2: history.max_len 7,"), "{text}");
    let text = shown(&["settings", "--apply", "--yes"]);
    let written: Vec<&str> =
        text.lines().filter(|line| line.contains("written; a new epoch began at")).collect();
    assert!(matches!(written[..], [line] if line.starts_with("partition 2: ")), "{text}");
    assert_eq!(redis.command(&["HGET", "sse:{2}:state", "max_len"]), "1000");
    assert!(shown(&["settings", "--apply"]).contains("Redis holds these already"));
}

#[test]
fn a_probe_passes_through_each_partition_and_says_which_one_fails() {
    let redis = Redis::start();
    let rules = "on >secret ~sse:* +@all &sse:{0}:* &sse:{1}:* &sse:{3}:* &sse:{2}:c*";
    let mut setuser = vec!["ACL", "SETUSER", "gateway"];
    setuser.extend(rules.split(' '));
    assert_eq!(redis.command(&setuser), "OK");
    let url = format!("redis://gateway:secret@{}", redis.addr);
    let gateway = TestGateway::redis(&redis, &[PARTITIONS, ("redis.url", &url)]);
    assert_eq!(gateway.admin("/readyz").status, 200);
    let answer = gateway.admin("/healthz/broker");
    assert_eq!(answer.status, 503, "{}", answer.body);
    let why = answer.json()["detail"].as_str().unwrap().to_owned();
    let told = why.to_lowercase();
    assert!(told.contains("noperm") && told.ends_with("(partition 2)"), "{why}");
    drop(gateway);
    let gateway = TestGateway::redis(&redis, &[PARTITIONS]);
    assert_eq!(gateway.admin("/healthz/broker").status, 200);
    let ready = gateway.admin("/readyz");
    assert_eq!((ready.status, ready.json()["broker"].as_str()), (200, Some("ok")));
    for partition in 0..P {
        let pattern = format!("sse:{{{partition}}}::probe:*");
        assert_eq!(redis.command(&["PUBSUB", "SHARDCHANNELS", &pattern]).lines().count(), 1);
    }
}

#[test]
fn revocations_are_told_in_the_first_partition_and_hold_for_streams_of_all() {
    let redis = Redis::start();
    let [first, second] = [(); 2].map(|()| TestGateway::redis(&redis, &[PARTITIONS, JWT]));
    let heard = redis.command(&["PUBSUB", "SHARDNUMSUB", "sse:{0}::revoked"]);
    assert_eq!(heard, "sse:{0}::revoked\n2");
    let anna = bearer(&token(json!({ "sub": "anna", "subscribe": ["*"] })));
    let headers = [(anna.0, anna.1.as_str())];
    let mut streams: Vec<Subscriber> = channels()
        .iter()
        .map(|channel| Subscriber::open(second.addr, &query(channel), &headers))
        .collect();
    streams.iter_mut().for_each(|stream| drop(stream.opening()));
    let mut listener = sse_lab::resp::Connection::to(redis.addr);
    listener.ask([&b"SSUBSCRIBE"[..], b"sse:{0}::revoked"]);
    assert_eq!(request(first.admin, "DELETE", "/connections?subject=anna", &[], b"").status, 200);
    assert_eq!(listener.read().elements()[0].text(), "smessage");
    streams.iter_mut().for_each(|stream| drop(stream.rest()));
    assert_eq!(redis.command(&["ZCARD", "sse:{0}:revoked"]), "1");
    let refused = request(first.addr, "GET", "/events?channel=a", &headers, b"");
    assert_eq!(refused.status, 204, "{}", refused.body);
}

/// The rights that docs/redis-contract.md names, and those that every client of Redis needs.
#[test]
fn the_rights_of_the_written_contract_are_enough_for_a_gateway() {
    let redis = Redis::start();
    // Loads the library, to which the user has no right.
    drop(TestGateway::redis(&redis, &[PARTITIONS]));
    let rules = "on >secret -@all +hello +auth +client +ping \
                 +fcall +hmget +time +hset +xadd +xdel +pexpireat +spublish +get +set +unlink +hget \
                 +info +xinfo +ssubscribe +sunsubscribe +hincrby +exists +xrange +xrevrange +zrange \
                 +zadd +zremrangebyscore +getdel ~sse:{*}:state ~sse:{*}:known:* \
                 ~sse:{*}:history:* ~sse:{*}:idem:* ~sse:{0}:revoked ~sse:{*}:ticket:* &sse:{*}:*";
    let mut setuser = vec!["ACL", "SETUSER", "gateway"];
    setuser.extend(rules.split_whitespace());
    assert_eq!(redis.command(&setuser), "OK");
    let url = format!("redis://gateway:secret@{}", redis.addr);
    let settings = [PARTITIONS, JWT, ("redis.url", &url), ("redis.linger", "0s")];
    let gateway = TestGateway::redis(&redis, &settings);
    assert_eq!(gateway.admin("/healthz/broker").status, 200);
    let rights = json!({ "sub": "anna", "subscribe": ["*"], "publish": ["*"] });
    let anna = bearer(&token(rights));
    let headers = [(anna.0, anna.1.as_str())];
    for channel in channels() {
        let mut stream = Subscriber::open(gateway.addr, &query(&channel), &headers);
        stream.opening();
        let path = format!("/channels/{channel}");
        let keyed = [headers[0], ("Idempotency-Key", "k")];
        let published = gateway.post(&path, &keyed, b"x");
        assert_eq!(published.status, 200, "{}", published.body);
        assert_eq!(stream.event().id, published.json()["id"]);
        let history = request(gateway.addr, "GET", &format!("{path}/history"), &headers, b"");
        assert_eq!(history.json()["events"][0]["data"], "x");
        drop(stream);
        let left = ["PUBSUB", "SHARDCHANNELS", &format!("sse:*:{channel}")];
        eventually("the channel is left", || redis.command(&left).is_empty());
    }
    let ticket = gateway.post("/tickets", &headers, b"").json()["ticket"].clone();
    let ticket = format!("channel=a&ticket={}", ticket.as_str().expect("a ticket"));
    Subscriber::open(gateway.addr, &ticket, &[]).opening();
    let revoked = request(gateway.admin, "DELETE", "/connections?subject=anna", &[], b"");
    assert_eq!(revoked.status, 200, "{}", revoked.body);
    gateway.settled();
}

/// Redis tells subscribers of sharded channels when their slot leaves the server.
#[test]
fn a_slot_that_leaves_and_comes_back_costs_a_session_and_no_event() {
    let bus = own_addr().port().to_string();
    let args = ["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no"];
    let redis = Redis::start_with(&[&args[..], &["--cluster-port", &bus]].concat());
    assert_eq!(redis.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "OK");
    eventually("the cluster is whole", || {
        redis.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
    });
    let gateway = TestGateway::redis(&redis, &[PARTITIONS]);
    let channels = channels();
    let mut subscribers: Vec<Subscriber> =
        channels.iter().map(|channel| gateway.live(&query(channel))).collect();
    let mut published: Vec<String> =
        channels.iter().map(|channel| gateway.publish(channel.as_str(), "before")).collect();
    let slot = redis.command(&["CLUSTER", "KEYSLOT", "{1}"]);
    redis.command(&["CLUSTER", "DELSLOTS", &slot]);
    redis.command(&["CLUSTER", "ADDSLOTS", &slot]);
    eventually("the session of one partition has ended, and another one begun", || {
        gateway.metrics.broker.sessions.get() == u64::from(P) + 1
    });
    for (channel, subscriber) in channels.iter().zip(&mut subscribers) {
        let second = gateway.publish(channel.as_str(), "after");
        assert_eq!([subscriber.event().id, subscriber.event().id], [published.remove(0), second]);
    }
}
