//! Tests of publishing to a Redis Cluster, and to a master that Sentinels name.

use std::time::Duration;

use sse_contract::{Keys, MAX_BATCH};
use sse_lab::eventually;
use sse_lab::redis_cluster::RedisCluster;
use sse_lab::redis_server::RedisServer;
use sse_lab::sentinels::{NAME, Sentinels};
use sse_publish::attempt::{Answer, Target};
use sse_publish::item::{Event, Place};
use sse_publish::redis_target::RedisTarget;

use crate::cli::{Running, run, start};

/// How many partitions there are in a cluster, unless its state says otherwise.
const P: u16 = 16;
const CHANNELS: usize = 40;
const LINES: usize = 2000;

fn channel(line: usize) -> String {
    format!("c{}", line % CHANNELS)
}

/// Publishes these lines, one after the other over all channels.
fn feed(running: &mut Running, lines: std::ops::Range<usize>) {
    for line in lines {
        running.write(&format!("{{\"channel\":\"{}\",\"data\":\"{line}\"}}", channel(line)));
    }
}

/// Reads the results of these lines, which come in their order.
#[track_caller]
fn published(running: &mut Running, lines: std::ops::Range<usize>) {
    for line in lines {
        let result = running.read();
        let json: serde_json::Value = serde_json::from_str(&result).expect(&result);
        assert_eq!(json["outcome"], "published", "{result}");
        assert_eq!(json["line"], line + 1, "{result}");
    }
}

/// Publishes the lines from this one on. Their results are read on the way, or the pipes would be
/// full on both sides.
#[track_caller]
fn feed_all(running: &mut Running, mut from: usize) {
    while from < LINES {
        let to = (from + 300).min(LINES);
        feed(running, from..to);
        published(running, from..to);
        from = to;
    }
}

/// Each channel's history has its lines, each once and in order. `node` says where a channel's
/// history is.
#[track_caller]
fn assert_complete<'a>(keys: &Keys, node: impl Fn(u16) -> &'a RedisServer) {
    for n in 0..CHANNELS {
        let name = channel(n);
        let node = node(keys.slot(keys.partition(&name)));
        let history = keys.history(&name.parse().unwrap());
        let told = node.command(&["XRANGE", &history, "-", "+"]);
        let lines: Vec<&str> = told.lines().collect();
        let data: Vec<&str> = lines.chunks(3).map(|entry| entry[2]).collect();
        let expected: Vec<String> = (n..LINES).step_by(CHANNELS).map(|n| n.to_string()).collect();
        assert_eq!(data, expected, "{name}");
    }
}

/// The cluster answers the second call at once, because all of its keys are there still.
#[tokio::test]
async fn what_stands_behind_an_event_that_waits_is_not_sent() {
    let cluster = RedisCluster::start(3, false);
    let event = |key: String| Event {
        place: Place::Argument,
        channel: "orders".parse().unwrap(),
        event: None,
        data: "x".into(),
        key: key.into(),
    };
    let wait = Duration::from_secs(60);
    let mut target = RedisTarget::new(&cluster.url(), "sse", None, wait).unwrap();
    let known = event("known".to_owned());
    let first = target.send(&[&known]).await.answers;
    assert!(matches!(first[..], [Answer::Published(_)]), "{first:?}");
    let slot = Keys::new("sse", P).slot(9);
    let from = cluster.owner_by(slot, 0);
    cluster.begin_move(slot, from, (from + 1) % 3);
    let repeated = target.send(&[&known]).await.answers;
    assert_eq!(repeated, first, "its key is known");
    let new: Vec<Event> = (0..MAX_BATCH).map(|n| event(n.to_string())).collect();
    let events: Vec<&Event> = new.iter().chain([&known]).collect();
    let answers = target.send(&events).await.answers;
    assert_eq!(answers.len(), events.len());
    for answer in &answers {
        let again = matches!(answer, Answer::Again { perhaps_published: false, .. });
        assert!(again, "{answer:?}");
    }
    cluster.finish_move(slot, from, (from + 1) % 3);
    // The first attempt hears where the partition is.
    let heard = target.send(&events).await.answers;
    assert!(matches!(heard[0], Answer::Again { .. }), "{:?}", heard[0]);
    let answers = target.send(&events).await.answers;
    assert!(answers.iter().all(|answer| matches!(answer, Answer::Published(_))), "{answers:?}");
}

/// How often a node answered this error.
fn count(node: &RedisServer, code: &str) -> u64 {
    let stats = node.command(&["INFO", "errorstats"]);
    let head = format!("errorstat_{code}:count=");
    let line = stats.lines().find_map(|line| line.strip_prefix(&head));
    line.map_or(0, |count| count.trim().parse().expect("a number"))
}

