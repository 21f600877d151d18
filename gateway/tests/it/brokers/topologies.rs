//! A master that Sentinels name, and Redis Clusters: where the gateway finds its servers, and what
//! its clients notice when these change.

use sse_contract::{Cursor, Keys};
use sse_lab::redis_cluster::RedisCluster;
use sse_lab::redis_server::RedisServer;
use sse_lab::sentinels::Sentinels;

use super::spanning::{channels_of, query};
use crate::support::{Redis, TestGateway, eventually};

/// How many partitions there are in a cluster, if the configuration does not say.
const P: u16 = 16;

fn start(url: &str, settings: &[(&str, &str)]) -> Result<TestGateway, String> {
    let common = [
        ("broker", "redis"),
        ("redis.url", url),
        ("redis.tick", "100ms"),
        ("redis.reconnect_max", "200ms"),
    ];
    TestGateway::try_start(&[&common, settings].concat())
}

fn gateway(url: &str) -> TestGateway {
    start(url, &[]).unwrap_or_else(|error| panic!("the gateway does not start: {error}"))
}

#[test]
fn after_a_failover_the_gateway_follows_the_sentinels() {
    let mut all = Sentinels::start(1, "");
    let gateway = gateway(&all.url());
    let mut subscriber = gateway.live("channel=a");
    gateway.publish("a", "before");
    assert_eq!(subscriber.event().data, "before");
    all.servers[0].kill();
    let gap = subscriber.event();
    assert!(gap.event == "gap" && gap.data.contains("reset"), "{gap:?}");
    eventually("the new master takes events", || {
        gateway.post("/channels/a", &[], b"after").status == 200
    });
    while subscriber.event().data != "after" {}
    eventually("the probes go there, too", || !gateway.admin("/readyz").body.contains("does not"));
}

/// The old master still takes writes, and will lose them.
#[test]
fn a_master_that_is_deposed_while_it_lives_is_left_at_once() {
    let all = Sentinels::start(1, "");
    let gateway = gateway(&all.url());
    let mut subscriber = gateway.live("channel=a");
    let forced = all.sentinels[1].command("", &["SENTINEL", "FAILOVER", "mymaster"]);
    assert_eq!(forced, "OK");
    let gap = subscriber.event();
    assert!(gap.event == "gap" && gap.data.contains("reset"), "{gap:?}");
    eventually("the new master takes events", || {
        gateway.post("/channels/a", &[], b"after").status == 200
    });
    let kept = all.servers[1].command(&["XLEN", "sse:history:a"]);
    assert_ne!(kept, "0", "the events are at the new master");
}

/// A Sentinel that stands still, or knows only an old master, misleads nobody.
#[test]
fn sentinels_that_are_away_cost_nothing_while_most_are_there() {
    let mut all = Sentinels::start(1, "");
    all.sentinels[0].kill();
    let gateway = gateway(&all.url());
    let mut subscriber = gateway.live("channel=a");
    gateway.publish("a", "x");
    assert_eq!(subscriber.event().data, "x");
}

#[test]
fn what_is_wrong_with_sentinels_is_named() {
    let all = Sentinels::start(0, "secret");
    let with = |more: &str, name: &str| all.url().replace("mymaster", &format!("{name}{more}"));
    drop(gateway(&with("?sentinel_password=secret", "mymaster")));
    let alone = Redis::start();
    for (url, words) in [
        (with("?sentinel_password=secret", "other"), "it knows no master named \"other\""),
        (with("", "mymaster"), "NOAUTH"),
        (with("?sentinel_password=wrong", "mymaster"), "WRONGPASS"),
        (format!("redis+sentinel://{}/mymaster", alone.addr), &*alone.addr.to_string()),
        ("redis+sentinel://127.0.0.1:1/mymaster".into(), "127.0.0.1:1: Connection refused"),
    ] {
        let error = start(&url, &[]).map(drop).unwrap_err();
        assert!(error.contains(words) && error.contains("Sentinel"), "{url}: {error}");
    }
}

#[test]
fn a_cluster_serves_streams_over_all_its_masters() {
    let cluster = RedisCluster::start(3, false);
    let gateway = gateway(&cluster.url());
    let channels = channels_of(P);
    let mut subscriber = gateway.live(&query(&channels));
    for channel in &channels {
        let published = gateway.publish(channel, channel);
        let block = subscriber.event();
        assert_eq!(block.data, *channel);
        let Ok(Cursor::Several(positions)) = block.id.parse() else { panic!("{block:?}") };
        let partition = Keys::new("sse", P).partition(channel);
        assert_eq!(positions.of(partition).map(|id| id.to_string()), Some(published));
    }
    assert_eq!(gateway.admin("/readyz").status, 200);
    let busy = cluster.nodes.iter().filter(|node| node.command(&["DBSIZE"]) != "0").count();
    assert_eq!(busy, 3, "every master has partitions");
    drop(subscriber);
    gateway.settled();
}

