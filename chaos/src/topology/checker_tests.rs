//! Tests of the checker: each violation is inflicted on a history and must be found, and nothing
//! else.

use sse_contract::{Cursor, EventId, Keys, Positions};
use sse_lab::event_stream::Block;

use crate::payload::{CROWD, KEYLESS, Stamp, channel_name};
use crate::tally::Wrong;
use crate::topology::checker::judge;
use crate::topology::history::{History, Seen, Window};

const SEED: u64 = 7;
/// Where the ids of these tests begin.
const BASE: u64 = 1_700_000_000_000;

/// A history with one stream over two partitions, on a channel of each.
struct Scene {
    history: History,
    seen: Seen,
    /// The position in each of the two partitions.
    at: [EventId; 2],
    channels: [u16; 2],
    now_ms: u64,
}

impl Scene {
    fn new() -> Self {
        let keys = Keys::new("sse", 4);
        let of = |partition| {
            let mut all = CROWD.filter(|n| keys.partition(&channel_name(*n)) == partition);
            all.next().expect("a channel of the partition")
        };
        let channels = [of(0), of(1)];
        let mut scene = Scene {
            history: History::new(keys),
            seen: Seen::new("test".to_owned(), channels.into(), true),
            at: [Self::id(0, 1), Self::id(0, 2)],
            channels,
            now_ms: BASE,
        };
        scene.open();
        scene.checkpoint();
        scene
    }

    fn id(at: u64, epoch: u32) -> EventId {
        EventId::new(BASE + at, epoch, 0)
    }

    fn stamp(&self, place: usize, seq: u32) -> Stamp {
        Stamp { channel: self.channels[place], publisher: 1, seq }
    }

    /// Opens a connection with the cursor, if there is one.
    fn open(&mut self) {
        let cursor = (!self.seen.told.is_empty()).then(|| self.cursor());
        self.seen.opening(cursor.as_deref(), &self.history.keys, self.now_ms);
        self.seen.head(self.now_ms);
    }

    fn cursor(&self) -> String {
        let positions = [(0, self.at[0]), (1, self.at[1])];
        Cursor::Several(Positions::new(4, positions)).to_string()
    }

    /// Publishes the event `seq`, whose id is at `seq` times 100 ms.
    fn publish(&mut self, place: usize, seq: u32, epoch: u32) {
        self.publish_as(self.stamp(place, seq), Self::id(u64::from(seq) * 100, epoch));
    }

    fn publish_as(&mut self, stamp: Stamp, id: EventId) {
        self.history.sending(stamp, id.ms - 1);
        self.history.acknowledged(stamp, id, id.ms + 1);
    }

    fn block(&mut self, event: &str, data: &str) {
        let (id, event, data) = (self.cursor(), event.to_owned(), data.to_owned());
        let block = Block { id, event, data };
        self.now_ms = self.now_ms.max(self.at[0].ms).max(self.at[1].ms) + 5;
        self.seen.take(&block, SEED, &self.history.keys, self.now_ms);
    }

    fn checkpoint(&mut self) {
        self.block("checkpoint", "");
    }

    fn event(&mut self, place: usize, seq: u32, epoch: u32) {
        self.event_as(place, self.stamp(place, seq), Self::id(u64::from(seq) * 100, epoch));
    }

    fn event_as(&mut self, place: usize, stamp: Stamp, id: EventId) {
        self.at[place] = id;
        self.block("", &stamp.text(SEED));
    }

    /// Publishes and receives.
    fn comes(&mut self, place: usize, seq: u32, epoch: u32) {
        self.publish(place, seq, epoch);
        self.event(place, seq, epoch);
    }

    /// A gap of the channel's partition, after all that was broken so far.
    fn gap(&mut self, place: usize, reason: &str) {
        let ends = self.history.windows.iter().map(|window| window.ended_ms);
        self.now_ms = ends.max().unwrap_or_default().max(self.now_ms);
        let after = self.at[place].to_string();
        let data = serde_json::json!({
            "channel": "*", "reason": reason, "after": after,
            "channels": [channel_name(self.channels[place])],
        });
        self.block("gap", &data.to_string());
    }

