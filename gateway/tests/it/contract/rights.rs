//! Tests of Redis users that lack a right: their call writes nothing and says why, or does not need
//! the right.

use sse_contract::{Call, Meaning, Publish};
use sse_lab::redis_server::RedisServer;

use super::{Answer, Caller, Connection, DEBUG, Library, Listener, Meant, NEW, event, name};

/// The commands that are denied one by one: all that publishing may run, and some that it never
/// runs.
const COMMANDS: [&str; 17] = [
    "hmget",
    "time",
    "hset",
    "xadd",
    "xdel",
    "pexpireat",
    "publish",
    "get",
    "set",
    "unlink",
    "hget",
    "info",
    "xinfo",
    "exists",
    "del",
    "hincrby",
    "xtrim",
];

/// The commands without which no ordinary event can be published.
const NEEDED: [&str; 9] =
    ["hmget", "time", "hset", "xadd", "xdel", "pexpireat", "publish", "get", "set"];

/// Changes the data before the publish, so that the script takes another path.
type Prepare = fn(&Library);

fn nothing(_: &Library) {}

fn absent_history(library: &Library) {
    library.redis.command(&["DEL", "sse:history:a"]);
}

fn absent_state(library: &Library) {
    library.redis.command(&["DEL", "sse:state"]);
}

fn first_version(library: &Library) {
    for field in ["publishing", "known", "known_until", "beat", "replid", "commands", "durable"] {
        library.redis.command(&["HDEL", "sse:state", field]);
    }
    library.set("version", "1");
}

fn state_older_than_history(library: &Library) {
    let clock = library.get("id");
    let (ms, seq) = clock.split_once('-').unwrap();
    let ahead = format!("{}-{seq}", ms.parse::<u64>().unwrap() + 60_000);
    library.redis.command(&["XADD", "sse:history:a", &ahead, "data", "from the future"]);
}

fn generation_over(library: &Library) {
    let limits = library.get("publishing");
    let (rest, _) = limits.rsplit_once(' ').unwrap();
    library.set("publishing", &format!("{rest} 1"));
    library.set("known_until", "1");
}

const WAYS: [(&str, Prepare); 6] = [
    ("an ordinary event", nothing),
    ("an absent history", absent_history),
    ("an absent state", absent_state),
    ("a state of version 1", first_version),
    ("a state older than a history", state_older_than_history),
    ("the end of a generation", generation_over),
];

/// Publishes an event with an idempotency key as a user, alone or as a batch of one.
fn publish_as(library: &Library, user: &str, batch: bool) -> Result<Answer, Meaning> {
    let mut connection = Connection::to(library.redis.addr);
    connection.ask([&b"AUTH"[..], user.as_bytes(), b"-"]);
    let channel = name("a");
    let item = Publish { idempotency_key: Some("k"), ..event(&channel, "by the user") };
    let call = match batch {
        false => Call::publish(&library.keys, &item, None),
        true => Call::batch(&library.keys, 0, &[item], None),
    };
    let answer = library.call_on(&mut connection, &call);
    let Answer::Array(items) = &answer else {
        return if let Answer::Error(_) = answer { Err(answer.meaning()) } else { Ok(answer) };
    };
    assert_eq!(items.len(), 1);
    sse_contract::batch_answer(items[0].text()).map_err(|(meaning, _)| meaning)?;
    Ok(items[0].clone())
}

