//! Tests of publishing, one event at a time and in batches: names, idempotency keys, order, and
//! events that fail.

use sse_contract::{Call, EventId, Function, Meaning};

use super::{Answer, Connection, DEBUG, Item, Library, Listener, Meant, NEW};
use crate::support::Redis;

#[test]
fn nested_names_do_not_share_an_idempotency_record() {
    Library::both(&[], |library| {
        let one = library.publish_keyed("user", "42:7", "an order").id();
        let other = library.publish_keyed("user:42", "7", "an order").id();
        assert!(other > one, "two events, not one that is answered twice");
        assert_eq!((library.length("user"), library.length("user:42")), ("1".into(), "1".into()));
        // Version 1 gave the record a name that this version refuses.
        let keys = ["sse:state", "sse:history:user", "sse:idem:user:42:7"];
        let old = library.run(Function::Publish, &keys, &["an order"]);
        assert_eq!(old.meaning(), Meaning::Invalid, "{old:?}");
    });
}

#[test]
fn a_key_publishes_once_and_holds_for_one_payload() {
    Library::both(&[], |library| {
        let mut listener = Listener::on(&library.redis, &["sse:a"]);
        let first = library.publish_keyed("a", "k", "x").id();
        assert_eq!(library.publish_keyed("a", "k", "x").id(), first);
        let other = library.publish_keyed("a", "k", "y");
        assert_eq!(other.meaning(), Meaning::Conflict);
        assert!(other.error().contains(&first.to_string()), "{other:?}");
        assert_eq!(listener.heard(), [(first, "x".to_owned())]);
        assert_eq!(library.length("a"), "1");
    });
}

#[test]
fn what_is_wrong_with_a_call_is_named_and_nothing_is_written() {
    Library::both(&DEBUG, |library| {
        library.tick(NEW);
        let before = library.digest();
        let publish = |keys: &[&str], args: &[&str]| library.run(Function::Publish, keys, args);
        let to = |history: &str| publish(&["sse:state", history], &["x"]);
        let typed = |event: &str| publish(&["sse:state", "sse:history:a"], &["x", event]);
        let keyed = |idem: &str| publish(&["sse:state", "sse:history:a", idem], &["x"]);
        let long = "x".repeat(201);
        for (answer, word) in [
            (to("sse:history:"), "channel"),
            (to("sse:history:a b"), "channel"),
            (to("sse:history::a"), "channel"),
            (to("sse:history:a|b"), "channel"),
            (to("sse:history:a{}"), "channel"),
            (to("sse:history:a{b}{c}"), "channel"),
            (to("sse:history::{a}"), "channel"),
            (to(&format!("sse:history:{long}")), "channel"),
            (to("sse:other:a"), "sse:history:<channel>"),
            (publish(&["a:b:state", "a:b:history:c"], &["x"]), "<prefix>:state"),
            (publish(&["a{b:state", "a{b:history:c"], &["x"]), "<prefix>:state"),
            (publish(&["state"], &["x"]), "<prefix>:state"),
            (publish(&["sse:state"], &["x"]), "keys"),
            (publish(&["sse:state", "sse:history:a"], &[]), "arguments"),
            (publish(&["sse:state", "sse:history:a"], &["x", "", "", ""]), "arguments"),
            (publish(&["sse:state", "sse:history:a"], &["x", "", "first"]), "epoch"),
            (typed("gap"), "reserved"),
            (typed("checkpoint"), "reserved"),
            (typed("alive"), "reserved"),
            (typed("a\nb"), "event"),
            (typed("a\0b"), "event"),
            (typed(&long), "event"),
            (keyed("sse:idem:a|"), "sse:idem:a|"),
            (keyed("sse:idem:b|k"), "sse:idem:a|"),
            (keyed(&format!("sse:idem:a|{long}")), "idempotency_key"),
        ] {
            assert_eq!(answer.meaning(), Meaning::Invalid, "{answer:?}");
            assert!(answer.error().contains(word), "{answer:?} for {word}");
        }
        assert_eq!(library.digest(), before);
        let small = super::Caller { max_data: 3, ..NEW };
        library.run(Function::Settings, &["sse:state"], &["1000", "3600000", "3", "600000", "0"]);
        library.tick(small);
        let large = library.publish("a", "four");
        assert_eq!(large.error(), "SSEINVALID data: 4 bytes, at most 3");
        assert!(library.publish("a", "3 b").id() > EventId::ZERO);
    });
}

