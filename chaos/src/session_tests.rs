//! Tests of the checker: each violation is inflicted on a session and must be found.

use std::time::Duration;

use sse_contract::EventId;
use sse_lab::event_stream::Block;

use crate::census::Census;
use crate::faults::Fault;
use crate::ledger::{Ledger, now_ms};
use crate::payload::{CHANNELS, Stamp};
use crate::session::{From, Quirks, Session};
use crate::settings::Settings;
use crate::tally::{Tally, Wrong};
use crate::verdict::Court;

const SEED: u64 = 7;

/// A session on channel 1. All events are acknowledged, and numbered from 1.
struct Scene {
    ledger: Ledger,
    census: Census,
    tally: Tally,
    session: Session,
    base: u64,
}

impl Scene {
    fn of(events: u32, from: From) -> Scene {
        let mut scene = Scene {
            ledger: Ledger::new(SEED),
            census: Census::default(),
            tally: Tally::default(),
            session: Session::new("test".to_owned(), vec![1], from, Quirks::default()),
            base: now_ms() - 1_000,
        };
        for seq in 1..=events {
            scene.publish(seq);
        }
        scene
    }

    /// A live session that began before the first event.
    fn new(events: u32) -> Scene {
        let mut scene = Scene::of(events, From::Now);
        scene.checkpoint(0, 1);
        scene
    }

    /// Notes a fault that began and ended just now.
    fn fault(&mut self, fault: Fault) {
        let place = self.tally.begin(fault);
        self.tally.end(place);
    }

    fn stamp(seq: u32) -> Stamp {
        Stamp { channel: 1, publisher: 1, seq }
    }

    fn id(&self, seq: u32, epoch: u32) -> EventId {
        EventId::new(self.base + u64::from(seq), epoch, 0)
    }

    fn publish(&mut self, seq: u32) {
        self.publish_in(seq, 1);
    }

    fn publish_in(&mut self, seq: u32, epoch: u32) {
        self.ledger.sending(Self::stamp(seq));
        self.ledger.acknowledged(Self::stamp(seq), 1, self.id(seq, epoch));
    }

    fn take(&mut self, at: u32, epoch: u32, event: &str, data: &str) {
        let id = self.id(at, epoch).to_string();
        let block = Block { id, event: event.to_owned(), data: data.to_owned() };
        self.session.take(&block, &mut self.ledger, &mut self.tally);
    }