#[test]
fn while_a_slot_moves_every_line_is_published_once_and_in_order() {
    let cluster = RedisCluster::start(3, false);
    let keys = Keys::new("sse", P);
    let slot = keys.slot(keys.partition(&channel(0)));
    let mut running = start(&["--ndjson", "--json", "--redis", &cluster.url()]);
    feed(&mut running, 0..500);
    published(&mut running, 0..500);
    let mut from = cluster.owner_by(slot, 0);
    for lines in [500..1000, 1000..1500] {
        let to = (from + 1) % 3;
        let told = count(&cluster.nodes[from], "TRYAGAIN");
        cluster.begin_move(slot, from, to);
        feed(&mut running, lines.clone());
        eventually("the node refuses calls, and they are repeated", || {
            count(&cluster.nodes[from], "TRYAGAIN") > told + 1
        });
        cluster.finish_move(slot, from, to);
        published(&mut running, lines);
        from = to;
    }
    feed_all(&mut running, 1500);
    let run = running.finish();
    assert_eq!(run.code, 0, "{}", run.err);
    assert!((0..3).any(|n| count(&cluster.nodes[n], "MOVED") > 0), "somebody was sent on");
    assert_complete(&keys, |slot| &cluster.nodes[cluster.owner_by(slot, 0)]);
    let busy = cluster.nodes.iter().filter(|node| node.command(&["DBSIZE"]) != "0").count();
    assert_eq!(busy, 3, "every master has partitions");
}

/// Waits until a replica has what its master has now. A failover may lose what the replica lacks.
#[track_caller]
fn in_step(replica: &RedisServer, master: &RedisServer) {
    let offset = |server: &RedisServer, field: &str| -> Option<u64> {
        let info = server.command(&["INFO", "replication"]);
        info.lines().find_map(|line| line.strip_prefix(field)?.trim().parse().ok())
    };
    let now = offset(master, "master_repl_offset:").expect("it is a master");
    eventually("the replica has every event", || {
        offset(replica, "slave_repl_offset:") >= Some(now)
    });
}

#[test]
fn while_a_master_of_a_cluster_fails_over_every_line_is_published_once_and_in_order() {
    let mut cluster = RedisCluster::start(3, true);
    let keys = Keys::new("sse", P);
    let mut running = start(&["--ndjson", "--json", "--redis", &cluster.url()]);
    feed(&mut running, 0..500);
    published(&mut running, 0..500);
    in_step(&cluster.nodes[4], &cluster.nodes[1]);
    cluster.nodes[1].kill();
    feed(&mut running, 500..900);
    published(&mut running, 500..900);
    feed_all(&mut running, 900);
    let run = running.finish();
    assert_eq!(run.code, 0, "{}", run.err);
    assert_complete(&keys, |slot| &cluster.nodes[cluster.owner_by(slot, 0)]);
    assert_ne!(cluster.nodes[4].command(&["DBSIZE"]), "0", "the replica has partitions");
}

#[test]
fn while_the_sentinels_fail_over_every_line_is_published_once_and_in_order() {
    let mut all = Sentinels::start(1, "");
    let keys = Keys::new("sse", 1);
    let mut running = start(&["--ndjson", "--json", "--redis", &all.url()]);
    feed(&mut running, 0..500);
    published(&mut running, 0..500);
    in_step(&all.servers[1], &all.servers[0]);
    all.servers[0].kill();
    feed(&mut running, 500..900);
    published(&mut running, 500..900);
    feed_all(&mut running, 900);
    let run = running.finish();
    assert_eq!(run.code, 0, "{}", run.err);
    assert_complete(&keys, |_| &all.servers[1]);
}

/// Nobody can know what became of the event that is answered READONLY. The next ones go to the new
/// master.
#[test]
fn who_is_told_readonly_asks_the_sentinels() {
    let all = Sentinels::start(1, "");
    let [old, new] = [&all.servers[0], &all.servers[1]];
    let mut running = start(&["a", "--json", "--redis", &all.url()]);
    running.write("x");
    assert!(running.read().contains("\"published\""));
    eventually("the replica has the event", || new.command(&["XLEN", "sse:history:a"]) == "1");
    // By hand, because Sentinels would also end the connections to the old master.
    let tell = |words: &[&str]| {
        all.sentinels.iter().for_each(|sentinel| assert_eq!(sentinel.command("", words), "OK"));
    };
    tell(&["SENTINEL", "REMOVE", NAME]);
    let [host, port] = [new.addr.ip().to_string(), new.addr.port().to_string()];
    assert_eq!(new.command(&["REPLICAOF", "NO", "ONE"]), "OK");
    assert_eq!(old.command(&["REPLICAOF", &host, &port]), "OK");
    tell(&["SENTINEL", "MONITOR", NAME, &host, &port, "2"]);
    running.write("y");
    let line = running.read();
    assert!(line.contains("\"unknown\"") && line.contains("READONLY"), "{line}");
    running.write("z");
    let line = running.read();
    assert!(line.contains("\"published\""), "{line}");
    assert_eq!(running.finish().code, 1, "of y nobody knows");
    assert_eq!(new.command(&["XLEN", "sse:history:a"]), "2");
}