#[test]
fn a_channel_may_hold_one_hash_tag() {
    Library::both(&[], |library| {
        for channel in ["{42}", "user:{42}:mail", "{a.b}c"] {
            let id = library.publish_keyed(channel, "k", "x").id();
            assert_eq!(library.publish_keyed(channel, "k", "x").id(), id);
            assert_eq!(library.length(channel), "1");
        }
    });
}

#[test]
fn without_a_gateway_publishing_works_with_the_default_limits() {
    Library::both(&[], |library| {
        let first = library.publish("a", "x").id();
        assert!(first.epoch() > 0);
        let second = library.publish("a", "y").id();
        assert!(second > first && second.epoch() == first.epoch());
        assert_eq!(library.get("id"), second.to_string());
        assert!(library.get("publishing").starts_with("2 1000 3600000 1048576 600000 1 "));
        let ttl: i64 = library.redis.command(&["PTTL", "sse:history:a"]).parse().unwrap();
        assert!((3_600_000..3_662_000).contains(&ttl), "an hour and the slack: {ttl}");
    });
}

#[test]
fn a_history_that_is_switched_off_keeps_nothing_and_events_are_live() {
    Library::both(&[], |library| {
        library.tick(super::Caller { max_len: 0, ..NEW });
        let mut listener = Listener::on(&library.redis, &["sse:a", "sse:b"]);
        let first = library.publish_keyed("a", "k", "x").id();
        assert_eq!(library.publish_keyed("a", "k", "x").id(), first);
        let answer = library.batch(&[Item::new("a", "y"), Item::new("b", "z")]);
        let ids: Vec<EventId> = answer.items().into_iter().map(Result::unwrap).collect();
        let heard: Vec<String> = listener.heard().into_iter().map(|(_, data)| data).collect();
        assert_eq!(heard, ["x", "y", "z"]);
        assert_eq!(library.get("id"), ids[1].to_string());
        assert_eq!(library.redis.command(&["KEYS", "sse:history:*"]), "");
        assert_eq!(library.redis.command(&["HLEN", "sse:known:1"]), "1", "its mark alone");
    });
}

#[test]
fn ids_rise_within_a_millisecond_and_over_many() {
    let library = Library::start();
    library.tick(NEW);
    let mut last = EventId::ZERO;
    for round in 0..60 {
        let items: Vec<Item<'_>> = (0..64).map(|_| Item::new("a", "x")).collect();
        for id in library.batch(&items).items() {
            let id = id.unwrap();
            assert!(id > last, "{id} {last} in round {round}");
            last = id;
        }
    }
    // When a millisecond's counter is used up, the ids go on in the next one, also if the clock is
    // ahead of the time.
    let ahead = EventId { ms: last.ms + 3_600_000, seq: (last.epoch() << 16) | 0xFFFD };
    library.set("id", &ahead.to_string());
    let answer = library.batch(&[Item::new("a", "x"); 3]);
    let ids: Vec<EventId> = answer.items().into_iter().map(Result::unwrap).collect();
    assert_eq!(ids[0], EventId { seq: ahead.seq + 1, ..ahead });
    assert_eq!(ids[1], EventId { seq: ahead.seq + 2, ..ahead });
    assert_eq!(ids[2], EventId { ms: ahead.ms + 1, seq: ahead.epoch() << 16 });
    assert_eq!(library.publish("a", "x").id(), EventId { seq: ids[2].seq + 1, ..ids[2] });
}

