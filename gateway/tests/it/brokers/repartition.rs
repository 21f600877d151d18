//! The command `sse-gateway partitions`, which changes the number of partitions.

use std::process::{Command, Output};

use serde_json::json;
use sse_contract::Keys;
use sse_lab::redis_cluster::RedisCluster;
use sse_lab::sentinels::Sentinels;

use super::spanning::channels_of;
use super::{id, reset};
use crate::access::{JWT, bearer, token};
use crate::support::{Redis, Subscriber, TestGateway, eventually, request};

/// The tick of the command, which waits for a little over two of them.
const TICK: &str = "redis.tick=100ms";

fn run(url: &str, args: &[&str]) -> Output {
    let common = ["--redis", url, "--set", TICK, "--set", "log.level=off"];
    let program = env!("CARGO_BIN_EXE_sse-gateway");
    Command::new(program).args(common).args(args).env_clear().output().expect("it runs")
}

/// Changes the number and returns what is printed.
#[track_caller]
fn change(url: &str, to: u16) -> String {
    let output = run(url, &["partitions", "--to", &to.to_string(), "--yes"]);
    assert!(output.status.success(), "to {to}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the exit status and the error.
#[track_caller]
fn refused(url: &str, args: &[&str]) -> (i32, String) {
    let output = run(url, args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error.lines().count(), 1, "one line: {error}");
    (output.status.code().unwrap(), error)
}

fn gateway(redis: &Redis, partitions: u16) -> TestGateway {
    TestGateway::redis(redis, &[("redis.partitions", &partitions.to_string())])
}

fn states(partitions: u16) -> Vec<String> {
    let keys = Keys::new("sse", partitions);
    (0..partitions).map(|partition| keys.state(partition)).collect()
}

/// All keys, sorted.
fn keys(redis: &Redis) -> Vec<String> {
    let mut keys: Vec<String> = redis.command(&["KEYS", "*"]).lines().map(str::to_owned).collect();
    keys.sort();
    keys
}

/// What does not expire must be of this number.
#[track_caller]
fn only(redis: &Redis, partitions: u16) {
    let names = Keys::new("sse", partitions);
    let mut expected = states(partitions);
    expected.extend((0..partitions).map(|partition| names.known(partition, 1)));
    expected.sort();
    let lasting = |key: &String| redis.command(&["PTTL", key]) == "-1";
    assert_eq!(keys(redis).into_iter().filter(lasting).collect::<Vec<_>>(), expected);
    for state in states(partitions) {
        let number = redis.command(&["HGET", &state, "partitions"]);
        assert_eq!(number, partitions.to_string(), "{state}");
    }
}

/// The state of a partition and its witness vanish.
fn take(redis: &Redis, partitions: u16, partition: u16) {
    let names = Keys::new("sse", partitions);
    let [state, known] = [names.state(partition), names.known(partition, 1)];
    assert_eq!(redis.command(&["DEL", &state, &known]), "2");
}

#[test]
fn clients_that_come_back_are_told_once_and_then_miss_nothing() {
    let redis = Redis::start();
    let channel = &channels_of(4)[1];
    let query = format!("channel={channel}");
    let mut before: Option<(u16, String)> = None;
    for number in [1, 4, 1, 4, 8] {
        if let Some((old, _)) = &before {
            let told = change(&redis.url(), number);
            assert!(told.contains(&format!("in Redis: {old} (")), "{told}");
            assert!(told.contains(&format!("redis.partitions = {number}")), "{told}");
            only(&redis, number);
            let settings = [
                ("broker", "redis"),
                ("redis.url", &*redis.url()),
                ("redis.partitions", &*old.to_string()),
            ];
            let error = TestGateway::try_start(&settings).err().expect("it is refused");
            assert!(error.contains(&format!("Redis holds {number}")), "{error}");
        }
        let clock = redis.command(&["HGET", &states(number)[0], "id"]);
        let gateway = gateway(&redis, number);
        if let Some((_, before)) = before {
            let header = [("Last-Event-ID", before.as_str())];
            let mut resumed = Subscriber::open(gateway.addr, &query, &header);
            reset(&mut resumed);
            let published = ["a", "b"].map(|data| gateway.publish(channel, data));
            let mut heard = || loop {
                let block = resumed.next();
                assert_ne!(block.event, "gap", "{block:?}");
                if ["a", "b"].contains(&&*block.data) && published.contains(&block.id) {
                    return block.id;
                }
            };
            assert_eq!([heard(), heard()], published);
            let now = redis.command(&["HGET", &states(number)[0], "id"]);
            assert_eq!(id(&now).epoch(), id(&clock).epoch(), "the gateway began no epoch");
        }
        before = Some((number, gateway.publish(channel, "x")));
    }
}

/// A clock that was ahead of the time has given out ids that no new clock may give out again.
#[test]
fn new_clocks_are_above_the_old_ones() {
    let redis = Redis::start();
    drop(gateway(&redis, 4));
    let [now, _] = id_and_limit(&redis, "sse:{2}:state");
    let ahead = format!("{}-{}", id(&now).ms + 3_600_000, id(&now).seq);
    redis.command(&["HSET", "sse:{2}:state", "id", &ahead]);
    change(&redis.url(), 8);
    for state in states(8) {
        assert!(id(&id_and_limit(&redis, &state)[0]).ms > id(&ahead).ms, "{state}");
    }
}

fn id_and_limit(redis: &Redis, state: &str) -> [String; 2] {
    ["id", "max_len"].map(|field| redis.command(&["HGET", state, field]))
}

#[test]
fn the_limits_in_redis_are_kept() {
    let redis = Redis::start();
    drop(TestGateway::redis(&redis, &[("history.max_len", "7")]));
    let told = change(&redis.url(), 4);
    assert!(told.contains("history.max_len 7"), "{told}");
    for state in states(4) {
        assert_eq!(id_and_limit(&redis, &state)[1], "7", "{state}");
    }
}

#[test]
fn a_gateway_that_runs_is_found_and_nothing_is_changed() {
    let redis = Redis::start();
    let running = gateway(&redis, 4);
    let before = keys(&redis);
    // The last of two equal settings counts.
    let args = ["--set", "redis.tick=1s", "partitions", "--to", "8", "--yes"];
    let (code, error) = refused(&redis.url(), &args);
    assert_eq!(code, 1, "{error}");
    for part in ["nothing is changed", "a gateway still runs", "partition 0 (sse:{0}:state)"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(keys(&redis), before);
    drop(running);
    change(&redis.url(), 8);
    only(&redis, 8);
}

#[test]
fn who_is_revoked_stays_so_in_both_directions() {
    let redis = Redis::start();
    let with =
        |number: u16| TestGateway::redis(&redis, &[JWT, ("redis.partitions", &number.to_string())]);
    let [anna, bert, carl] = ["anna", "bert", "carl"].map(|subject| {
        bearer(&token(json!({ "sub": subject, "subscribe": ["*"], "publish": ["*"] })))
    });
    let status = |gateway: &TestGateway, (name, value): &(&str, String)| {
        let path = "/channels/a/history";
        request(gateway.addr, "GET", path, &[(name, value)], b"").status
    };
    let revoke = |gateway: &TestGateway, subject: &str| {
        let path = format!("/connections?subject={subject}");
        assert_eq!(request(gateway.admin, "DELETE", &path, &[], b"").status, 200);
    };
    let first = with(1);
    revoke(&first, "anna");
    drop(first);
    // It expired, and Redis has not removed it yet.
    redis.command(&["ZADD", "sse:revoked", "1", "subject|1|1|dora"]);
    // One that is there already, and for longer than in the old set.
    let member = redis.command(&["ZRANGE", "sse:revoked", "-1", "-1"]);
    redis.command(&["ZADD", "sse:{0}:revoked", "99999999999999", &member]);
    let told = change(&redis.url(), 4);
    assert!(told.contains("revocations: 1 copied from sse:revoked to sse:{0}:revoked"), "{told}");
    assert_eq!(redis.command(&["ZRANGE", "sse:{0}:revoked", "0", "-1"]), member);
    assert_eq!(redis.command(&["ZSCORE", "sse:{0}:revoked", &member]), "99999999999999");
    assert_eq!(redis.command(&["PEXPIRETIME", "sse:{0}:revoked"]), "99999999999999");
    let second = with(4);
    eventually("anna is refused", || status(&second, &anna) != 200);
    revoke(&second, "bert");
    drop(second);
    let told = change(&redis.url(), 8);
    assert!(told.contains("revocations: they stay in sse:{0}:revoked"), "{told}");
    change(&redis.url(), 1);
    let third = with(1);
    eventually("both are refused", || {
        [&anna, &bert].iter().all(|revoked| status(&third, revoked) != 200)
    });
    assert_eq!(status(&third, &carl), 200);
}

#[test]
fn a_second_call_finishes_what_was_interrupted() {
    let redis = Redis::start();
    let url = redis.url();
    drop(gateway(&redis, 4));
    // Some old states are deleted.
    take(&redis, 4, 3);
    take(&redis, 4, 2);
    assert!(change(&url, 1).contains("partition 1: the old states are deleted"));
    only(&redis, 1);
    // All old states are deleted, and no new one is there.
    take(&redis, 1, 0);
    redis.command(&["ZADD", "sse:revoked", "99999999999999", "subject|1|1|anna"]);
    redis.command(&["PEXPIREAT", "sse:revoked", "99999999999999"]);
    let told = change(&url, 4);
    assert!(told.contains("in Redis: none") && told.contains("1 copied"), "{told}");
    only(&redis, 4);
    assert_eq!(redis.command(&["ZCARD", "sse:{0}:revoked"]), "1");
    // The first of the new states is there.
    for partition in 1..4 {
        take(&redis, 4, partition);
    }
    let clock = || redis.command(&["HGET", "sse:{0}:state", "id"]);
    let before = clock();
    let told = change(&url, 4);
    assert!(told.contains("partitions 1-3: created"), "{told}");
    only(&redis, 4);
    assert_eq!(clock(), before);
    // The first of the old states is deleted, which the command never does before the others.
    take(&redis, 4, 0);
    change(&url, 8);
    only(&redis, 8);
}

#[test]
fn the_number_is_shown_and_the_same_one_changes_nothing() {
    let redis = Redis::start();
    let url = redis.url();
    let shown = |args: &[&str]| {
        let output = run(&url, args);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = shown(&["partitions"]);
    assert!(text.starts_with("in Redis: none"), "{text}");
    assert!(text.contains("configured: 1 (redis.partitions, the default)"), "{text}");
    assert_eq!(keys(&redis).len(), 0);
    let running = gateway(&redis, 4);
    let text = shown(&["--set", "redis.partitions=8", "partitions"]);
    assert!(text.contains("in Redis: 4 (sse:{0}:state)\nconfigured: 8 (redis.part"), "{text}");
    assert!(text.contains("flag --set redis.partitions"), "{text}");
    let epoch = || id(&redis.command(&["HGET", "sse:{0}:state", "id"])).epoch();
    let before = (keys(&redis), epoch());
    assert!(shown(&["partitions", "--to", "4"]).contains("nothing is changed"));
    assert_eq!((keys(&redis), epoch()), before);
    drop(running);
    // Nobody can be asked here.
    let (code, error) = refused(&url, &["partitions", "--to", "8"]);
    assert!(
        code == 1 && error.contains("nothing is written") && error.contains("--yes"),
        "{error}"
    );
    assert_eq!((keys(&redis), epoch()), before);
}

#[test]
fn in_a_cluster_each_masters_share_is_shown() {
    let cluster = RedisCluster::start(3, false);
    for (number, uneven) in [(16, false), (2, true)] {
        let configured = format!("redis.partitions={number}");
        let output = run(&cluster.url(), &["--set", &configured, "partitions"]);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        for (n, node) in cluster.nodes.iter().enumerate() {
            let owns = |p: &u16| {
                let slot = cluster.slot(&format!("sse:{{{p}}}:state"));
                cluster.owner_by(slot, 0) == n
            };
            let share = match (0..number).filter(owns).count() {
                0 => "none\n".to_owned(),
                count => format!("{count}: partition"),
            };
            assert!(text.contains(&format!("{} has {share}", node.addr)), "{share}: {text}");
        }
        assert_eq!(text.contains("that is uneven"), uneven, "{text}");
    }
}

#[test]
fn numbers_that_cannot_be_are_refused_and_so_is_the_memory_broker() {
    let redis = Redis::start();
    for number in ["0", "257", "-1", "four"] {
        let arg = format!("--to={number}");
        let output = run(&redis.url(), &["partitions", &arg, "--yes"]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{error}");
        assert!(error.contains(number) && error.contains("--to"), "{error}");
    }
    assert_eq!(keys(&redis).len(), 0);
    let program = env!("CARGO_BIN_EXE_sse-gateway");
    for args in [&["partitions"][..], &["partitions", "--to", "4", "--yes"]] {
        let output = Command::new(program).args(args).env_clear().output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("the broker is \"memory\""), "{error}");
    }
}

/// Lets in a user with these rights.
fn user(redis: &Redis, rules: &str) -> String {
    let mut setuser = vec!["ACL", "SETUSER", "operator", "on", ">secret"];
    setuser.extend(rules.split_whitespace());
    assert_eq!(redis.command(&setuser), "OK");
    format!("redis://operator:secret@{}", redis.addr)
}

#[test]
fn an_error_names_the_server_and_the_partition_and_comes_before_a_change() {
    for (old, new, without) in
        [(1, 4, "sse:{2}:state"), (4, 1, "sse:{2}:state"), (1, 4, "sse:state")]
    {
        let redis = Redis::start();
        drop(gateway(&redis, old));
        let before = keys(&redis);
        let all = ["sse:state", "sse:{0}:state", "sse:{1}:state", "sse:{2}:state", "sse:{3}:state"];
        let allowed = all.iter().filter(|key| **key != without).map(|key| format!("~{key} "));
        let url = user(&redis, &format!("+@all ~*known* {}", allowed.collect::<String>()));
        let (code, error) = refused(&url, &["partitions", "--to", &new.to_string(), "--yes"]);
        assert_eq!(code, 1, "{error}");
        let partition = if without == "sse:state" { 0 } else { 2 };
        for part in
            [&redis.addr.to_string(), &format!("partition {partition} ({without})"), "NOPERM"]
        {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert_eq!(keys(&redis), before);
    }
}

/// The rights that docs/redis-contract.md names.
#[test]
fn the_rights_of_the_written_contract_are_enough() {
    let redis = Redis::start();
    drop(gateway(&redis, 1));
    redis.command(&["ZADD", "sse:revoked", "99999999999999", "subject|1|1|anna"]);
    let rules = "-@all +hello +auth +client +hmget +hset +hincrby +unlink +fcall +time +info \
                 +zrange +zadd +pexpireat +watch +multi +exec \
                 ~sse:state ~sse:known:* ~sse:revoked \
                 ~sse:{*}:state ~sse:{*}:known:* ~sse:{0}:revoked";
    let url = user(&redis, rules);
    assert!(change(&url, 4).contains("1 copied"));
    only_but_revocations(&redis, 4);
    change(&url, 1);
    only_but_revocations(&redis, 1);
}

fn only_but_revocations(redis: &Redis, partitions: u16) {
    redis.command(&["DEL", "sse:revoked", "sse:{0}:revoked"]);
    only(redis, partitions);
}

#[test]
fn the_master_that_sentinels_name_is_changed() {
    let all = Sentinels::start(0, "");
    let told = change(&all.url(), 2);
    assert!(told.contains("partition 0: Redis holds 2 now"), "{told}");
    only(&all.servers[0], 2);
}

#[test]
fn in_a_redis_cluster_each_partition_is_changed_at_its_own_server() {
    let cluster = RedisCluster::start(3, false);
    let url = cluster.url();
    let start = |number: &str| {
        let tick = ("redis.tick", "100ms");
        let settings = [("broker", "redis"), ("redis.url", &*url), ("redis.partitions", number)];
        TestGateway::try_start(&[&settings[..], &[tick]].concat())
    };
    let (code, error) = refused(&url, &["partitions", "--to", "1", "--yes"]);
    assert!(code == 64 && error.contains("--to 1: in a Redis Cluster"), "{error}");
    let running = start("4").expect("the gateway starts");
    let channel = &channels_of(4)[1];
    let before = running.publish(channel, "before");
    let (_, error) = refused(&url, &["--set", "redis.tick=1s", "partitions", "--to", "8", "--yes"]);
    assert!(error.contains("a gateway still runs"), "{error}");
    drop(running);
    for (number, old) in [(8, "4"), (2, "8")] {
        assert!(change(&url, number).contains("they stay in sse:{0}:revoked"));
        let found: Vec<String> = cluster
            .nodes
            .iter()
            .flat_map(|node| {
                let keys = node.command(&["KEYS", "*:state"]);
                keys.lines().map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        let mut expected = states(number);
        expected.sort();
        let mut sorted = found;
        sorted.sort();
        assert_eq!(sorted, expected);
        let error = start(old).err().expect("it is refused");
        assert!(error.contains(&format!("Redis holds {number}")), "{error}");
    }
    let gateway = start("2").expect("the gateway starts");
    let query = format!("channel={channel}");
    let header = [("Last-Event-ID", before.as_str())];
    reset(&mut Subscriber::open(gateway.addr, &query, &header));
}
