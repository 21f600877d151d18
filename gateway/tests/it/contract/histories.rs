//! Tests of reads: what a range holds, and that an unreadable range affects no other.

use super::{Item, Library, Meant, NEW};

#[test]
fn a_range_answers_what_stands_behind_a_position() {
    Library::both(&[], |library| {
        library.tick(NEW);
        let first = library.publish("a", "1").id();
        let second = library.publish("a", "2").id();
        let third = library.publish("a", "3").id();
        let tick = library.tick(NEW);
        let after = format!("~{first}");
        let positions = [("a", "0-0"), ("a", &second.to_string()), ("a", &after), ("none", "0-0")];
        let snapshot = library.read(tick.seen(), &positions);
        let range = |n: usize| snapshot.ranges[n].clone().unwrap();
        assert_eq!(range(0).data, ["1", "2", "3"]);
        assert_eq!(range(1).data, ["3"]);
        assert_eq!(range(2).data, ["2", "3"]);
        let (last, oldest) = (range(0).last, range(0).oldest);
        assert_eq!((last, oldest), (third.to_string(), first.to_string()));
        assert_eq!((range(0).added, range(0).length), (3, 3));
        let none = range(3);
        assert_eq!((none.last.as_str(), none.added, none.length), ("", 0, 0));
        assert_eq!(snapshot.clock.epoch(), third.epoch());
    });
}

#[test]
fn types_are_kept_with_the_events() {
    Library::both(&[], |library| {
        library.tick(NEW);
        let typed = |data| Item { event: Some("tick: ü"), ..Item::new("a", data) };
        library.publish_item(&typed("first")).id();
        library.publish("a", "untyped").id();
        library.publish_item(&typed("third")).id();
        library.batch(&[typed("fourth"), Item::new("a", "fifth")]);
        let snapshot = library.read(NEW, &[("a", "0-0")]);
        let range = snapshot.ranges[0].as_ref().unwrap();
        assert_eq!(range.types, ["tick: ü", "", "tick: ü", "tick: ü", ""]);
        assert_eq!(range.data, ["first", "untyped", "third", "fourth", "fifth"]);
    });
}

#[test]
fn a_page_ends_at_its_budgets_and_has_at_least_one_event() {
    Library::both(&[], |library| {
        library.tick(NEW);
        for n in 0..40 {
            library.publish("a", &format!("{n:036}")).id();
            library.publish("b", &format!("{n:036}")).id();
        }
        // Each event counts as its data and 64 bytes.
        for (range_bytes, all_bytes, lengths) in [
            (1_000_000, 1_000_000, [40, 40]),
            (1000, 1_000_000, [10, 10]),
            (1000, 1500, [10, 5]),
            (2500, 2500, [25, 1]),
            (0, 0, [1, 1]),
        ] {
            let budgets = (range_bytes, all_bytes);
            let (ranges, more) = library.page(budgets, &[("a", "0-0"), ("b", "0-0")]);
            let found: Vec<usize> = ranges.iter().map(|range| range.data.len()).collect();
            assert_eq!(found, lengths, "{budgets:?}");
            let cut: Vec<bool> = lengths.iter().map(|&length| length < 40).collect();
            assert_eq!(more, cut, "{budgets:?}");
        }
    });
}

#[test]
fn a_history_that_cannot_be_read_is_no_others_trouble() {
    Library::both(&[], |library| {
        let id = library.publish("good", "x").id();
        let add = |channel: &str, id: &str| {
            let history = format!("sse:history:{channel}");
            assert_eq!(library.redis.command(&["XADD", &history, id, "data", "x"]), id);
        };
        library.redis.command(&["SET", "sse:history:text", "x"]);
        add("seq", "5-999999999999999");
        add("ms", "999999999999999-1");
        add("middle", "5-999999999999999");
        add("middle", "6-1");
        let tick = library.tick(NEW);
        let channels = ["good", "text", "seq", "ms", "middle", "good"];
        let positions: Vec<(&str, &str)> = channels.map(|channel| (channel, "0-0")).into();
        let snapshot = library.read(tick.seen(), &positions);
        for n in [0, 5] {
            let range = snapshot.ranges[n].as_ref().unwrap();
            assert_eq!(
                (range.last.clone(), &range.data[..]),
                (id.to_string(), &["x".to_owned()][..])
            );
        }
        for (n, words) in [(1, "WRONGTYPE"), (2, "no id"), (3, "no id"), (4, "no id")] {
            let why = snapshot.ranges[n].as_ref().unwrap_err();
            assert!(why.contains(words), "{}: {why}", channels[n]);
        }
        assert_eq!(snapshot.clock.epoch(), tick.epoch(), "nor does it begin an epoch");
        // A position below the unreadable id: the range still holds it.
        let snapshot = library.read(tick.seen(), &[("middle", "5-9999999999999")]);
        assert!(snapshot.ranges[0].is_err());
    });
}

#[test]
fn what_the_user_may_not_read_is_that_ranges_trouble() {
    let library = Library::start();
    let tick = library.tick(NEW);
    library.publish("a", "x").id();
    for (command, positions, absent_is_read) in [
        ("exists", ["0-0", "0-0"], false),
        ("xinfo", ["0-0", "0-0"], true),
        ("xrange", ["0-0", "0-0"], true),
        ("xrevrange", ["~0-0", "~0-0"], true),
    ] {
        library.redis.command(&["ACL", "SETUSER", "default", "+@all", &format!("-{command}")]);
        let snapshot = library.read(tick.seen(), &[("a", positions[0]), ("b", positions[1])]);
        let why = snapshot.ranges[0].as_ref().unwrap_err();
        assert!(why.contains("can't run") || why.contains("no permissions"), "{command}: {why}");
        assert_eq!(snapshot.ranges[1].is_ok(), absent_is_read, "{command}");
    }
}

#[test]
fn what_is_no_history_is_that_ranges_trouble() {
    Library::both(&[], |library| {
        library.tick(NEW);
        library.publish("a", "x").id();
        let words = NEW.words(1);
        let positions = ["100000", "100000", "0-0", "0-0", "0-0"];
        let args: Vec<&str> = words.iter().map(String::as_str).chain(positions).collect();
        let keys = ["sse:state", "other:history:a", "sse:history:a", "sse:history:"];
        let answer = library.run(sse_contract::Function::Read, &keys, &args);
        let lengths: Vec<usize> =
            answer.elements()[4..].iter().map(|range| range.elements().len()).collect();
        assert_eq!(lengths, [1, 6, 1], "{answer:?}");
    });
}