#[test]
fn a_batch_answers_each_event_for_itself_and_in_order() {
    Library::both(&[], |library| {
        library.tick(NEW);
        library.redis.command(&["SET", "sse:history:broken", "no stream"]);
        library.redis.command(&["RPUSH", "sse:idem:a|broken", "no text"]);
        let before = library.publish_keyed("a", "known", "x").id();
        let mut listener = Listener::on(&library.redis, &["sse:a", "sse:b", "sse:broken"]);
        let answer = library.batch(&[
            Item::new("a", "1"),
            Item::keyed("b", "k", "2"),
            Item::new("broken", "3"),
            Item { event: Some("gap"), ..Item::new("a", "4") },
            Item::keyed("a", "known", "x"),
            Item::keyed("a", "known", "y"),
            Item::keyed("a", "broken", "7"),
            Item::keyed("b", "k", "2"),
            Item { event: Some("tick"), ..Item::keyed("b", "l", "9") },
        ]);
        let items = answer.items();
        let meaning = |n: usize| items[n].unwrap_err().0;
        let ids: Vec<EventId> = [0, 1, 8].map(|n| items[n].unwrap()).into();
        assert!(ids.is_sorted() && ids[0] > before);
        assert_eq!((meaning(2), meaning(3)), (Meaning::Undone, Meaning::Invalid));
        assert_eq!((items[4], meaning(5)), (Ok(before), Meaning::Conflict));
        assert_eq!((meaning(6), items[7]), (Meaning::Undone, items[1]));
        let data = |n: usize, text: &str| (ids[n], text.to_owned());
        assert_eq!(listener.heard(), [data(0, "1"), data(1, "2"), data(2, "9")]);
        assert_eq!((library.length("a"), library.length("b")), ("2".into(), "2".into()));
        assert_eq!(library.get("id"), ids[2].to_string());
        let witness = library.redis.command(&["HMGET", "sse:known:1", "a", "b", "broken"]);
        assert_eq!(witness, format!("{}\n{}\n", ids[0], ids[2]));
    });
}

#[test]
fn a_batch_has_one_to_64_events_and_keys_behind_their_histories() {
    Library::both(&DEBUG, |library| {
        library.tick(NEW);
        let before = library.digest();
        assert_eq!(library.batch(&[]).meaning(), Meaning::Invalid);
        assert_eq!(library.batch(&[Item::new("a", "x"); 65]).meaning(), Meaning::Invalid);
        let batch = |keys: &[&str], args: &[&str]| {
            let keys = [&["sse:state"], keys].concat();
            library.run(Function::PublishBatch, &keys, args)
        };
        let (a, k) = ("sse:history:a", "sse:idem:a|k");
        for answer in [
            batch(&[k, a], &["", "x", ""]),
            batch(&[a, k, k], &["", "x", ""]),
            batch(&[a, a], &["", "x", ""]),
            batch(&[a], &["", "x", "", "y", ""]),
            batch(&[a], &["", "x"]),
            batch(&[a], &["one", "x", ""]),
        ] {
            assert_eq!(answer.meaning(), Meaning::Invalid, "{answer:?}");
        }
        assert_eq!(library.digest(), before);
        // A key that names no history fails only its own event, and so does the idempotency key of
        // another channel.
        let answer = batch(&[a, "other", a, "sse:idem:b|k"], &["", "x", "", "y", "", "z", ""]);
        let items = answer.items();
        assert!(items[0].is_ok(), "{items:?}");
        assert_eq!(items[1].unwrap_err().0, Meaning::Invalid);
        assert_eq!(items[2].unwrap_err().0, Meaning::Invalid);
        let answer = library.batch(&[Item::new("a", "x"); 64]);
        assert_eq!(answer.items().iter().filter(|item| item.is_ok()).count(), 64);
    });
}

