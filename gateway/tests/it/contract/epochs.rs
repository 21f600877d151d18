//! Tests of epochs: what begins a new one, and what does not.

use sse_contract::{Call, EventId, Function, Meaning, eval_script, library_source};

use super::{Caller, DEBUG, Item, Library, Meant, NEW};
use crate::support::{Redis, eventually};

#[test]
fn an_event_for_another_epoch_is_refused_before_anything_is_written() {
    Library::both(&DEBUG, |library| {
        let epoch = library.tick(NEW).epoch();
        let first = library.publish_in(epoch, "a", "x").id();
        assert_eq!(first.epoch(), epoch);
        let before = library.digest();
        let answer = library.publish_in(epoch + 1, "a", "x");
        assert_eq!(answer.meaning(), Meaning::OtherEpoch, "{answer:?}");
        assert!(answer.error().contains(&epoch.to_string()), "{answer:?}");
        let other = (epoch + 1).to_string();
        let batch = ["sse:state", "sse:history:a"];
        let answer = library.run(Function::PublishBatch, &batch, &[&other, "x", ""]);
        assert_eq!(answer.meaning(), Meaning::OtherEpoch, "{answer:?}");
        assert_eq!(library.digest(), before);
        // A caller that names the old epoch does not publish in the next one.
        let fenced = library.run(Function::Fence, &["sse:state"], &[]).id();
        assert_eq!(library.publish_in(epoch, "a", "x").meaning(), Meaning::OtherEpoch);
        assert_eq!(library.publish_in(fenced.epoch(), "a", "x").id().epoch(), fenced.epoch());
        library.redis.command(&["FLUSHALL"]);
        let answer = library.publish_in(epoch, "a", "x");
        assert!(answer.error().contains("no epoch"), "{answer:?}");
        assert_eq!(library.redis.command(&["DBSIZE"]), "0");
    });
}