    /// Notes a fault of a partition.
    fn broken(&mut self, partition: u16, at: std::ops::Range<u64>, change: fn(&mut Window)) {
        let mut window = Window {
            fault: "test",
            partitions: vec![partition],
            also_away: Vec::new(),
            began_ms: BASE + at.start,
            ended_ms: BASE + at.end,
            ends_epoch: false,
            splits: false,
        };
        change(&mut window);
        self.history.windows.push(window);
    }

    #[track_caller]
    fn finds(mut self, expected: &[Wrong]) {
        self.history.seen.push(self.seen);
        let judgement = judge(&self.history);
        let found: Vec<Wrong> = judgement.wrongs.iter().map(|(what, _)| *what).collect();
        assert_eq!(found, expected, "{:#?}", judgement.wrongs);
    }
}

fn ends_epoch(window: &mut Window) {
    window.ends_epoch = true;
}

#[test]
fn a_stream_that_has_everything_is_sound() {
    let mut scene = Scene::new();
    for seq in 1..5 {
        scene.comes(0, seq, 1);
        scene.comes(1, seq, 2);
    }
    scene.checkpoint();
    scene.open();
    scene.checkpoint();
    scene.comes(0, 5, 1);
    scene.finds(&[]);
}

#[test]
fn an_event_between_two_that_came_is_lost() {
    let mut scene = Scene::new();
    scene.comes(0, 1, 1);
    scene.publish(0, 2, 1);
    // Ids of the other partition say nothing about it.
    scene.comes(1, 3, 2);
    scene.comes(0, 3, 1);
    scene.finds(&[Wrong::Lost]);
}

#[test]
fn an_event_below_a_checkpoint_is_lost() {
    let mut scene = Scene::new();
    scene.publish(0, 1, 1);
    scene.at[0] = Scene::id(200, 1);
    scene.checkpoint();
    scene.finds(&[Wrong::Lost]);
}

#[test]
fn an_event_after_the_head_is_owed_whatever_the_first_position_is() {
    let mut scene = Scene::new();
    scene.seen.told.clear();
    scene.publish(0, 1, 1);
    scene.at[0] = Scene::id(200, 1);
    scene.checkpoint();
    scene.finds(&[Wrong::Lost]);
}

#[test]
fn what_is_behind_the_end_of_a_session_is_not_owed() {
    let mut scene = Scene::new();
    scene.comes(0, 1, 1);
    scene.publish(0, 2, 1);
    scene.finds(&[]);
}

#[test]
fn an_event_that_comes_again_is_doubled() {
    let mut scene = Scene::new();
    scene.comes(0, 1, 1);
    scene.event(0, 1, 1);
    scene.finds(&[Wrong::Duplicated]);
}

#[test]
fn a_publication_that_is_two_events_is_doubled() {
    let mut scene = Scene::new();
    scene.comes(0, 1, 1);
    let (stamp, id) = (scene.stamp(0, 1), Scene::id(200, 1));
    scene.publish_as(stamp, id);
    scene.event_as(0, stamp, id);
    scene.finds(&[Wrong::Duplicated]);
}

/// Redis forgot the key in the failover, so the repeat is another event. Without a key, nobody may
/// repeat.
#[test]
fn a_repeat_after_a_failover_is_no_double_if_it_has_a_key() {
    for (publisher, expected) in [(1, vec![]), (KEYLESS, vec![Wrong::Duplicated])] {
        let mut scene = Scene::new();
        scene.broken(0, 150..250, ends_epoch);
        let stamp = Stamp { publisher, ..scene.stamp(0, 1) };
        let [first, second] = [Scene::id(100, 1), Scene::id(300, 5)];
        scene.publish_as(stamp, first);
        scene.event_as(0, stamp, first);
        scene.gap(0, "reset");
        scene.publish_as(stamp, second);
        scene.event_as(0, stamp, second);
        scene.finds(&expected);
    }
}