#[test]
fn a_batch_is_what_single_calls_are() {
    let (one, many) = (Library::start(), Library::start());
    for seed in 0..30 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut pick = |from: &[&'static str]| from[random.usize(..from.len())];
        let items: Vec<Item<'_>> = (0..64)
            .map(|_| Item {
                channel: pick(&["a", "b", "{c}d", "broken", "e"]),
                data: pick(&["x", "y", "", "more than ten bytes"]),
                event: Some(pick(&["", "tick", "gap"])).filter(|event| !event.is_empty()),
                key: Some(pick(&["", "", "k", "l", "list"])).filter(|key| !key.is_empty()),
            })
            .collect();
        for library in [&one, &many] {
            library.redis.command(&["FLUSHALL"]);
            library.tick(super::Caller { max_data: 10, max_len: 1 + seed % 2 * 1000, ..NEW });
            library.redis.command(&["SET", "sse:history:broken", "no stream"]);
            library.redis.command(&["RPUSH", "sse:idem:b|list", "no text"]);
        }
        let channels = ["sse:a", "sse:b", "sse:{c}d", "sse:broken", "sse:e"];
        let mut listeners = [&one, &many].map(|library| Listener::on(&library.redis, &channels));
        let singly: Vec<Answer> = items.iter().map(|item| one.publish_item(item)).collect();
        let singly: Vec<Result<EventId, Meaning>> = singly
            .iter()
            .map(|answer| match answer {
                Answer::Error(_) => Err(answer.meaning()),
                _ => Ok(answer.id()),
            })
            .collect();
        let batch = many.batch(&items);
        let batch: Vec<Result<EventId, Meaning>> =
            batch.items().into_iter().map(|item| item.map_err(|why| why.0)).collect();
        // The ids differ. Their order, and which of them are equal, must not.
        let ranks = |answers: &[Result<EventId, Meaning>]| {
            let mut ids: Vec<EventId> = answers.iter().filter_map(|id| id.ok()).collect();
            ids.sort();
            ids.dedup();
            let rank = |id: EventId| ids.binary_search(&id).unwrap();
            answers.iter().map(|answer| answer.map(rank)).collect::<Vec<_>>()
        };
        assert_eq!(ranks(&batch), ranks(&singly), "seed {seed}: {items:?}");
        let [one_heard, many_heard] = listeners
            .each_mut()
            .map(|listener| listener.heard().into_iter().map(|(_, data)| data).collect::<Vec<_>>());
        assert_eq!(many_heard, one_heard, "seed {seed}");
        for channel in ["a", "b", "{c}d", "e"] {
            let [one, many] = [&one, &many].map(|library| library.read(NEW, &[(channel, "0-0")]));
            let [one, many] = [one, many].map(|snapshot| snapshot.ranges[0].clone().unwrap());
            assert_eq!((many.data, many.added), (one.data, one.added), "seed {seed}, {channel}");
        }
    }
}

/// The commands that the script of one call runs, in order, as `MONITOR` shows them.
fn commands_of(library: &Library, call: impl FnOnce()) -> Vec<String> {
    let mut monitor = Connection::to(library.redis.addr);
    monitor.ask([&b"MONITOR"[..]]);
    call();
    library.redis.command(&["ECHO", "that is all"]);
    let mut commands = Vec::new();
    loop {
        let answer = monitor.read();
        let line = answer.text();
        if line.contains("that is all") {
            return commands;
        }
        if line.contains(" lua] ") {
            commands.push(line.split('"').nth(1).unwrap().to_owned());
        }
    }
}

#[test]
fn nothing_stands_behind_what_is_sent_live() {
    Library::both(&[], |library| {
        library.tick(NEW);
        library.publish("a", "x").id();
        let single = commands_of(&library, || {
            library.publish_keyed("a", "k", "x").id();
        });
        let (sent, before) = single.split_last().unwrap();
        assert_eq!(sent, "PUBLISH", "{single:?}");
        assert!(!before.contains(&"PUBLISH".to_owned()), "{single:?}");
        let batch = commands_of(&library, || {
            library.batch(&[Item::keyed("a", "l", "x"), Item::new("b", "y"), Item::new("a", "z")]);
        });
        let (before, sent) = batch.split_at(batch.len() - 3);
        assert_eq!(sent, ["PUBLISH", "PUBLISH", "PUBLISH"], "{batch:?}");
        assert!(!before.contains(&"PUBLISH".to_owned()), "{batch:?}");
        // The state is written before any event is sent live, so no reader knows an id above the
        // clock.
        assert_eq!(before.last().unwrap(), "HSET", "{batch:?}");
    });
}

