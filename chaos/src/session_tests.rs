//! The checker checked: each thing that must be found out is done to a session by hand.

use sse_contract::EventId;

use crate::faults::Fault;
use crate::ledger::{Ledger, now_ms};
use crate::payload::{CHANNELS, Stamp};
use crate::session::{From, Session, check_repeats};
use crate::stream::{Block, Body, Parser};
use crate::tally::{Tally, Wrong};

const SEED: u64 = 7;

/// A session on channel 1 whose events are numbered from 1, all acknowledged.
struct Scene {
    ledger: Ledger,
    tally: Tally,
    session: Session,
    base: u64,
}

impl Scene {
    fn new(events: u32) -> Scene {
        let mut tally = Tally::default();
        // Whole gaps are believed from here on.
        let fence = tally.begin(Fault::Fence);
        tally.end(fence);
        let mut scene = Scene {
            ledger: Ledger::new(SEED),
            tally,
            session: Session::new("test".to_owned(), vec![1], From::Now),
            base: now_ms() - 1_000,
        };
        for seq in 1..=events {
            scene.publish(seq);
        }
        scene.take(scene.block(0, "checkpoint", ""));
        scene
    }

    fn stamp(seq: u32) -> Stamp {
        Stamp { channel: 1, publisher: 1, seq }
    }

    fn id(&self, seq: u32) -> EventId {
        EventId::new(self.base + u64::from(seq), 1, 0)
    }

    fn publish(&mut self, seq: u32) {
        self.ledger.sending(Self::stamp(seq));
        self.ledger.acknowledged(Self::stamp(seq), self.id(seq)).unwrap();
    }

    fn block(&self, seq: u32, event: &str, data: &str) -> Block {
        let id = Some(self.id(seq).to_string());
        Block { id, event: event.to_owned(), data: data.to_owned() }
    }

    fn take(&mut self, block: Block) {
        self.session.take(&block, &mut self.ledger, &mut self.tally);
    }

    fn event(&mut self, seq: u32) {
        let text = Self::stamp(seq).text(SEED);
        self.take(self.block(seq, "", &text));
    }

    fn gap(&mut self, at: u32, channel: &str, reason: &str, oldest: u32) {
        let (after, oldest) = (self.id(at).to_string(), self.id(oldest).to_string());
        let data = serde_json::json!({
            "channel": channel, "reason": reason, "after": after, "oldest": oldest,
        });
        self.take(self.block(at, "gap", &data.to_string()));
    }

    #[track_caller]
    fn finds(mut self, wrongs: &[(Wrong, u64)]) {
        self.session.settle(&self.ledger, &mut self.tally);
        let found: Vec<(Wrong, u64)> = self.tally.wrongs.into_iter().collect();
        assert_eq!(found, wrongs, "{:?}", self.tally.examples);
    }
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
    scene.take(scene.block(4, "checkpoint", ""));
    scene.finds(&[(Wrong::Lost, 2)]);
}

#[test]
fn a_trimmed_gap_speaks_for_what_is_below_the_oldest() {
    let mut scene = Scene::new(5);
    scene.event(1);
    scene.gap(1, CHANNELS[1], "trimmed", 4);
    scene.event(5);
    // 2 and 3 were told; the oldest kept was owed.
    scene.finds(&[(Wrong::Lost, 1)]);
}

#[test]
fn a_reset_speaks_for_what_was_before_it_and_nothing_after() {
    let mut scene = Scene::new(2);
    scene.gap(0, "*", "reset", 1);
    std::thread::park_timeout(std::time::Duration::from_millis(30));
    scene.publish(3);
    scene.publish(4);
    scene.event(4);
    scene.finds(&[(Wrong::Lost, 1)]);
}

#[test]
fn repetition_and_disorder_are_found() {
    let mut scene = Scene::new(3);
    scene.event(3);
    scene.event(3);
    scene.event(1);
    scene.event(2);
    scene.take(scene.block(1, "checkpoint", ""));
    scene.finds(&[(Wrong::Duplicated, 1), (Wrong::Disorder, 2)]);
}

#[test]
fn what_nobody_published_is_found() {
    let mut scene = Scene::new(2);
    scene.take(scene.block(1, "", "1 1 9"));
    let mut other = Scene::stamp(2).text(SEED);
    other.push('!');
    scene.take(scene.block(2, "", &other));
    scene.take(scene.block(2, "sale", ""));
    scene.take(Block { id: None, ..Block::default() });
    scene.session.settle(&scene.ledger, &mut scene.tally);
    assert_eq!(scene.tally.count(Wrong::Forged), 4, "{:?}", scene.tally.examples);
}

#[test]
fn a_gap_without_a_cause_is_found() {
    let mut scene = Scene::new(0);
    scene.tally.calm = true;
    scene.gap(0, CHANNELS[1], "trimmed", 1);
    scene.finds(&[(Wrong::FalseGap, 1)]);
    let mut scene = Scene::new(0);
    scene.tally = Tally::default();
    scene.gap(0, "*", "reset", 1);
    scene.finds(&[(Wrong::FalseGap, 1)]);
}

#[test]
fn one_publication_twice_needs_a_lost_key() {
    let mut scene = Scene::new(1);
    scene.ledger.acknowledged(Scene::stamp(1), scene.id(9)).unwrap();
    check_repeats(&scene.ledger, &mut scene.tally);
    assert_eq!(scene.tally.count(Wrong::Duplicated), 1);
}

#[test]
fn bytes_become_blocks_wherever_they_are_cut() {
    let text = "retry: 5\n\nid: 1-65536\r\ndata: a\rdata:\ndata:  b\n\n:\nevent: gap\ndata: {}\n\ndata: cut";
    let framed = format!("3\r\n{}\r\n{:x};x=y\r\n{}\r\n", &text[..3], text.len() - 3, &text[3..]);
    for (head, bytes) in [("", text), ("Transfer-Encoding: chunked", framed.as_str())] {
        for size in 1..bytes.len() {
            let (mut parser, mut body) = (Parser::default(), Body::of(head));
            let pieces = bytes.as_bytes().chunks(size);
            let blocks: Vec<Block> =
                pieces.flat_map(|piece| parser.feed(&body.decode(piece))).collect();
            let [event, gap] = &blocks[..] else { panic!("{blocks:?}") };
            assert_eq!((event.id.as_deref(), event.data.as_str()), (Some("1-65536"), "a\n\n b"));
            assert_eq!((gap.event.as_str(), gap.data.as_str()), ("gap", "{}"));
        }
    }
}