    fn checkpoint(&mut self, at: u32, epoch: u32) {
        self.take(at, epoch, "checkpoint", r#"{"from":"now"}"#);
    }

    /// Opens a connection, which begins with a checkpoint.
    fn open(&mut self, at: u32) {
        let from = self.session.opening().unwrap_or_else(|| self.id(at, 1).to_string());
        self.take(at, 1, "checkpoint", &serde_json::json!({ "from": from }).to_string());
    }

    fn event(&mut self, seq: u32) {
        self.take(seq, 1, "", &Self::stamp(seq).text(SEED));
    }

    fn gap(&mut self, at: u32, channel: &str, reason: &str, oldest: Option<u32>) {
        let mut data = serde_json::json!({
            "channel": channel, "reason": reason, "after": self.id(at, 1).to_string(),
        });
        if let Some(oldest) = oldest {
            data["oldest"] = serde_json::json!(self.id(oldest, 1).to_string());
        }
        self.take(at, 1, "gap", &data.to_string());
    }

    /// A gap with the reason `late`, which has no id.
    fn late(&mut self) {
        let late = r#"{"channel":"*","reason":"late"}"#.to_owned();
        let block = Block { id: String::new(), event: "gap".to_owned(), data: late };
        self.session.take(&block, &mut self.ledger, &mut self.tally);
    }

    /// Adds an inventory of what Redis keeps.
    fn keeps(&mut self, seqs: &[u32]) {
        let ids = seqs.iter().map(|seq| (1, self.id(*seq, 1)));
        self.census.inventory(now_ms(), now_ms(), ids.collect::<Vec<_>>().into_iter());
    }

    fn judged(&mut self) -> Vec<(Wrong, u64)> {
        self.judged_with(&[])
    }

    fn judged_with(&mut self, settings: &[&str]) -> Vec<(Wrong, u64)> {
        let over: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        // Seed 12 draws no policies.
        let mut settings = Settings::draw(12, &["history.max_len=300".to_owned()]).unwrap();
        if !over.is_empty() {
            settings = Settings::draw(12, &over).unwrap();
        }
        let court = Court { ledger: &self.ledger, census: &self.census, settings: &settings };
        court.judge(&self.session, &mut self.tally);
        court.judge_all(&mut self.tally);
        self.tally.wrongs.iter().map(|(what, n)| (*what, *n)).collect()
    }

    #[track_caller]
    fn finds(mut self, wrongs: &[(Wrong, u64)]) {
        let found = self.judged();
        assert_eq!(found, wrongs, "{:?}", self.tally.examples);
    }
}

fn moment() {
    std::thread::park_timeout(Duration::from_millis(30));
}

#[test]
fn all_is_well() {
    let mut scene = Scene::new(3);
    (1..=3).for_each(|seq| scene.event(seq));
    scene.finds(&[]);
}

#[test]
fn a_hole_is_found_even_behind_a_checkpoint() {
    let mut scene = Scene::new(4);
    scene.event(1);
    scene.event(3);
    scene.checkpoint(4, 1);
    scene.finds(&[(Wrong::Lost, 2)]);
}

#[test]
fn who_has_read_the_head_is_subscribed() {
    let mut scene = Scene::of(0, From::Now);
    scene.session.opening();
    scene.session.head();
    moment();
    scene.publish(1);
    // The first position comes late, and skips the event.
    scene.checkpoint(2, 1);
    scene.finds(&[(Wrong::Lost, 1)]);
}

#[test]
fn a_stream_begins_with_where_it_begins() {
    let begins = |data: &str| {
        let mut scene = Scene::new(1);
        scene.session.opening();
        scene.take(0, 1, "checkpoint", data);
        scene.event(1);
        scene.judged()
    };
    assert_eq!(begins(r#"{"from":"now"}"#), [(Wrong::Forged, 1)]);
    assert_eq!(begins(""), [(Wrong::Forged, 1)]);
    let mut scene = Scene::new(1);
    scene.open(0);
    scene.event(1);
    scene.finds(&[]);
}

#[test]
fn a_late_first_position_must_say_so() {
    let mut scene = Scene::of(0, From::Now);
    scene.session.opening();
    scene.session.head();
    moment();
    scene.publish(1);
    scene.fault(Fault::RedisPause);
    scene.late();
    scene.checkpoint(2, 1);
    scene.publish(3);
    scene.event(3);
    scene.finds(&[]);
}

#[test]
fn late_without_a_fault_is_false() {
    let mut scene = Scene::of(0, From::Now);
    scene.late();
    scene.finds(&[(Wrong::FalseGap, 1)]);
}

#[test]
fn late_after_a_position_is_false() {
    let mut scene = Scene::new(1);
    scene.event(1);
    scene.fault(Fault::RedisPause);
    scene.late();
    scene.finds(&[(Wrong::FalseGap, 1)]);
}

#[test]
fn a_trimmed_gap_speaks_for_what_is_below_the_oldest() {
    let mut scene = Scene::new(5);
    scene.event(1);
    scene.gap(1, CHANNELS[1], "trimmed", Some(4));
    scene.event(5);
    // 2 and 3 were told; 4, the oldest kept, was owed.
    scene.finds(&[(Wrong::Lost, 1)]);
}

#[test]
fn a_trimmed_gap_over_nothing_is_cautious_where_something_older_was_cut_off() {
    let mut scene = Scene::new(5);
    (1..=4).for_each(|seq| scene.event(seq));
    scene.gap(4, CHANNELS[1], "trimmed", Some(5));
    scene.event(5);
    assert_eq!(scene.judged(), []);
    assert_eq!(scene.tally.cautious, 1);
}

#[test]
fn gaps_that_contradict_themselves_are_false() {
    let mut scene = Scene::new(5);
    (1..=5).for_each(|seq| scene.event(seq));
    // In this order: the oldest kept is not above the position, no event above the position is
    // known, no event has this id, and the position is younger than the ttl.
    scene.gap(5, CHANNELS[1], "trimmed", Some(5));
    scene.gap(5, CHANNELS[1], "trimmed", None);
    scene.gap(5, CHANNELS[1], "trimmed", Some(7));
    scene.gap(5, CHANNELS[1], "expired", None);
    scene.finds(&[(Wrong::FalseGap, 4)]);
}

#[test]
fn an_unknown_outcome_may_have_been_what_is_missing() {
    let mut scene = Scene::new(5);
    (1..=5).for_each(|seq| scene.event(seq));
    scene.ledger.doubted(Scene::stamp(9), now_ms());
    scene.gap(5, CHANNELS[1], "trimmed", None);
    scene.finds(&[]);
}

#[test]
fn what_was_kept_may_not_be_told_missing() {
    let mut scene = Scene::new(4);
    scene.keeps(&[1, 2, 3, 4]);
    moment();
    scene.event(1);
    scene.gap(1, CHANNELS[1], "trimmed", Some(4));
    scene.event(4);
    moment();
    scene.keeps(&[1, 3, 4]);
    // 2 was trimmed, 3 was kept.
    scene.finds(&[(Wrong::Lost, 1)]);
}

#[test]
fn a_reset_replays_what_was_kept() {
    let mut scene = Scene::new(3);
    scene.keeps(&[1, 2, 3]);
    // The events were seen to be kept before a fault could have removed and restored them.
    std::thread::park_timeout(Duration::from_millis(150));
    scene.fault(Fault::Fence);
    scene.open(0);
    scene.gap(0, "*", "reset", None);
    scene.event(3);
    scene.checkpoint(5, 2);
    moment();
    scene.keeps(&[2, 3]);
    // 1 was lost and told; 2 was kept and not replayed.
    scene.finds(&[(Wrong::Lost, 1)]);
}

#[test]
fn from_the_oldest_owes_what_was_kept_all_the_time() {
    let mut scene = Scene::of(3, From::Oldest);
    scene.keeps(&[2, 3]);
    moment();
    scene.open(1);
    scene.event(3);
    moment();
    scene.keeps(&[2, 3]);
    scene.finds(&[(Wrong::Lost, 1)]);
}

#[test]
fn where_no_history_is_kept_the_oldest_is_now() {
    let mut scene = Scene::of(3, From::Oldest);
    // A publisher left these events while Redis had lost the limits.
    scene.keeps(&[2, 3]);
    moment();
    scene.open(3);
    moment();
    scene.keeps(&[2, 3]);
    assert_eq!(scene.judged_with(&["history.max_len=0"]), []);
}

#[test]
fn what_happened_after_a_client_had_gone_by_proves_nothing() {
    let mut scene = Scene::of(0, From::Oldest);
    scene.open(5);
    scene.fault(Fault::Fence);
    moment();
    // The next epoch begins with lower ids.
    scene.publish_in(1, 2);
    let id = scene.id(1, 2);
    scene.census.inventory(now_ms(), now_ms(), std::iter::once((1, id)));
    scene.finds(&[]);
}

#[test]
fn between_two_masters_who_leaves_at_once_is_told_nothing() {
    let passes = |fault: Fault| {
        let mut scene = Scene::new(0);
        scene.fault(fault);
        scene.publish(1);
        scene.checkpoint(2, 1);
        scene.judged()
    };
    assert_eq!(passes(Fault::TwoMasters), []);
    assert_eq!(passes(Fault::KillNormal), [(Wrong::Lost, 1)]);
}

#[test]
fn an_id_that_is_issued_again_is_told_to_who_stays() {
    let again = |fault: Fault| {
        let mut scene = Scene::new(3);
        (1..=3).for_each(|seq| scene.event(seq));
        scene.fault(fault);
        moment();
        scene.ledger.sending(Scene::stamp(4));
        scene.ledger.acknowledged(Scene::stamp(4), 1, scene.id(2, 1));
        scene.judged();
        scene.tally.count(Wrong::Lost)
    };
    assert_eq!(again(Fault::Revert), 0);
    assert_eq!(again(Fault::KillNormal), 1);
}

#[test]
fn a_reset_speaks_for_the_old_epoch_and_for_nothing_after_it() {
    let mut scene = Scene::new(2);
    scene.fault(Fault::Fence);
    scene.gap(0, "*", "reset", None);
    scene.checkpoint(3, 2);
    moment();
    // What a deposed master still acknowledges is lost with it; what the new epoch has is owed.
    scene.publish_in(4, 1);
    scene.publish_in(5, 2);
    scene.checkpoint(6, 2);
    scene.finds(&[(Wrong::Lost, 1)]);
}

#[test]
fn whoever_was_led_on_hears_no_more_of_a_life_that_goes_on_beside() {
    let lost = |led_on: bool| {
        let mut scene = Scene::new(0);
        scene.publish_in(1, 2);
        scene.publish_in(2, 3);
        scene.fault(Fault::TwoMasters);
        scene.gap(0, "*", "reset", None);
        scene.take(1, 2, "", &Scene::stamp(1).text(SEED));
        if led_on {
            scene.checkpoint(3, 3);
        }
        moment();
        // Published through a gateway that is still at the deposed master.
        scene.publish_in(4, 2);
        scene.checkpoint(5, 3);
        // The client stays connected for long.
        scene.session.steps.last_mut().expect("a step").at_ms += 60_000;
        scene.judged();
        scene.tally.count(Wrong::Lost)
    };
    assert_eq!(lost(true), 0);
    assert_eq!(lost(false), 1);
}

#[test]
fn a_reset_does_not_speak_for_what_was_passed_by_before() {
    let mut scene = Scene::new(3);
    scene.event(2);
    scene.fault(Fault::Fence);
    scene.gap(2, "*", "reset", None);
    scene.checkpoint(4, 2);
    scene.finds(&[(Wrong::Lost, 1)]);
}

#[test]
fn a_reset_needs_a_cause() {
    let mut scene = Scene::new(0);
    scene.gap(0, "*", "reset", None);
    // Both the gap and the next epoch lack a reason.
    scene.checkpoint(1, 2);
    scene.finds(&[(Wrong::FalseGap, 2)]);
}

#[test]
fn a_reset_needs_an_epoch_that_began() {
    let mut scene = Scene::new(0);
    scene.fault(Fault::Fence);
    scene.gap(0, "*", "reset", None);
    scene.finds(&[(Wrong::FalseGap, 1)]);
}

#[test]
fn a_reset_is_told_once_for_each_epoch_that_began() {
    let twice = |epochs: &[u32]| {
        let mut scene = Scene::new(0);
        scene.fault(Fault::Fence);
        scene.gap(0, "*", "reset", None);
        scene.gap(0, "*", "reset", None);
        for epoch in epochs {
            scene.checkpoint(1, *epoch);
        }
        scene.judged()
    };
    assert_eq!(twice(&[2]), [(Wrong::FalseGap, 1)]);
    // The client was still in the old epoch when another one began.
    assert_eq!(twice(&[2, 3]), []);
    // The client lost its connection before it had a new position, so it is told again.
    let mut scene = Scene::new(0);
    scene.fault(Fault::Fence);
    scene.gap(0, "*", "reset", None);
    scene.open(0);
    scene.gap(0, "*", "reset", None);
    scene.checkpoint(1, 2);
    scene.finds(&[]);
}

#[test]
fn a_reset_out_of_an_epoch_that_goes_on_is_false() {
    let mut scene = Scene::new(0);
    scene.fault(Fault::Fence);
    scene.gap(0, "*", "reset", None);
    moment();
    scene.publish(1);
    scene.event(1);
    // No other epoch began either.
    scene.finds(&[(Wrong::FalseGap, 2)]);
}

#[test]
fn an_epoch_that_begins_unannounced_is_found() {
    let mut scene = Scene::new(1);
    scene.event(1);
    std::thread::park_timeout(Duration::from_millis(2_100));
    scene.fault(Fault::Fence);
    scene.checkpoint(2, 2);
    scene.finds(&[(Wrong::Untold, 1)]);
}

#[test]
fn repetition_and_disorder_are_found() {
    let mut scene = Scene::new(3);
    scene.event(3);
    scene.event(3);
    scene.event(1);
    scene.event(2);
    scene.checkpoint(1, 1);
    scene.finds(&[(Wrong::Duplicated, 1), (Wrong::Disorder, 2)]);
}

#[test]
fn what_a_reset_goes_back_behind_comes_again_between_two_masters_alone() {
    let again = |fault: Fault| {
        let mut scene = Scene::new(2);
        scene.event(1);
        scene.event(2);
        scene.fault(fault);
        scene.checkpoint(3, 2);
        // The other master's clock is behind.
        scene.gap(0, "*", "reset", None);
        scene.event(1);
        scene.judged();
        scene.tally.count(Wrong::Duplicated)
    };
    assert_eq!(again(Fault::TwoMasters), 0);
    assert_eq!(again(Fault::Fence), 1);
}

#[test]
fn what_nobody_published_is_found() {
    let mut scene = Scene::new(2);
    scene.take(1, 1, "", "1 1 9");
    let mut other = Scene::stamp(2).text(SEED);
    other.push('!');
    scene.take(2, 1, "", &other);
    scene.take(2, 1, "sale", "");
    let block = Block { data: "raw 1 1".to_owned(), ..Block::default() };
    scene.session.take(&block, &mut scene.ledger, &mut scene.tally);
    scene.judged();
    assert_eq!(scene.tally.count(Wrong::Forged), 4, "{:?}", scene.tally.examples);
}

#[test]
fn plain_text_comes_once_and_in_order() {
    let mut scene = Scene::new(0);
    let texts = [1, 2].map(|_| scene.ledger.raw(1));
    for text in [&texts[0], &texts[1], &texts[0]] {
        let block = Block { data: text.clone(), ..Block::default() };
        scene.session.take(&block, &mut scene.ledger, &mut scene.tally);
    }
    scene.finds(&[(Wrong::Forged, 1)]);
}

#[test]
fn a_gap_in_calm_is_false() {
    let mut scene = Scene::new(3);
    scene.tally.calm = true;
    scene.gap(0, CHANNELS[1], "trimmed", Some(3));
    scene.event(3);
    scene.finds(&[(Wrong::FalseGap, 1)]);
}

#[test]
fn reasons_hold_only_where_they_can() {
    for (reason, channel) in [
        ("unknown_id", "*"),
        ("no_history", "*"),
        ("conflated", CHANNELS[1]),
        ("unreadable", CHANNELS[1]),
    ] {
        let mut scene = Scene::new(3);
        scene.gap(0, channel, reason, None);
        assert_eq!(scene.judged(), [(Wrong::FalseGap, 1)], "{reason}");
    }
    let mut scene = Scene::new(0);
    scene.gap(0, "*", "no_history", None);
    assert_eq!(scene.judged_with(&["history.max_len=0"]), []);
    for (reason, channel) in
        [("trimmed", "*"), ("reset", CHANNELS[1]), ("tired", "*"), ("trimmed", "bulk")]
    {
        let mut scene = Scene::new(0);
        scene.gap(0, channel, reason, None);
        assert_eq!(scene.judged()[0].0, Wrong::Forged, "{reason} of {channel}");
    }
}

#[test]
fn one_publication_twice_needs_a_lost_key() {
    let mut scene = Scene::new(1);
    scene.ledger.acknowledged(Scene::stamp(1), 1, scene.id(9, 1));
    assert_eq!(scene.judged()[0], (Wrong::Duplicated, 1));
    let mut scene = Scene::new(1);
    scene.fault(Fault::FlushAll);
    scene.ledger.acknowledged(Scene::stamp(1), 1, scene.id(9, 1));
    assert_eq!(scene.tally.count(Wrong::Duplicated), 0);
}

#[test]
fn one_id_twice_needs_two_lives() {
    let twice = |fault: Option<Fault>| {
        let mut scene = Scene::new(1);
        fault.into_iter().for_each(|fault| scene.fault(fault));
        scene.ledger.sending(Scene::stamp(2));
        scene.ledger.acknowledged(Scene::stamp(2), 1, scene.id(1, 1));
        scene.judged();
        scene.tally.count(Wrong::Forged)
    };
    assert_eq!(twice(None), 1);
    assert_eq!(twice(Some(Fault::TwoMasters)), 0);
}