#[test]
fn what_fails_half_way_is_undone_and_may_be_sent_again() {
    Library::both(&[], |library| {
        library.tick(NEW);
        library.publish("old", "x").id();
        // Makes the last of the writes fail.
        let witness = library.redis.command(&["DUMP", "sse:known:1"]);
        assert!(!witness.is_empty());
        library.redis.command(&["RENAME", "sse:known:1", "aside"]);
        library.redis.command(&["SET", "sse:known:1", "no hash"]);
        let epoch = library.get("id").parse::<EventId>().unwrap().epoch();
        let mut listener = Listener::on(&library.redis, &["sse:old", "sse:new"]);
        let answer = library.publish_keyed("old", "k", "y");
        assert_eq!(answer.meaning(), Meaning::Undone, "{answer:?}");
        assert!(answer.error().contains("WRONGTYPE"), "{answer:?}");
        let answer = library.publish("new", "y");
        assert_eq!(answer.meaning(), Meaning::Undone, "{answer:?}");
        let answer = library.batch(&[
            Item::keyed("old", "k", "y"),
            Item::new("old", "z"),
            Item::keyed("old", "l", "y"),
            Item::keyed("old", "l", "y"),
        ]);
        for item in answer.items() {
            assert_eq!(item.unwrap_err().0, Meaning::Undone, "{answer:?}");
        }
        assert_eq!(listener.heard(), []);
        assert_eq!(library.length("old"), "1");
        assert_eq!(library.redis.command(&["KEYS", "sse:idem:*"]), "");
        library.redis.command(&["RENAME", "aside", "sse:known:1"]);
        let snapshot = library.read(NEW, &[("old", "0-0")]);
        assert_eq!(
            snapshot.clock.epoch(),
            epoch,
            "what was undone leaves no history above the clock"
        );
        let id = library.publish_keyed("old", "k", "y").id();
        assert_eq!(id.epoch(), epoch);
        assert_eq!(listener.heard(), [(id, "y".to_owned())]);
    });
}

#[test]
fn a_history_that_was_begun_in_vain_is_gone_again() {
    Library::both(&[], |library| {
        library.tick(NEW);
        // Makes Redis refuse an expiry, by a time that is too large. No command of the contract
        // sets one.
        let limits = library.get("publishing");
        let limit = |place: usize| {
            let mut fields: Vec<&str> = limits.split(' ').collect();
            fields[place] = "99999999999999999999";
            library.set("publishing", &fields.join(" "));
        };
        let none_is_left = |listener: &mut Listener| {
            assert_eq!(listener.heard(), []);
            assert_eq!(library.redis.command(&["KEYS", "sse:history:*"]), "");
            assert_eq!(library.redis.command(&["KEYS", "sse:idem:*"]), "");
        };
        let mut listener = Listener::on(&library.redis, &["sse:new", "sse:other"]);
        // With a bad lifetime of idempotency keys, only the event with a key fails.
        limit(4);
        for _ in 0..2 {
            let answer = library.publish_keyed("new", "k", "x");
            assert_eq!(answer.meaning(), Meaning::Undone, "{answer:?}");
            none_is_left(&mut listener);
            let answer = library.batch(&[Item::keyed("new", "k", "x"), Item::new("new", "y")]);
            assert_eq!(answer.items()[0].unwrap_err().0, Meaning::Undone);
            let id = answer.items()[1].unwrap();
            assert_eq!(listener.heard(), [(id, "y".to_owned())]);
            library.redis.command(&["DEL", "sse:history:new", "sse:known:1"]);
        }
        // With a bad lifetime of histories, every event fails.
        limit(2);
        for _ in 0..2 {
            for answer in [library.publish("new", "x"), library.publish_keyed("new", "k", "x")] {
                assert_eq!(answer.meaning(), Meaning::Undone, "{answer:?}");
                none_is_left(&mut listener);
            }
            let items =
                [Item::new("new", "1"), Item::keyed("new", "k", "2"), Item::new("other", "3")];
            for item in library.batch(&items).items() {
                assert_eq!(item.unwrap_err().0, Meaning::Undone);
            }
            none_is_left(&mut listener);
        }
    });
}