#[test]
fn ids_of_a_partition_that_fall_are_out_of_order() {
    let mut scene = Scene::new();
    let other = Stamp { publisher: 2, ..scene.stamp(0, 1) };
    scene.publish_as(other, Scene::id(250, 1));
    scene.publish(0, 2, 1);
    scene.event_as(0, other, Scene::id(250, 1));
    scene.event(0, 2, 1);
    scene.finds(&[Wrong::Disorder]);
}

#[test]
fn numbers_of_a_publisher_that_fall_are_out_of_order() {
    let mut scene = Scene::new();
    let [first, second] = [scene.stamp(0, 2), scene.stamp(0, 1)];
    scene.publish_as(first, Scene::id(100, 1));
    scene.publish_as(second, Scene::id(200, 1));
    scene.event_as(0, first, Scene::id(100, 1));
    scene.event_as(0, second, Scene::id(200, 1));
    scene.finds(&[Wrong::Disorder]);
}

#[test]
fn a_position_that_goes_back_is_out_of_order() {
    let mut scene = Scene::new();
    scene.comes(0, 2, 1);
    // In a block about the other partition.
    scene.at[0] = Scene::id(100, 1);
    scene.comes(1, 3, 2);
    scene.finds(&[Wrong::Disorder]);
}

#[test]
fn a_reset_covers_what_the_failover_lost() {
    let mut scene = Scene::new();
    scene.broken(0, 150..250, ends_epoch);
    scene.comes(0, 1, 1);
    scene.publish(0, 2, 1);
    scene.gap(0, "reset");
    scene.comes(0, 3, 5);
    scene.finds(&[]);
}

#[test]
fn an_epoch_that_begins_untold_is_found_and_so_is_what_it_lost() {
    let mut scene = Scene::new();
    scene.broken(0, 150..250, ends_epoch);
    scene.comes(0, 1, 1);
    scene.publish(0, 2, 1);
    scene.comes(0, 3, 5);
    scene.finds(&[Wrong::Untold, Wrong::Lost]);
}

/// A reset of another partition covers nothing here.
#[test]
fn a_reset_of_other_channels_covers_nothing() {
    let mut scene = Scene::new();
    scene.broken(1, 150..250, ends_epoch);
    scene.broken(0, 150..250, ends_epoch);
    scene.comes(0, 1, 1);
    scene.publish(0, 2, 1);
    scene.gap(1, "reset");
    scene.comes(0, 3, 5);
    scene.comes(1, 4, 6);
    scene.finds(&[Wrong::Untold, Wrong::Lost]);
}

#[test]
fn a_reset_without_a_fault_of_its_partition_is_false() {
    let mut scene = Scene::new();
    scene.broken(1, 150..250, ends_epoch);
    // A move loses nothing.
    scene.broken(0, 150..250, |_| {});
    scene.comes(0, 1, 1);
    scene.gap(0, "reset");
    scene.comes(0, 3, 5);
    scene.finds(&[Wrong::FalseGap]);
}

#[test]
fn a_reset_out_of_an_epoch_that_goes_on_is_false() {
    let mut scene = Scene::new();
    scene.broken(0, 50..250, ends_epoch);
    scene.comes(0, 1, 1);
    scene.gap(0, "reset");
    scene.comes(0, 3, 1);
    // Another epoch did begin, so the reset is not told too often.
    scene.publish(0, 4, 5);
    scene.finds(&[Wrong::FalseGap]);
}

#[test]
fn nothing_is_trimmed_expired_or_unknown_in_these_runs() {
    for reason in ["trimmed", "expired", "unknown_id", "conflated"] {
        let mut scene = Scene::new();
        scene.comes(0, 1, 1);
        scene.gap(0, reason);
        scene.comes(0, 2, 1);
        scene.finds(&[Wrong::FalseGap]);
    }
}

