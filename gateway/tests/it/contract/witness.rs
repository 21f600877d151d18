//! Tests of the witness, which tells a reader that a history vanished before its time.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use sse_contract::EventId;

use super::{Item, Library, Meant, NEW, Range};
use crate::support::{Redis, Scratch, eventually};

fn range(library: &Library, channel: &str, after: EventId) -> Range {
    let snapshot = library.read(NEW, &[(channel, &after.to_string())]);
    snapshot.ranges[0].clone().unwrap()
}

/// Whether events may be missing after a young position, by the rule that gateways use.
fn is_missed(range: &Range, position: EventId) -> bool {
    let at_or_below = |id: &str| id.parse::<EventId>().is_ok_and(|id| id <= position);
    !at_or_below(&range.last) && !at_or_below(&range.oldest) && !range.untrimmed()
}

#[test]
fn a_deleted_history_is_missed_and_what_is_published_after_it_does_not_hide_that() {
    Library::both(&[], |library| {
        let position = library.tick(NEW).clock;
        let single = library.publish("a", "lost").id();
        let batch = library.batch(&[Item::new("b", "lost"), Item::new("b", "lost, too")]);
        let last = [single, batch.items()[1].unwrap()];
        for (channel, last) in ["a", "b"].into_iter().zip(last) {
            library.redis.command(&["DEL", &format!("sse:history:{channel}")]);
            let found = range(&library, channel, position);
            assert_eq!(found.last, last.to_string());
            assert!(is_missed(&found, position) && !is_missed(&found, last), "{found:?}");
            let new = library.publish(channel, "new").id();
            let found = range(&library, channel, position);
            assert_eq!(
                (found.last.clone(), &found.data[..]),
                (new.to_string(), &["new".to_owned()][..])
            );
            assert!(is_missed(&found, position), "{found:?}");
            library.batch(&[Item::new(channel, "newer")]);
            assert!(is_missed(&range(&library, channel, position), position));
            assert!(!is_missed(&range(&library, channel, new), new));
        }
    });
}

/// A small hash is a list otherwise, in which every event searches for its channel.
#[test]
fn a_witness_is_a_hash_table_from_its_first_event() {
    Library::both(&[], |library| {
        library.publish("a", "x").id();
        let witness = library.redis.command(&["KEYS", "sse:known:*"]);
        assert_eq!(library.redis.command(&["OBJECT", "ENCODING", &witness]), "hashtable");
    });
}

#[test]
fn a_batch_that_begins_a_history_anew_does_not_hide_the_old_one() {
    Library::both(&[], |library| {
        let position = library.tick(NEW).clock;
        library.publish("a", "lost").id();
        library.redis.command(&["DEL", "sse:history:a"]);
        library.batch(&[Item::new("a", "new"), Item::new("a", "newer")]);
        let found = range(&library, "a", position);
        assert_eq!(found.data, ["new", "newer"]);
        assert!(is_missed(&found, position), "{found:?}");
    });
}

#[test]
fn a_history_put_back_from_an_older_copy_is_missed() {
    Library::both(&[], |library| {
        let kept = library.publish("a", "kept").id();
        let position = library.tick(NEW).clock;
        library.redis.command(&["COPY", "sse:history:a", "aside"]);
        let lost = library.publish("a", "lost").id();
        library.redis.command(&["COPY", "aside", "sse:history:a", "REPLACE"]);
        let found = range(&library, "a", position);
        assert_eq!((found.last, found.oldest), (lost.to_string(), kept.to_string()));
        assert!(found.added > found.length);
    });
}

#[test]
fn a_channel_that_was_never_published_on_is_complete() {
    Library::both(&[], |library| {
        let position = library.tick(NEW).clock;
        assert!(!is_missed(&range(&library, "a", position), position));
        library.publish("a", "first").id();
        let found = range(&library, "a", position);
        assert!(found.untrimmed() && found.length == 1, "{found:?}");
    });
}

#[test]
fn a_witness_that_was_deleted_begins_an_epoch() {
    Library::both(&[], |library| {
        let mut tick = library.tick(NEW);
        for _ in 0..3 {
            let known = format!("sse:known:{}", library.get("known"));
            library.redis.command(&["DEL", &known]);
            // A publish makes the hash again, but not its mark.
            library.publish("a", "x").id();
            let after = library.tick(tick.seen());
            assert_ne!(after.epoch(), tick.epoch());
            assert_eq!(library.tick(after.seen()).epoch(), after.epoch(), "once");
            tick = after;
        }
        let known = format!("sse:known:{}", library.get("known"));
        library.redis.command(&["SET", &known, "no hash"]);
        let after = library.tick(tick.seen());
        assert_ne!(after.epoch(), tick.epoch());
        assert_eq!(library.publish("new", "x").id().epoch(), after.epoch());
    });
}