#[test]
fn poisoned_keys_are_answered_with_a_code_and_never_with_a_scripts_error() {
    Library::both(&DEBUG, |library| {
        library.tick(NEW);
        library.publish("a", "x").id();
        let set = |key: &str| library.redis.command(&["SET", key, "x"]);
        let add = |channel: &str, id: &str| {
            let history = format!("sse:history:{channel}");
            assert_eq!(library.redis.command(&["XADD", &history, id, "data", "x"]), id);
        };
        set("sse:history:text");
        library.redis.command(&["RPUSH", "sse:idem:a|list", "x"]);
        set("sse:idem:a|odd");
        add("far", "999999999999999-1");
        add("full", "18446744073709551615-18446744073709551615");
        let before = library.digest();
        for (answer, expected) in [
            (library.publish("text", "x"), Meaning::Undone),
            (library.publish_keyed("a", "list", "x"), Meaning::Undone),
            (library.publish_keyed("a", "odd", "x"), Meaning::Conflict),
            (library.publish("far", "x"), Meaning::Undone),
            (library.publish("full", "x"), Meaning::Undone),
        ] {
            assert_eq!(answer.meaning(), expected, "{answer:?}");
        }
        assert_eq!(library.digest(), before);
        library.redis.command(&["DEL", "sse:state"]);
        set("sse:state");
        assert_eq!(library.publish("a", "x").meaning(), Meaning::Undone);
        assert_eq!(library.publish_in(1, "a", "x").meaning(), Meaning::Undone);
        assert_eq!(library.batch(&[Item::new("a", "x")]).meaning(), Meaning::Undone);
        assert_eq!(library.try_tick(NEW).meaning(), Meaning::Undone);
    });
}

#[test]
fn a_full_redis_takes_no_event_and_ticks_on() {
    for library in [Library::functions(Redis::start()), Library::scripts(Redis::start())] {
        let scripts = library.digests.is_some();
        let tick = library.tick(NEW);
        library.publish("a", "x").id();
        library.redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
        let mut listener = Listener::on(&library.redis, &["sse:a"]);
        let answer = library.publish_keyed("a", "k", "y");
        // Redis itself refuses a function before it runs. A caller cannot tell that from its error.
        let expected = if scripts { Meaning::Undone } else { Meaning::Unknown };
        assert_eq!(answer.meaning(), expected, "{answer:?}");
        assert_eq!((library.length("a"), listener.heard()), ("1".to_owned(), vec![]));
        assert_eq!(library.publish("new", "y").meaning(), expected);
        assert_eq!(library.redis.command(&["EXISTS", "sse:history:new"]), "0");
        assert!(library.tick(tick.seen()).beat > tick.beat);
    }
}

#[test]
fn names_with_partitions_use_sharded_pub_sub() {
    Library::both(&[], |mut library| {
        library.keys = sse_contract::Keys::new("sse", 16);
        let mut listener = Connection::to(library.redis.addr);
        listener.ask([&b"SSUBSCRIBE"[..], b"sse:{9}:orders"]);
        let id = library.publish_keyed("orders", "k", "x").id();
        let frame = listener.read();
        assert!(frame.to_string().contains(&id.to_string()), "{frame:?}");
        assert_eq!(library.redis.command(&["XLEN", "sse:{9}:history:orders"]), "1");
        assert_eq!(library.redis.command(&["HGET", "sse:{9}:known:1", "orders"]), id.to_string());
    });
}