/// Key by key, as operators do it, while events are published: nothing is lost, and nothing is
/// told.
#[test]
fn a_partition_that_moves_under_load_loses_nothing_and_tells_nothing() {
    let mut cluster = RedisCluster::start(3, false);
    let gateway = start(&cluster.url(), &[("redis.tick", "100ms")]).unwrap();
    let (keys, channels) = (Keys::new("sse", P), channels_of(P));
    let mut subscriber = gateway.live(&query(&channels));
    let fourth = cluster.add();
    let slot = keys.slot(9);
    let mut at = cluster.owner_by(slot, 0);
    // A master that gives its last slot away becomes a replica at once.
    cluster.move_slot(slot + 1, cluster.owner_by(slot + 1, 0), fourth);
    // A node that has run for longer than a gateway's last tick is known to be the same as before.
    eventually("the fourth node has run for some seconds", || {
        let info = cluster.nodes[fourth].command(&["INFO", "server"]);
        let uptime = info.lines().find_map(|line| line.strip_prefix("uptime_in_seconds:"));
        uptime.unwrap().trim().parse::<u32>().unwrap() > 3
    });
    let (mut sent, mut seen) = (0, vec![0; usize::from(P)]);
    for to in [(at + 1) % 3, fourth, (at + 2) % 3] {
        std::thread::scope(|scope| {
            let moves = scope.spawn(|| cluster.move_slot(slot, at, to));
            let mut more = 0;
            // Some after the move, so that its end is seen, too.
            while more < 50 {
                more += usize::from(moves.is_finished());
                let channel = &channels[if sent % 2 == 0 { 9 } else { sent % usize::from(P) }];
                let data = sent.to_string();
                eventually("the event is taken", || {
                    let answer =
                        gateway.post(&format!("/channels/{channel}"), &[], data.as_bytes());
                    assert!([200, 503].contains(&answer.status), "{}", answer.body);
                    assert!(!answer.body.contains("unknown"), "{}", answer.body);
                    answer.status == 200
                });
                sent += 1;
            }
        });
        at = to;
    }
    for _ in 0..sent {
        let block = subscriber.event();
        assert_eq!(block.event, "", "{block:?}");
        let n: usize = block.data.parse().unwrap();
        let partition = if n.is_multiple_of(2) { 9 } else { n % usize::from(P) };
        assert!(n >= seen[partition], "in order");
        seen[partition] = n;
    }
}

/// How often a node answered this error.
fn count(node: &RedisServer, code: &str) -> u64 {
    let stats = node.command(&["INFO", "errorstats"]);
    let head = format!("errorstat_{code}:count=");
    let line = stats.lines().find_map(|line| line.strip_prefix(&head));
    line.map_or(0, |count| count.split([',', '\r']).next().unwrap().parse().expect("a number"))
}

/// No request has an idempotency key, and no client repeats one.
#[test]
fn who_publishes_while_a_partition_moves_notices_nothing() {
    let cluster = RedisCluster::start(3, false);
    // The slot is half moved for as long as this test needs to see so.
    let gateway = start(&cluster.url(), &[("redis.request_timeout", "60s")]).unwrap();
    let (keys, channels) = (Keys::new("sse", P), channels_of(P));
    let (old, slot) = (&channels[9], keys.slot(9));
    gateway.publish(old, "0");
    let json = [("Content-Type", "application/json")];
    let one = |channel: &str| {
        let answer = gateway.post(&format!("/channels/{channel}"), &[], b"x");
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    // A channel that is new while the slot is half moved is refused by both nodes.
    let new = |n: usize| format!("new{n}:{{{old}}}");
    let many = |n: usize| {
        let items = format!(
            r#"[{{"channel":"{old}","data":"1"}},{{"channel":"{}","data":"2"}},
                {{"channel":"{}","data":"3"}}]"#,
            new(n),
            channels[0]
        );
        let answer = gateway.post("/publish", &json, items.as_bytes());
        let results = answer.json()["results"].clone();
        let all = results.as_array().expect("results").iter().all(|item| item["id"].is_string());
        assert!(answer.status == 200 && all, "{results}");
    };
    let mut from = cluster.owner_by(slot, 0);
    for turn in 0..3 {
        let to = (from + 1) % 3;
        let refused = || count(&cluster.nodes[from], "TRYAGAIN");
        let before = refused();
        cluster.begin_move(slot, from, to);
        std::thread::scope(|scope| {
            scope.spawn(|| one(&new(100 + turn)));
            scope.spawn(|| many(turn));
            let old = scope.spawn(|| (0..30).for_each(|_| one(old)));
            // Each of two publications is refused more often than other failures are repeated.
            eventually("the publications are repeated", || refused() >= before + 12);
            cluster.finish_move(slot, from, to);
            old.join().unwrap();
        });
        (0..10).for_each(|_| one(old));
        from = to;
    }
    for n in 0..3 {
        let node = &cluster.nodes[from];
        for channel in [new(n), new(100 + n)] {
            let history = keys.history(&channel.parse().unwrap());
            assert_eq!(node.command(&["XLEN", &history]), "1", "{channel}");
        }
    }
    let history = keys.history(&old.parse().unwrap());
    assert_eq!(cluster.nodes[from].command(&["XLEN", &history]), (1 + 3 * (1 + 40)).to_string());
}

