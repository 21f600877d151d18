//! Rules for a stream besides its events: its beginning, blocks without an id, and gaps, as far as
//! they can be checked at once.

use sse_contract::{CONTRACT_VERSION, EventId};
use sse_lab::event_stream::Block;

use crate::ledger::{Ledger, now_ms};
use crate::session::{From, Session};
use crate::tally::{Tally, Wrong};
use crate::truth::Gap;

impl Session {
    /// A stream with checkpoints begins with one that says from where, or with a gap that says why
    /// not.
    pub(crate) fn check_opening(&mut self, block: &Block, tally: &mut Tally) {
        // Sent while the stream cannot have a checkpoint yet, for example because Redis is away.
        if block.event == "alive" && block.id.is_empty() {
            return;
        }
        let open = self.opens.len() - 1;
        let open = &mut self.opens[open];
        open.blocks += 1;
        if CONTRACT_VERSION < 2 || self.quirks.no_checkpoints || open.blocks > 1 {
            return;
        }
        let cursor = open.cursor.clone();
        let from: serde_json::Value = serde_json::from_str(&block.data).unwrap_or_default();
        let right = match (block.event.as_str(), self.from, &cursor) {
            ("gap", ..) => matches!(from["reason"].as_str(), Some("late" | "unknown_id")),
            ("checkpoint", From::Now, None) => from["from"] == "now",
            ("checkpoint", _, Some(cursor)) => {
                from["from"] == cursor.as_str() || self.from == From::Garbage
            }
            ("checkpoint", _, None) => from["from"].is_string(),
            _ => false,
        };
        if !right {
            let text = format!("a stream after {cursor:?} begins with {block:?}");
            self.wrong(Wrong::Forged, text, tally);
        }
    }

    pub(crate) fn without_id(&mut self, block: &Block, ledger: &Ledger, tally: &mut Tally) {
        match (block.event.as_str(), ledger.was_raw(&block.data)) {
            ("alive", _) => return,
            ("gap", _) => return self.gap(self.position, now_ms(), &block.data, tally),
            ("", Some((channel, n))) if self.channels.contains(&channel) => {
                tally.raw += 1;
                let Some(open) = self.opens.last_mut() else { return };
                let before = open.raw.insert(channel, n);
                if before.is_none_or(|before| before < n) {
                    return;
                }
            }
            _ => {}
        }
        self.wrong(Wrong::Forged, format!("a block without id: {block:?}"), tally);
    }

    pub(crate) fn gap(&mut self, id: EventId, now: u64, data: &str, tally: &mut Tally) {
        let open = self.opens.len() - 1;
        let Some(gap) = Gap::read(data, id, now, open, self.steps.len(), tally.calm) else {
            return self.wrong(Wrong::Forged, format!("the gap {data:?}"), tally);
        };
        self.note(format!("gap {data} id {id}"));
        *tally.gaps.entry(gap.reason.clone()).or_default() += 1;
        if gap.channel.is_some_and(|channel| !self.channels.contains(&channel)) {
            return self.wrong(Wrong::Forged, format!("the gap {data}"), tally);
        }
        // A gap may move the position up, as a checkpoint may: the events between are still owed.
        if gap.channel.is_some() && self.cursor.is_some() && id < self.position {
            let text =
                format!("the gap {data} moved the position back to {id}, from {}", self.position);
            self.wrong(Wrong::Disorder, text, tally);
        }
        self.told_twice(&gap, data, tally);
        if gap.reason == "reset" {
            self.opens[open].resets.insert(gap.after.epoch(), now);
        }
        if gap.channel.is_none() {
            self.vouched_ms = now;
        }
        self.gaps.push(gap);
    }

    fn told_twice(&mut self, gap: &Gap, data: &str, tally: &mut Tally) {
        let open = self.opens.len() - 1;
        // After a reset, everything may be told again.
        let mut since = self.gaps.iter().rev().take_while(|told| told.reason != "reset");
        let told = match gap.reason.as_str() {
            "reset" => None,
            _ => since.find(|told| told.is(gap) && told.open == open),
        };
        let again = told.is_some_and(|told| match gap.channel {
            // How often a reset may be told depends on the epochs that began, so that is judged at
            // the end.
            None => gap.reason != "no_history",
            Some(_) => gap.oldest.is_some() && gap.oldest <= told.oldest,
        });
        if again {
            self.wrong(
                Wrong::FalseGap,
                format!("{data} was told before on this connection"),
                tally,
            );
        }
    }
}