/// Nobody subscribes to a channel in another partition than its own, so such an event would be
/// acknowledged and lost.
#[test]
fn an_event_for_a_channel_of_another_partition_is_refused() {
    Library::both(&[], |mut library| {
        library.keys = sse_contract::Keys::new("sse", 16);
        let publish = |partition: u16, channel: &str| {
            let names = [
                format!("sse:{{{partition}}}:state"),
                format!("sse:{{{partition}}}:history:{channel}"),
            ];
            library.run(Function::Publish, &[&names[0], &names[1]], &["x"])
        };
        let channels =
            ["orders", "demo", "user:42", "mail:{orders}", "{user:42}:mail", "a{b}c", "Z"];
        let own = |channel: &str| library.keys.partition(channel);
        // A state without a number of partitions refuses nothing.
        publish(3, "early").id();
        for partition in 0..16 {
            library.call(&Call::tick(&library.keys, partition, &NEW)).elements();
        }
        for channel in channels {
            let others = (0..16).filter(|partition| *partition != own(channel));
            for partition in others {
                let refused = publish(partition, channel);
                assert_eq!(refused.meaning(), Meaning::Invalid, "{refused:?}");
                let told =
                    [format!("partition {} of 16", own(channel)), format!("not to {partition}")];
                assert!(told.iter().all(|told| refused.error().contains(told)), "{refused:?}");
                let history = format!("sse:{{{partition}}}:history:{channel}");
                assert_eq!(library.redis.command(&["EXISTS", &history]), "0");
            }
            publish(own(channel), channel).id();
        }
        // In a batch, it concerns its own event alone.
        let names = ["sse:{9}:state", "sse:{9}:history:demo", "sse:{9}:history:orders"];
        let answer = library.run(Function::PublishBatch, &names, &["", "x", "", "y", ""]);
        let items = answer.items();
        assert!(matches!(items[..], [Err((Meaning::Invalid, _)), Ok(_)]), "{items:?}");
    });
}

#[test]
fn partitions_that_are_called_in_turn_are_kept_apart() {
    Library::both(&[], |mut library| {
        library.keys = sse_contract::Keys::new("sse", 16);
        let channels = ["orders", "demo", "user:42"];
        let tick = |partition: u16, max_data: u64| {
            let caller = super::Caller { max_data, ..NEW };
            library.call(&Call::tick(&library.keys, partition, &caller)).elements()[0].id()
        };
        // Each partition has its own clock, epoch and limit. The clocks are 0, 1 and 2 hours ahead.
        let mut clocks: Vec<EventId> = Vec::new();
        for (n, channel) in channels.into_iter().enumerate() {
            let partition = library.keys.partition(channel);
            let clock = tick(partition, n as u64 + 1);
            let ahead = EventId { ms: clock.ms + n as u64 * 3_600_000, ..clock };
            let state = library.keys.state(partition);
            library.redis.command(&["HSET", &state, "id", &ahead.to_string()]);
            clocks.push(ahead);
        }
        for round in 0..20 {
            for (n, channel) in channels.into_iter().enumerate() {
                let largest = "x".repeat(n + 1);
                let id = library.publish(channel, &largest).id();
                assert!(id > clocks[n], "round {round}, {channel}");
                assert_eq!(id.epoch(), clocks[n].epoch(), "round {round}, {channel}");
                assert!(id.ms - clocks[n].ms < 1_800_000, "round {round}, {channel}");
                clocks[n] = id;
                let larger = "x".repeat(n + 2);
                assert_eq!(library.publish(channel, &larger).meaning(), Meaning::Invalid);
                let partition = library.keys.partition(channel);
                let state = library.keys.state(partition);
                let generation = library.redis.command(&["HGET", &state, "known"]);
                let known = library.keys.known(partition, generation.parse().unwrap());
                let witness = library.redis.command(&["HGET", &known, channel]);
                assert_eq!(witness, id.to_string());
            }
        }
    });
}