#[test]
fn the_state_says_how_many_partitions_a_cluster_has() {
    let cluster = RedisCluster::start(3, false);
    let keys = Keys::new("sse", 8);
    let state = keys.state(0);
    let node = |slot| &cluster.nodes[cluster.owner_by(slot, 0)];
    let set = ["HSET", &state, "partitions", "8", "version", "2"];
    assert_eq!(node(keys.slot(0)).command(&set), "2");
    let url = cluster.url();
    assert_eq!(run(&["orders", "x", "--redis", &url], "").code, 0);
    let history = keys.history(&"orders".parse().unwrap());
    let there = node(keys.slot(keys.partition("orders"))).command(&["XLEN", &history]);
    assert_eq!(there, "1");
    let other = run(&["orders", "x", "--redis", &url, "--partitions", "4"], "");
    assert_eq!(other.code, 2, "{}", other.err);
    let told = "this Redis holds 8 partitions (sse:{0}:state), --partitions says 4";
    assert!(other.err.contains(told), "{}", other.err);
    let one = run(&["orders", "x", "--redis", &url, "--partitions", "1"], "");
    assert!(one.code != 0 && one.err.contains("--partitions 1"), "{}", one.err);
}

#[test]
fn what_is_wrong_with_a_cluster_is_named() {
    let alone = RedisServer::start();
    let empty = RedisServer::start_with(&["--cluster-enabled", "yes", "--cluster-port", "16999"]);
    let cluster = RedisCluster::start(3, false);
    let of = |server: &RedisServer| format!("redis+cluster://{}", server.addr);
    for (url, told) in [
        (of(&alone), format!("{}: it is not a node of a Redis Cluster", alone.addr)),
        (of(&empty), format!("{}: no node owns slot", empty.addr)),
        (
            cluster.url().replace("//", "//nobody:hunter2@"),
            format!("{}: Redis refuses: ", cluster.nodes[0].addr),
        ),
        (cluster.nodes[0].url(), "write redis+cluster://, not redis://".to_owned()),
    ] {
        let run = run(&["a", "x", "--redis", &url], "");
        assert!(run.err.contains(&told), "{told}: {}", run.err);
        assert_eq!(run.code, 2, "{}", run.err);
        assert!(!run.err.contains("hunter2"), "{}", run.err);
    }
    // One seed that is right is enough.
    let both = format!("{},{}", of(&alone), cluster.nodes[2].addr);
    assert_eq!(run(&["a", "x", "--redis", &both], "").code, 0);
    // One master of several has another password.
    let at = cluster.owner_by(Keys::new("sse", P).slot(9), 0);
    assert_eq!(
        cluster.nodes[at].command(&["ACL", "SETUSER", "u", "on", ">other", "~*", "&*", "+@all"]),
        "OK"
    );
    for node in cluster.nodes.iter().filter(|node| node.addr != cluster.nodes[at].addr) {
        assert_eq!(
            node.command(&["ACL", "SETUSER", "u", "on", ">right", "~*", "&*", "+@all"]),
            "OK"
        );
    }
    let url = cluster.url().replace("//", "//u:right@");
    let run = run(&["orders", "x", "--redis", &url], "");
    assert_eq!(run.code, 2, "{}", run.err);
    let told = format!("{}: Redis refuses: ", cluster.nodes[at].addr);
    assert!(run.err.contains(&told) && !run.err.contains("right"), "{}", run.err);
}

#[test]
fn what_is_wrong_with_sentinels_is_named() {
    let all = Sentinels::start(0, "secret");
    let with = |more: &str, name: &str| all.url().replace(NAME, &format!("{name}{more}"));
    let right = with("?sentinel_password=secret", NAME);
    assert_eq!(run(&["a", "x", "--redis", &right], "").code, 0);
    let alone = RedisServer::start();
    for (url, told) in [
        (
            with("?sentinel_password=secret", "other"),
            format!("{}: it knows no master named \"other\"", all.sentinels[1].addr),
        ),
        (with("", NAME), format!("{}: Redis refuses: NOAUTH", all.sentinels[1].addr)),
        (
            with("?sentinel_password=hunter2", NAME),
            format!("{}: Redis refuses: ", all.sentinels[1].addr),
        ),
        (
            right.replace("//", "//nobody:hunter2@"),
            format!("the master {}: Redis refuses: ", all.servers[0].addr),
        ),
        (format!("redis+sentinel://{}/{NAME}", alone.addr), alone.addr.to_string()),
    ] {
        let run = run(&["a", "x", "--redis", &url], "");
        assert!(run.err.contains(&told), "{told}: {}", run.err);
        assert_eq!(run.code, 2, "{}", run.err);
        assert!(!run.err.contains("hunter2"), "{}", run.err);
    }
}