#[test]
fn late_is_told_only_of_a_partition_that_is_away_and_to_who_has_no_position() {
    let late = |away: u16, with_cursor: bool| {
        let mut scene = Scene::new();
        scene.broken(away, 0..5, |_| {});
        if with_cursor {
            scene.open();
        } else {
            scene.seen.told.clear();
        }
        let name = channel_name(scene.channels[0]);
        let data = serde_json::json!({
            "channel": "*", "reason": "late", "after": "", "channels": [name],
        });
        scene.publish(0, 1, 1);
        scene.at[0] = Scene::id(150, 1);
        scene.block("gap", &data.to_string());
        scene
    };
    late(0, false).finds(&[]);
    late(1, false).finds(&[Wrong::FalseGap]);
    // So it covers nothing that such a client is owed.
    late(0, true).finds(&[Wrong::FalseGap, Wrong::Lost]);
}

#[test]
fn a_publication_of_unknown_outcome_may_be_an_event_or_not() {
    for comes in [false, true] {
        let mut scene = Scene::new();
        let stamp = Stamp { publisher: KEYLESS, ..scene.stamp(0, 1) };
        scene.history.sending(stamp, BASE);
        scene.history.doubted(stamp);
        if comes {
            scene.event_as(0, stamp, Scene::id(100, 1));
        }
        scene.comes(0, 2, 1);
        scene.finds(&[]);
    }
}

#[test]
fn what_nobody_published_is_forged() {
    let mut scene = Scene::new();
    scene.event(0, 1, 1);
    let other = Stamp { channel: 399, ..scene.stamp(0, 1) };
    scene.block("", &other.text(SEED));
    scene.block("", "1 2 3 4");
    scene.block("stranger", "");
    scene.finds(&[Wrong::Forged; 4]);
}

#[test]
fn an_epoch_of_a_publisher_between_two_is_covered_by_one_reset() {
    let mut scene = Scene::new();
    scene.broken(0, 150..400, ends_epoch);
    scene.comes(0, 1, 1);
    scene.publish(0, 2, 5);
    scene.publish(0, 3, 6);
    scene.gap(0, "reset");
    scene.event(0, 2, 5);
    scene.event(0, 3, 6);
    scene.finds(&[]);
}

/// It was over when the reset was told, so what it lost is covered, too.
#[test]
fn an_epoch_that_is_over_is_covered_by_the_reset_before_it() {
    let mut scene = Scene::new();
    scene.broken(0, 150..400, ends_epoch);
    scene.comes(0, 1, 1);
    scene.publish(0, 2, 5);
    scene.publish(0, 3, 5);
    scene.publish(0, 4, 6);
    scene.gap(0, "reset");
    scene.event(0, 2, 5);
    scene.event(0, 4, 6);
    scene.finds(&[]);
}

/// It began when the client had been told of the one before.
#[test]
fn an_epoch_that_begins_after_a_reset_needs_another() {
    let mut scene = Scene::new();
    scene.broken(0, 150..250, ends_epoch);
    scene.comes(0, 1, 1);
    scene.gap(0, "reset");
    scene.comes(0, 3, 5);
    scene.publish(0, 4, 5);
    scene.comes(0, 15, 6);
    scene.finds(&[Wrong::Untold, Wrong::Lost]);
}

#[test]
fn a_reset_is_told_once_for_each_epoch() {
    let mut scene = Scene::new();
    scene.broken(0, 150..250, ends_epoch);
    scene.comes(0, 1, 1);
    scene.gap(0, "reset");
    scene.gap(0, "reset");
    scene.comes(0, 3, 5);
    scene.finds(&[Wrong::FalseGap]);
}

/// A gateway repeats a publication with a key by itself. Redis forgot the key in the failover, so the
/// publisher is answered another event than the first one that came.
#[test]
fn a_gateway_repeats_what_has_a_key_and_nothing_else() {
    for (publisher, expected) in [(1, vec![]), (KEYLESS, vec![Wrong::Forged])] {
        let mut scene = Scene::new();
        scene.broken(0, 150..250, ends_epoch);
        let stamp = Stamp { publisher, ..scene.stamp(0, 1) };
        scene.publish_as(stamp, Scene::id(300, 5));
        scene.event_as(0, stamp, Scene::id(200, 1));
        scene.finds(&expected);
    }
}