#[test]
fn a_user_without_one_right_writes_nothing_and_is_told() {
    Library::both(&DEBUG, |library| {
        for command in COMMANDS {
            let rules = ["~sse:*", "&sse:*", "+@all", &format!("-{command}")];
            let user = ["ACL", "SETUSER", "guest", "reset", "on", "nopass"];
            assert_eq!(library.redis.command(&[&user[..], &rules].concat()), "OK");
            for (way, (about, prepare)) in WAYS.iter().enumerate() {
                for batch in [false, true] {
                    library.redis.command(&["FLUSHALL"]);
                    library.tick(NEW);
                    library.publish("a", "before").id();
                    prepare(&library);
                    let mut listener = Listener::on(&library.redis, &["sse:a"]);
                    let before = library.digest();
                    let story = format!("without {command}, {about}, batch {batch}");
                    match publish_as(&library, "guest", batch) {
                        Ok(id) => {
                            let heard = listener.heard();
                            assert_eq!(heard.len(), 1, "{story}");
                            assert_eq!(heard[0].0.to_string(), id.text(), "{story}");
                            let last = ["XREVRANGE", "sse:history:a", "+", "-", "COUNT", "1"];
                            let last = library.redis.command(&last);
                            assert!(last.starts_with(id.text()), "{story}: {last}");
                            let record = library.redis.command(&["GET", "sse:idem:a|k"]);
                            assert!(record.starts_with(id.text()), "{story}: {record}");
                        }
                        Err(meaning) => {
                            assert_eq!(meaning, Meaning::Denied, "{story}");
                            assert_eq!(listener.heard(), [], "{story}");
                            assert_eq!(library.redis.command(&["EXISTS", "sse:idem:a|k"]), "0");
                            let after = library.digest();
                            let history = |digest: &str| {
                                let of = |line: &&str| line.starts_with("sse:history");
                                digest.lines().filter(of).map(str::to_owned).collect::<Vec<_>>()
                            };
                            assert_eq!(history(&after), history(&before), "{story}");
                            // On the other paths the script may have put the clock, the limits or
                            // the witness in order before.
                            if way < 2 {
                                assert_eq!(after, before, "{story}");
                            }
                        }
                    }
                    if way == 0 {
                        let denied = publish_as(&library, "guest", batch).is_err();
                        assert_eq!(
                            denied,
                            NEEDED.contains(&command) || command == "unlink",
                            "{story}"
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn where_no_history_is_kept_the_clock_is_still_to_be_written() {
    Library::both(&DEBUG, |library| {
        library.tick(Caller { max_len: 0, ..NEW });
        let rules =
            ["ACL", "SETUSER", "guest", "on", "nopass", "~sse:*", "&sse:*", "+@all", "-hset"];
        assert_eq!(library.redis.command(&rules), "OK");
        let mut listener = Listener::on(&library.redis, &["sse:a"]);
        let before = library.digest();
        for batch in [false, true] {
            assert_eq!(publish_as(&library, "guest", batch), Err(Meaning::Denied));
        }
        assert_eq!((library.digest(), listener.heard()), (before, vec![]));
    });
}

/// The rights that docs/redis-contract.md names.
const PUBLISHERS: &str = "+fcall +evalsha +hmget +time +hset +xadd +xdel +pexpireat +publish +get +set +unlink +hget \
                          +info +xinfo";
const GATEWAYS: &str = "+hincrby +exists +xrange +xrevrange";

#[test]
fn the_rights_of_the_written_contract_are_enough() {
    Library::both(&[], |library| {
        let rules = format!("reset on nopass ~sse:* &sse:* -@all +auth {PUBLISHERS}");
        let user = |name: &'static str, rules: &str| {
            let words: Vec<&str> =
                ["ACL", "SETUSER", name].into_iter().chain(rules.split(' ')).collect();
            assert_eq!(library.redis.command(&words), "OK");
        };
        user("guest", &rules);
        for (_, prepare) in WAYS {
            library.redis.command(&["FLUSHALL"]);
            library.tick(NEW);
            library.publish("a", "before").id();
            prepare(&library);
            assert!(publish_as(&library, "guest", false).is_ok());
            assert!(publish_as(&library, "guest", true).is_ok());
        }
        // A gateway's calls are made by the default user here.
        user("default", &format!("-@all {PUBLISHERS} {GATEWAYS}"));
        let tick = library.tick(NEW);
        let snapshot = library.read(tick.seen(), &[("a", "0-0"), ("a", "~0-0"), ("b", "0-0")]);
        assert!(snapshot.ranges.iter().all(Result::is_ok));
    });
}

#[test]
fn a_user_confined_to_other_keys_or_channels_is_told_which() {
    Library::both(&DEBUG, |library| {
        library.tick(NEW);
        library.publish("a", "before").id();
        let before = library.digest();
        let keys = "~sse:state ~sse:history:* ~sse:idem:*";
        for (rules, denied) in [
            (format!("{keys} &sse:*"), "HSET sse:known:1"),
            (format!("{keys} ~sse:known:* &sse:b"), "PUBLISH sse:a"),
            ("%R~sse:state ~sse:history:* ~sse:idem:* ~sse:known:* &sse:*".to_owned(), "sse:state"),
        ] {
            let user = ["ACL", "SETUSER", "guest", "reset", "on", "nopass", "+@all"];
            let rules: Vec<&str> = user.into_iter().chain(rules.split(' ')).collect();
            assert_eq!(library.redis.command(&rules), "OK");
            let mut connection = Connection::to(library.redis.addr);
            connection.ask([&b"AUTH"[..], b"guest", b"-"]);
            let channel = name("a");
            let call = Call::publish(&library.keys, &event(&channel, "x"), None);
            let answer = library.call_on(&mut connection, &call);
            match answer.meaning() {
                Meaning::Denied => assert!(answer.error().contains(denied), "{answer:?}"),
                // Redis itself checks the keys of a call before it runs it.
                meaning => assert!(
                    meaning == Meaning::Unknown && answer.error().starts_with("NOPERM"),
                    "{answer:?}"
                ),
            }
            assert_eq!(library.digest(), before);
        }
    });
}

#[test]
fn in_a_batch_a_channel_that_is_denied_denies_no_other() {
    Library::both(&[], |library| {
        library.tick(NEW);
        let rules = ["ACL", "SETUSER", "guest", "on", "nopass", "+@all", "~sse:*", "&sse:a"];
        assert_eq!(library.redis.command(&rules), "OK");
        let mut listener = Listener::on(&library.redis, &["sse:a", "sse:b"]);
        let mut connection = Connection::to(library.redis.addr);
        connection.ask([&b"AUTH"[..], b"guest", b"-"]);
        let (a, b) = (name("a"), name("b"));
        let items = [event(&a, "1"), event(&b, "2"), event(&a, "3")];
        let answer = library.call_on(&mut connection, &Call::batch(&library.keys, 0, &items, None));
        let items = answer.items();
        assert_eq!(items[1], Err((Meaning::Denied, "this user may not PUBLISH sse:b")));
        let sent = [0, 2].map(|n| (items[n].unwrap(), (n + 1).to_string()));
        assert_eq!(listener.heard(), sent);
        assert_eq!(library.redis.command(&["EXISTS", "sse:history:b"]), "0");
    });
}

#[test]
fn a_gateway_without_one_right_changes_nothing_and_is_told() {
    Library::both(&DEBUG, |library| {
        for command in ["hmget", "hset", "hincrby", "unlink", "info", "time"] {
            library.redis.command(&["FLUSHALL"]);
            library.publish("a", "x").id();
            let before = library.digest();
            let rules = ["~sse:*", "&sse:*", "+@all", &format!("-{command}")];
            let user = ["ACL", "SETUSER", "guest", "reset", "on", "nopass"];
            assert_eq!(library.redis.command(&[&user[..], &rules].concat()), "OK");
            let mut connection = Connection::to(library.redis.addr);
            connection.ask([&b"AUTH"[..], b"guest", b"-"]);
            let answer = library.call_on(&mut connection, &Call::tick(&library.keys, 0, &NEW));
            assert_eq!(answer.meaning(), Meaning::Denied, "without {command}: {answer:?}");
            assert_eq!(library.digest(), before, "without {command}");
        }
    });
}

/// Redis 8.2.9 and newer judge no call that is too short. Older servers do, so all are asked how long
/// a call must be.
#[test]
fn rights_are_asked_for_with_calls_that_are_long_enough() {
    let redis = RedisServer::start();
    let source = sse_contract::library_source();
    let (_, table) = source.split_once("local BEHIND = {").expect("it is there");
    let (table, rest) = table.split_once("\n}").expect("it ends");
    let listed = table.split("},").filter_map(|entry| entry.split_once(" = {"));
    let mut calls: Vec<(String, usize)> = listed
        .map(|(cmd, behind)| (cmd.trim().to_lowercase(), 2 + behind.matches("''").count()))
        .collect();
    for call in rest.split("may(").skip(1) {
        let arguments = call.split_once(')').expect("it ends").0;
        let cmd = arguments.split(',').next().expect("a command").trim_matches('\'');
        calls.push((cmd.to_lowercase(), arguments.split(',').count()));
    }
    assert!(calls.len() > 20, "{calls:?}");
    for (cmd, words) in calls {
        let answer = redis.command(&["COMMAND", "INFO", &cmd]);
        let arity: isize = answer.lines().nth(1).expect("it is known").parse().expect("a number");
        let long_enough = words >= arity.unsigned_abs() && (arity < 0 || words as isize == arity);
        assert!(long_enough, "{cmd}: {words} words, but its arity is {arity}");
    }
}