#[test]
fn the_clients_of_other_masters_notice_nothing_of_a_failover() {
    let mut cluster = RedisCluster::start(3, true);
    let gateway = gateway(&cluster.url());
    let (keys, channels) = (Keys::new("sse", P), channels_of(P));
    let at = |partition| cluster.owner_by(keys.slot(partition), 0);
    let (here, there): (Vec<u16>, Vec<u16>) = (0..P).partition(|partition| at(*partition) == 1);
    let of = |partitions: &[u16]| -> Vec<String> {
        partitions.iter().map(|partition| channels[usize::from(*partition)].clone()).collect()
    };
    let (here, there) = (of(&here), of(&there));
    let mut failed = gateway.live(&query(&here[..1]));
    let mut others = gateway.live(&query(&there));
    let mut both = gateway.live(&query(&channels));
    cluster.nodes[1].kill();
    eventually("a publish in the partitions of the dead master is refused", || {
        gateway.post(&format!("/channels/{}", here[0]), &[], b"x").status == 503
    });
    for channel in &there {
        gateway.publish(channel, channel);
        assert_eq!(others.event().data, *channel);
        assert_eq!(both.event().data, *channel);
    }
    eventually("the replica takes events", || {
        gateway.post(&format!("/channels/{}", here[0]), &[], b"after").status == 200
    });
    for subscriber in [&mut failed, &mut both] {
        let mut told = false;
        loop {
            let block = subscriber.event();
            told |= block.event == "gap" && block.data.contains("reset");
            if block.data == "after" {
                break;
            }
        }
        assert!(told, "before the first event of the new epoch");
    }
    gateway.publish(&there[0], "still");
    assert_eq!(others.event().data, "still");
}

#[test]
fn a_stream_opens_although_one_master_is_away() {
    let mut cluster = RedisCluster::start(3, false);
    let gateway = start(&cluster.url(), &[("stream.open_wait", "1s")]).unwrap();
    let (keys, channels) = (Keys::new("sse", P), channels_of(P));
    let dead = (0..P).find(|partition| cluster.owner_by(keys.slot(*partition), 0) == 2).unwrap();
    let alive = (0..P).find(|partition| cluster.owner_by(keys.slot(*partition), 0) != 2).unwrap();
    let no_full_coverage = ["CONFIG", "SET", "cluster-require-full-coverage", "no"];
    cluster.nodes.iter().for_each(|node| assert_eq!(node.command(&no_full_coverage), "OK"));
    cluster.nodes[2].kill();
    let name = |partition: u16| channels[usize::from(partition)].clone();
    eventually("the master is missed", || {
        gateway.post(&format!("/channels/{}", name(dead)), &[], b"x").status == 503
    });
    let mut subscriber = gateway.live(&query(&[name(dead), name(alive)]));
    gateway.publish(&name(alive), "x");
    assert_eq!(subscriber.event().data, "x");
    // Items of the dead partitions fail, the others are published.
    let items = format!(
        r#"[{{"channel":"{}","data":"1"}},{{"channel":"{}","data":"2"}}]"#,
        name(dead),
        name(alive)
    );
    let json = [("Content-Type", "application/json")];
    let results = gateway.post("/publish", &json, items.as_bytes()).json()["results"].clone();
    assert!(results[0]["id"].is_null() && results[1]["id"].is_string(), "{results}");
    assert_eq!(subscriber.event().data, "2");
    cluster.nodes[2].restart();
    let gap = subscriber.event();
    assert!(gap.event == "gap" && gap.data.contains("late"), "{gap:?}");
    assert!(gap.data.contains(&name(dead)) && !gap.data.contains(&name(alive)), "{gap:?}");
}

#[test]
fn what_is_wrong_with_a_cluster_is_named() {
    let alone = Redis::start();
    let error = start(&format!("redis+cluster://{}", alone.addr), &[]).map(drop).unwrap_err();
    assert!(error.contains("it is not a node of a Redis Cluster"), "{error}");
    let cluster = RedisCluster::start(3, false);
    let error = start(&cluster.url(), &[("redis.partitions", "1")]).map(drop).unwrap_err();
    assert!(error.contains("redis.partitions"), "{error}");
    drop(gateway(&cluster.url()));
    let error = start(&cluster.url(), &[("redis.partitions", "8")]).map(drop).unwrap_err();
    assert!(error.contains("16") && error.contains('8'), "{error}");
    // A node without slots.
    let empty = RedisServer::start_with(&["--cluster-enabled", "yes", "--cluster-port", "16999"]);
    let error = start(&format!("redis+cluster://{}", empty.addr), &[]).map(drop).unwrap_err();
    assert!(error.contains("no node owns slot"), "{error}");
    let across = cluster.nodes[0].command(&[
        "FCALL",
        "sse_publish",
        "2",
        "sse:{1}:state",
        "sse:{2}:history:a",
        "x",
    ]);
    assert!(across.starts_with("CROSSSLOT") || across.starts_with("MOVED"), "{across}");
}