/// Makes one Redis a replica of another, and waits until it is in step.
fn follow(replica: &Redis, master: &Redis) {
    master.command(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    let [host, port] = [master.addr.ip().to_string(), master.addr.port().to_string()];
    assert_eq!(replica.command(&["REPLICAOF", &host, &port]), "OK");
    eventually("the replica is in step", || {
        let info = replica.command(&["INFO", "replication"]);
        info.contains("master_link_status:up")
            && replica.command(&["HGET", "sse:state", "id"])
                == master.command(&["HGET", "sse:state", "id"])
    });
}

fn promote(redis: &Redis) {
    assert_eq!(redis.command(&["REPLICAOF", "NO", "ONE"]), "OK");
}

fn info(redis: &Redis, field: &str) -> String {
    let info = redis.command(&["INFO"]);
    let line = info.lines().find(|line| line.starts_with(&format!("{field}:"))).unwrap();
    line.split_once(':').unwrap().1.trim_end().to_owned()
}

#[test]
fn a_deposed_master_takes_no_event_that_says_its_epoch() {
    let old = Library::start();
    let before = old.tick(NEW);
    let new = Library::functions(Redis::start());
    follow(&new.redis, &old.redis);
    promote(&new.redis);
    // The old master does not know of this. A gateway finds the new one, which begins an epoch.
    let after = new.tick(before.seen());
    assert_ne!(after.epoch(), before.epoch());
    assert_eq!(old.publish_in(after.epoch(), "a", "x").meaning(), Meaning::OtherEpoch);
    assert_eq!(old.length("a"), "0");
    assert_eq!(new.publish_in(after.epoch(), "a", "x").id().epoch(), after.epoch());
}

/// A gateway that asks a moment too late takes the failover for a move: the old master lives, and is
/// in step with the new one.
#[test]
fn a_server_that_took_a_masters_place_was_not_given_its_partition() {
    let old = Library::start();
    let new = Library::functions(Redis::start());
    // Before the state is written: Redis draws a new replication id for a first replica.
    follow(&new.redis, &old.redis);
    let before = old.tick(NEW);
    let run = info(&old.redis, "run_id");
    eventually("the replica has the state", || new.get("run") == run);
    let moved = |library: &Library| {
        let call = Call::first_tick(&library.keys, 0, &before.seen(), Some(&run));
        library.call(&call).elements()[0].id()
    };
    promote(&new.redis);
    follow(&old.redis, &new.redis);
    assert_ne!(moved(&new).epoch(), before.epoch());
    // A server that never was its replica.
    let third = Library::functions(Redis::start());
    let state = new.redis.command(&["HGETALL", "sse:state"]);
    let fields: Vec<&str> = state.lines().collect();
    third.redis.command(&[&["HSET", "sse:state"], &fields[..]].concat());
    let known = new.redis.command(&["HGET", "sse:state", "known"]);
    third.redis.command(&["HSET", &format!("sse:known:{known}"), ":since", "0"]);
    let now = new.get("id").parse::<EventId>().unwrap();
    let call = Call::first_tick(&third.keys, 0, &NEW, Some(&info(&new.redis, "run_id")));
    // Who asks first is told which process wrote the state, in which life of its data.
    let ask = third.call(&Call::first_tick(&third.keys, 0, &NEW, None));
    let [wrote, replid, here] = [
        info(&new.redis, "run_id"),
        info(&new.redis, "master_replid"),
        info(&third.redis, "run_id"),
    ];
    let told = format!("SSESTRANGE {wrote} {replid} wrote the state, this is {here}");
    assert_eq!(ask.refusal(), Some(&*told));
    assert_eq!(third.call(&call).elements()[0].id().epoch(), now.epoch());
}

#[test]
fn ticks_count_and_nothing_else_does() {
    Library::both(&[], |library| {
        let first = library.tick(NEW);
        library.publish("a", "x").id();
        library.batch(&[Item::new("a", "x")]);
        library.read(first.seen(), &[("a", "0-0")]);
        let second = library.tick(first.seen());
        assert_eq!((second.beat, second.epoch()), (first.beat + 1, first.epoch()));
        eventually("a tick raises the clock to the time", || {
            let tick = library.tick(NEW);
            assert_eq!(library.get("id"), tick.clock.to_string());
            tick.clock.ms as i64 == tick.now && tick.clock.seq == first.epoch() << 16
        });
    });
}

#[test]
fn a_state_that_went_back_in_time_begins_an_epoch_though_its_clock_is_young() {
    Library::both(&[], |library| {
        let first = library.tick(NEW);
        let script = "redis.call('COPY', 'sse:state', 'kept')";
        library.redis.command(&["EVAL", script, "0"]);
        let second = library.tick(first.seen());
        let lost = library.publish("a", "lost").id();
        library.redis.command(&["DEL", "sse:history:a"]);
        library.redis.command(&["COPY", "kept", "sse:state", "REPLACE"]);
        // Publishes until the clock is above everything that a gateway has seen, so that only the
        // count of ticks tells.
        let found = loop {
            let id = library.publish("b", "x").id();
            if id.ms > lost.ms {
                break id;
            }
        };
        assert_eq!(found.epoch(), first.epoch());
        let after = library.tick(Caller { seen: Some(lost), ..second.seen() });
        assert_ne!(after.epoch(), first.epoch());
        assert!(after.clock > found && after.beat > second.beat);
        // The epoch begins once: another gateway, which has seen a few more ticks, does not begin
        // another.
        let other = Caller { beat: Some(second.beat + 1000), ..after.seen() };
        assert_eq!(library.tick(other).epoch(), after.epoch());
        assert_eq!(library.tick(after.seen()).epoch(), after.epoch());
    });
}

#[test]
fn a_read_finds_a_lower_count_of_ticks_too() {
    Library::both(&[], |library| {
        let tick = library.tick(NEW);
        let seen = Caller { beat: Some(tick.beat + 1), ..tick.seen() };
        let snapshot = library.read(seen, &[("a", "0-0")]);
        assert_ne!(snapshot.clock.epoch(), tick.epoch());
        // A count that no gateway can have seen is not believed.
        let tick = library.tick(NEW);
        library.set("beat", &tick.beat.to_string());
        let odd = Caller { beat: Some(u64::MAX), ..tick.seen() };
        assert_eq!(library.tick(odd).epoch(), tick.epoch());
    });
}

#[test]
fn a_failover_and_back_between_two_ticks_begins_an_epoch() {
    let library = Library::start();
    let other = Redis::start();
    let tick = library.tick(NEW);
    let run = info(&library.redis, "run_id");
    follow(&other, &library.redis);
    promote(&other);
    follow(&library.redis, &other);
    promote(&library.redis);
    assert_eq!(info(&library.redis, "run_id"), run, "the same process");
    assert_eq!(library.get("run"), run);
    // A caller that has seen nothing: only the name of the replication's history tells.
    let after = library.tick(NEW);
    assert_ne!(after.epoch(), tick.epoch());
    assert_eq!(library.tick(after.seen()).epoch(), after.epoch(), "once");
}

#[test]
fn a_first_replica_begins_no_epoch() {
    let library = Library::start();
    let tick = library.tick(NEW);
    let name = info(&library.redis, "master_replid");
    let replica = Redis::start();
    follow(&replica, &library.redis);
    let new = info(&library.redis, "master_replid");
    assert_ne!(new, name, "Redis draws a new name for it");
    assert_eq!(library.tick(tick.seen()).epoch(), tick.epoch());
    assert_eq!(library.get("replid"), new);
}

/// Makes Redis evict a key that holds no event.
fn evict(redis: &Redis) {
    redis.command(&["SET", "other", "x", "EX", "1000"]);
    redis.command(&["CONFIG", "SET", "maxmemory-policy", "volatile-ttl"]);
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    redis.command(&["SET", "another", "x"]);
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_ne!(info(redis, "evicted_keys"), "0");
}

#[test]
fn what_was_evicted_begins_an_epoch_also_where_the_count_falls() {
    let library = Library::start();
    let first = library.tick(NEW);
    evict(&library.redis);
    let second = library.tick(first.seen());
    assert_ne!(second.epoch(), first.epoch());
    // The count falls from one to zero. The reset may have hidden further evictions.
    library.redis.command(&["CONFIG", "RESETSTAT"]);
    let third = library.tick(second.seen());
    assert_ne!(third.epoch(), second.epoch());
    assert_eq!(library.tick(third.seen()).epoch(), third.epoch());
}

#[test]
fn counters_that_were_reset_begin_an_epoch_where_redis_evicts() {
    let library = Library::start();
    let mut tick = library.tick(NEW);
    // While Redis cannot evict, a reset hides nothing.
    for _ in 0..200 {
        library.redis.command(&["PING"]);
    }
    tick = library.tick(tick.seen());
    library.redis.command(&["CONFIG", "RESETSTAT"]);
    assert_eq!(library.tick(tick.seen()).epoch(), tick.epoch());
    library.redis.command(&["CONFIG", "SET", "maxmemory", "1gb"]);
    for _ in 0..200 {
        library.redis.command(&["PING"]);
    }
    tick = library.tick(tick.seen());
    library.redis.command(&["CONFIG", "RESETSTAT"]);
    let after = library.tick(tick.seen());
    assert_ne!(after.epoch(), tick.epoch());
    assert_eq!(library.tick(after.seen()).epoch(), after.epoch());
}

const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

#[test]
fn the_states_word_that_writes_survive_holds_for_all() {
    for (states, callers) in [(true, false), (false, true)] {
        let mut library = Library::functions(Redis::start_with(&DURABLE));
        let mut first = library.tick(Caller { durable: states, ..NEW });
        assert_eq!(first.durable, i64::from(states));
        // An eviction that began an epoch before the restart must not begin another after it.
        evict(&library.redis);
        first = library.tick(first.seen());
        library.redis.kill();
        library.redis.restart();
        library.redis.command(&["FUNCTION", "LOAD", "REPLACE", library_source()]);
        let second = library.tick(Caller { durable: callers, ..first.seen() });
        assert_eq!(second.durable, i64::from(states));
        assert_eq!(second.epoch() == first.epoch(), states);
        assert_eq!(library.tick(second.seen()).epoch(), second.epoch());
        assert_eq!(library.get("run"), info(&library.redis, "run_id"));
    }
}

#[test]
fn a_word_on_restarts_is_none_on_failovers() {
    let old = Library::functions(Redis::start_with(&DURABLE));
    let before = old.tick(Caller { durable: true, ..NEW });
    let new = Library::functions(Redis::start());
    follow(&new.redis, &old.redis);
    promote(&new.redis);
    let after = new.tick(Caller { beat: None, durable: true, ..before.seen() });
    assert_ne!(after.epoch(), before.epoch());
}

#[test]
fn settings_hold_for_all_and_begin_an_epoch() {
    Library::both(&[], |library| {
        let first = library.tick(NEW);
        let settings = |args: &[&str]| library.run(Function::Settings, &["sse:state"], args);
        for args in
            [&["1", "2", "3", "4"][..], &["1", "2", "3", "4", "yes"], &["1", "-2", "3", "4", "0"]]
        {
            assert_eq!(settings(args).meaning(), Meaning::Invalid);
        }
        let clock = settings(&["10", "60000", "5", "1000", "1"]).id();
        assert_ne!(clock.epoch(), first.epoch());
        // The next publish already applies the new settings.
        assert_eq!(library.publish("a", "more than five").meaning(), Meaning::Invalid);
        let id = library.publish_keyed("a", "k", "five").id();
        assert_eq!(id.epoch(), clock.epoch());
        let ttl: i64 = library.redis.command(&["PTTL", "sse:idem:a|k"]).parse().unwrap();
        assert!(ttl <= 1000, "{ttl}");
        let ttl: i64 = library.redis.command(&["PTTL", "sse:history:a"]).parse().unwrap();
        assert!(ttl <= 121_000, "{ttl}");
        let tick = library.tick(NEW);
        assert_eq!((tick.limits, tick.durable), (vec![10, 60_000, 5, 1000], 1));
        assert_eq!(tick.clock.epoch(), clock.epoch());
    });
}

#[test]
fn settings_may_come_before_any_gateway() {
    Library::both(&[], |library| {
        let args = ["10", "60000", "5", "1000", "1"];
        let clock = library.run(Function::Settings, &["sse:state"], &args).id();
        assert_eq!(library.publish("a", "five").id().epoch(), clock.epoch());
        assert_eq!(library.publish("a", "more than five").meaning(), Meaning::Invalid);
        let tick = library.tick(NEW);
        assert_eq!((tick.limits, tick.durable), (vec![10, 60_000, 5, 1000], 1));
    });
}

/// Writes the state as version 1 did. Returns its clock.
fn first_version(library: &Library) -> EventId {
    let now = library.redis.command(&["TIME"]).lines().next().unwrap().parse::<u64>().unwrap();
    let clock = EventId::new(now * 1000 - 5000, 4711, 3);
    let (run, id) = (info(&library.redis, "run_id"), clock.to_string());
    let fields = [
        "id",
        &id,
        "run",
        &run,
        "evicted",
        "0",
        "max_len",
        "7",
        "ttl",
        "60000",
        "max_data",
        "100",
        "idem_ttl",
        "5000",
        "partitions",
        "1",
        "version",
        "1",
    ];
    library.redis.command(&[&["HSET", "sse:state"], &fields[..]].concat());
    clock
}

#[test]
fn a_state_of_version_1_serves_publishers_and_is_converted_by_the_first_tick() {
    Library::both(&[], |library| {
        let clock = first_version(&library);
        let first = library.publish("a", "x").id();
        assert!(first > clock && first.epoch() == clock.epoch(), "its epoch goes on: {first}");
        assert_eq!(library.publish("a", &"x".repeat(101)).meaning(), Meaning::Invalid);
        assert_eq!(library.get("version"), "1");
        let tick = library.tick(NEW);
        assert_ne!(tick.epoch(), clock.epoch());
        assert_eq!(tick.limits, [7, 60_000, 100, 5000], "its limits hold");
        assert_eq!(
            (library.get("version").as_str(), library.get("partitions").as_str()),
            ("2", "1")
        );
        assert_eq!(library.get("replid"), info(&library.redis, "master_replid"));
        assert_eq!(library.tick(tick.seen()).epoch(), tick.epoch(), "once");
        assert_eq!(library.publish("a", "y").id().epoch(), tick.epoch());
        // Version 1 again: its gateways have served the data and kept no witness.
        library.set("version", "1");
        assert_ne!(library.tick(tick.seen()).epoch(), tick.epoch());
    });
}

#[test]
fn a_read_converts_as_well() {
    Library::both(&[], |library| {
        let clock = first_version(&library);
        let snapshot = library.read(NEW, &[("a", "0-0")]);
        assert_ne!(snapshot.clock.epoch(), clock.epoch());
        assert_eq!(library.get("version"), "2");
    });
}

#[test]
fn gateways_of_other_versions_and_partitions_are_refused_and_change_nothing() {
    Library::both(&DEBUG, |library| {
        library.tick(NEW);
        let before = library.digest();
        // Version 1 called with eight arguments.
        let first = ["", "0", "1000", "60000", "100", "5000", "1", "1"];
        let answer = library.run(Function::Tick, &["sse:state"], &first);
        assert_eq!(answer.meaning(), Meaning::Mismatch, "{answer:?}");
        let range = [&first[..], &["100000", "100000", "0-0"]].concat();
        let answer = library.run(Function::Read, &["sse:state", "sse:history:a"], &range);
        assert_eq!(answer.meaning(), Meaning::Mismatch, "{answer:?}");
        let mut nine = NEW.words(16);
        let words: Vec<&str> = nine.iter().map(String::as_str).collect();
        let answer = library.run(Function::Tick, &["sse:state"], &words);
        assert!(
            answer.error().contains("partitions") && answer.error().contains("16"),
            "{answer:?}"
        );
        assert_eq!(answer.meaning(), Meaning::Mismatch);
        nine[2] = "many".to_owned();
        nine[7] = "1".to_owned();
        let words: Vec<&str> = nine.iter().map(String::as_str).collect();
        let answer = library.run(Function::Tick, &["sse:state"], &words);
        assert_eq!(answer.error(), "SSEINVALID arguments: max_len");
        let good = NEW.words(1);
        let good: Vec<&str> = good.iter().map(String::as_str).collect();
        let read = [&good[..], &["100", "100"]].concat();
        for (function, args) in [
            (Function::Tick, &good[..]),
            (Function::Read, &read),
            (Function::Fence, &[]),
            (Function::Settings, &["1000", "60000", "100", "5000", "0"]),
        ] {
            let answer = library.run(function, &["a:b:state"], args);
            assert!(answer.error().starts_with("SSEINVALID keys"), "{function:?}: {answer:?}");
        }
        assert_eq!(library.digest(), before);
        library.set("version", "3");
        let before = library.digest();
        assert_eq!(library.try_tick(NEW).meaning(), Meaning::Mismatch);
        let fence = library.run(Function::Fence, &["sse:state"], &[]);
        assert_eq!(fence.meaning(), Meaning::Mismatch);
        assert_eq!(library.digest(), before);
        library.set("publishing", "3 some other form");
        assert_eq!(library.publish("a", "x").meaning(), Meaning::Mismatch);
    });
}

#[test]
fn an_id_from_the_far_future_is_not_believed() {
    Library::both(&[], |library| {
        let tick = library.tick(NEW);
        for ms in [999_999_999_999_999, 99_500_000_000_000] {
            let far = EventId { ms, ..tick.clock };
            // A gateway has seen the id, for example in a forged frame.
            let before = library.tick(NEW);
            let after = library.tick(Caller { seen: Some(far), ..before.seen() });
            assert_eq!(after.epoch(), before.epoch());
            // In the state, the id counts as no clock.
            library.set("id", &far.to_string());
            let answer = library.publish_in(far.epoch(), "a", "x");
            assert_eq!(answer.meaning(), Meaning::OtherEpoch);
            let id = library.publish("a", "x").id();
            assert!(id.ms < far.ms && id.epoch() != before.epoch(), "{id}");
            library.set("id", &far.to_string());
            let clock = library.tick(NEW).clock;
            assert!(clock.ms < far.ms, "{clock}");
        }
        let clock = library.tick(NEW).clock;
        // The highest millisecond that is believed: ids go on from it.
        let edge = EventId { ms: 98_999_999_999_999, seq: clock.seq };
        library.set("id", &edge.to_string());
        let id = library.publish("b", "x").id();
        assert_eq!(id, EventId { seq: edge.seq + 1, ..edge });
    });
}

#[test]
fn an_epoch_begins_above_a_clock_that_is_ahead_of_the_time() {
    Library::both(&[], |library| {
        let clock = library.tick(NEW).clock;
        let fence = || library.run(Function::Fence, &["sse:state"], &[]).id();
        let ahead = EventId { ms: clock.ms + 3_600_000, ..clock };
        library.set("id", &ahead.to_string());
        let next = fence();
        assert!(next > ahead && next.epoch() != ahead.epoch(), "{next}");
        // At the highest millisecond that is believed, the new epoch begins at the present time
        // instead, below the old clock.
        let edge = EventId { ms: 98_999_999_999_999, ..next };
        library.set("id", &edge.to_string());
        let next = fence();
        assert!(next < edge && next.epoch() != edge.epoch(), "{next}");
        assert_eq!(library.publish("a", "x").id().epoch(), next.epoch());
    });
}

#[test]
fn what_a_gateway_has_seen_above_the_clock_begins_an_epoch_above_it() {
    Library::both(&[], |library| {
        let tick = library.tick(NEW);
        let seen = EventId { ms: tick.clock.ms + 60_000, ..tick.clock };
        let after = library.tick(Caller { seen: Some(seen), ..tick.seen() });
        assert!(after.clock > seen && after.epoch() != tick.epoch());
        assert_eq!(library.tick(after.seen()).epoch(), after.epoch(), "once");
    });
}

#[test]
fn a_history_above_the_clock_begins_an_epoch_above_it() {
    Library::both(&[], |library| {
        let tick = library.tick(NEW);
        let ahead = EventId { ms: tick.clock.ms + 60_000, ..tick.clock };
        let add = |channel: &str, id: EventId| {
            let history = format!("sse:history:{channel}");
            library.redis.command(&["XADD", &history, &id.to_string(), "data", "x"]);
        };
        // A publish finds a history above the clock, alone or in the middle of a batch.
        add("a", ahead);
        let id = library.publish("a", "x").id();
        assert!(id > ahead && id.epoch() != tick.epoch(), "{id}");
        let further = EventId { ms: ahead.ms + 60_000, ..ahead };
        add("a", further);
        let answer =
            library.batch(&[Item::new("b", "1"), Item::new("a", "2"), Item::new("b", "3")]);
        let ids: Vec<EventId> = answer.items().into_iter().map(Result::unwrap).collect();
        assert!(ids.is_sorted() && ids[0] < further && ids[1] > further, "{ids:?}");
        assert!(ids[1].epoch() != ids[0].epoch() && ids[1].epoch() == ids[2].epoch(), "{ids:?}");
        assert_eq!(library.length("b"), "2");
        // A read finds such a history, too.
        let furthest = EventId { ms: further.ms + 60_000, ..further };
        add("c", furthest);
        let snapshot = library.read(NEW, &[("c", "0-0")]);
        assert!(snapshot.clock > furthest && snapshot.clock.epoch() != ids[2].epoch());
    });
}

#[test]
fn the_scripts_are_the_library() {
    // The scripts for `EVALSHA` are cut out of the text that is loaded as functions.
    for function in Function::ALL {
        let script = eval_script(function);
        let body = script.rsplit_once("return sse_").unwrap().0;
        let body = body.strip_prefix("#!lua flags=allow-oom\n").unwrap_or(body);
        assert!(library_source().contains(body.trim_end()));
    }
}