#[test]
fn after_an_epoch_began_what_was_lost_before_it_is_told_by_the_epoch_alone() {
    Library::both(&[], |library| {
        library.tick(NEW);
        library.publish("a", "lost").id();
        library.redis.command(&["DEL", "sse:history:a"]);
        let fenced = library.run(sse_contract::Function::Fence, &["sse:state"], &[]).id();
        assert!(!is_missed(&range(&library, "a", fenced), fenced));
        library.publish("a", "new").id();
        let found = range(&library, "a", fenced);
        assert!(!is_missed(&found, fenced), "{found:?}");
    });
}

/// Shifts the time of its Redis servers by the seconds that a file holds.
struct ShiftedTime {
    offset: File,
    dir: Scratch,
}

impl ShiftedTime {
    /// Builds a library that shifts `gettimeofday`, from which Redis takes its time. libfaketime
    /// does not work with jemalloc.
    fn prepare() -> Self {
        let dir = Scratch::new("time");
        let (source, object) = (dir.path().join("shift.c"), dir.path().join("shift.so"));
        std::fs::write(&source, include_str!("shifted_time.c")).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&object).arg(&source).stdin(Stdio::null());
        let done = crate::support::spawn(&mut cc, "build-essential").wait().unwrap();
        assert!(done.success());
        let mut offset = File::create(dir.path().join("offset")).unwrap();
        offset.write_all(b"+000000000").unwrap();
        ShiftedTime { offset, dir }
    }

    fn redis(&self) -> Redis {
        let path = |name: &str| self.dir.path().join(name).to_str().unwrap().to_owned();
        let env = [("LD_PRELOAD", path("shift.so")), ("SHIFTED_BY", path("offset"))];
        Redis::start_in(&env.each_ref().map(|(name, value)| (*name, value.as_str())), &[])
    }

    fn shift(&self, seconds: u32) {
        self.offset.write_all_at(format!("+{seconds:09}").as_bytes(), 0).unwrap();
    }
}

const HOUR: u32 = 3600;

#[test]
fn histories_that_a_glitch_of_the_clock_took_are_missed() {
    let time = ShiftedTime::prepare();
    for library in [Library::functions(time.redis()), Library::scripts(time.redis())] {
        let position = library.tick(NEW).clock;
        let lost = library.publish("a", "lost").id();
        library.publish("b", "lost").id();
        // The time goes two hours forward and back, with no tick or publish in between. Only the
        // witness tells.
        time.shift(2 * HOUR);
        eventually("Redis takes the histories", || library.redis.command(&["DBSIZE"]) == "2");
        time.shift(0);
        let tick = library.tick(NEW);
        assert_eq!(tick.epoch(), position.epoch());
        assert!(
            tick.clock.ms < position.ms + u64::from(HOUR) * 1000,
            "the clock saw nothing of it"
        );
        let found = range(&library, "a", position);
        assert_eq!(found.last, lost.to_string());
        assert!(is_missed(&found, position), "{found:?}");
        library.publish("b", "new").id();
        let found = range(&library, "b", position);
        assert!(is_missed(&found, position), "{found:?}");
    }
}

#[test]
fn a_history_that_went_in_its_time_is_not_missed() {
    let time = ShiftedTime::prepare();
    let library = Library::functions(time.redis());
    library.tick(NEW);
    library.publish("a", "old").id();
    time.shift(HOUR + 70);
    let position = library.tick(NEW).clock;
    eventually("Redis takes the history", || library.length("a") == "0");
    assert!(!is_missed(&range(&library, "a", position), position));
    library.publish("a", "new").id();
    let found = range(&library, "a", position);
    assert!(found.untrimmed() && found.length == 1, "{found:?}");
    time.shift(0);
}

#[test]
fn the_witness_keeps_two_generations() {
    let time = ShiftedTime::prepare();
    for by_tick in [false, true] {
        let library = Library::functions(time.redis());
        library.tick(NEW);
        let position = library.publish("other", "x").id();
        let lost = library.publish("a", "lost").id();
        time.shift(HOUR);
        let late = library.publish("b", "late").id();
        let turn = |n: u32| {
            // A generation lasts as long as a history lives.
            time.shift(n * (HOUR + 61));
            match by_tick {
                true => drop(library.tick(NEW)),
                false => drop(library.publish("other", "x").id()),
            }
            let mut known: Vec<String> = library
                .redis
                .command(&["KEYS", "sse:known:*"])
                .lines()
                .map(str::to_owned)
                .collect();
            known.sort();
            known
        };
        assert_eq!(turn(1), ["sse:known:1", "sse:known:2"]);
        assert_eq!(library.get("known"), "2");
        library.redis.command(&["DEL", "sse:history:a"]);
        assert_eq!(range(&library, "a", position).last, lost.to_string());
        // The generation before still counts.
        library.redis.command(&["DEL", "sse:history:b"]);
        assert_eq!(range(&library, "b", position).last, late.to_string());
        library.publish("b", "new").id();
        assert!(!range(&library, "b", position).untrimmed());
        assert_eq!(turn(2), ["sse:known:2", "sse:known:3"]);
        assert_eq!(turn(3), ["sse:known:3", "sse:known:4"]);
        assert_eq!(range(&library, "a", position).last, "");
        time.shift(0);
    }
}
