//! What a run adds up to: counts, violations with their stories, times of repair.

use std::collections::BTreeMap;

use crate::faults::Fault;
use crate::ledger::now_ms;

/// How many examples of violations are kept.
const EXAMPLES: usize = 20;
const STORIES: usize = 4;

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// An acknowledged event that neither came nor was told missing.
    Lost,
    /// An event that came twice, or one publication that became two.
    Duplicated,
    /// A position that went back.
    Disorder,
    /// Something that nobody published.
    Forged,
    /// A gap told while nothing was broken.
    FalseGap,
    /// An answer that ends an EventSource for good.
    Terminal,
    /// A gateway that ended by itself or panicked.
    Crashed,
    /// Somebody who never got going again.
    Stuck,
}

/// A fault that was done.
#[derive(Debug)]
struct Done {
    fault: Fault,
    began_ms: u64,
    ended_ms: u64,
}

impl Done {
    fn touches(&self, from_ms: u64, to_ms: u64) -> bool {
        self.began_ms <= to_ms + 100 && from_ms <= self.ended_ms.saturating_add(100)
    }
}

/// The run's sums.
#[derive(Debug, Default)]
pub struct Tally {
    /// Nothing is broken and everybody had time to recover: no gap may be told.
    pub calm: bool,
    /// Deliveries checked.
    pub events: u64,
    /// Deliveries that a gap stood for.
    pub told: u64,
    /// Gaps, by reason.
    pub gaps: BTreeMap<String, u64>,
    /// Streams that were opened again.
    pub reconnects: u64,
    /// Answers that refused a publication, and requests that ended without one.
    pub unanswered: u64,
    /// Publications that became two events because Redis lost their keys.
    pub repeated: u64,
    /// Faults so far after which Redis may begin an epoch.
    pub epochs_ended: u64,
    /// Faults at work now.
    pub active: u32,
    /// When the last one ended.
    pub healed_ms: u64,
    /// The longest a prompt subscriber waited for an event published after that.
    pub repair_ms: u64,
    /// Faults, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Violations, by kind.
    pub wrongs: BTreeMap<Wrong, u64>,
    /// The first of them.
    pub examples: Vec<String>,
    /// What the subscribers concerned lived through.
    pub stories: Vec<String>,
    done: Vec<Done>,
}

impl Tally {
    /// A fault begins. Its place is needed to end it.
    pub fn begin(&mut self, fault: Fault) -> usize {
        self.active += 1;
        self.epochs_ended += u64::from(fault.ends_epoch());
        *self.faults.entry(fault.name()).or_default() += 1;
        self.done.push(Done { fault, began_ms: now_ms(), ended_ms: u64::MAX });
        self.done.len() - 1
    }

    /// A fault ends.
    pub fn end(&mut self, place: usize) {
        self.active -= 1;
        self.healed_ms = now_ms();
        self.done[place].ended_ms = self.healed_ms;
    }

    /// Whether Redis may have forgotten an idempotency key between these times.
    pub fn keys_lost_between(&self, from_ms: u64, to_ms: u64) -> bool {
        self.done.iter().any(|done| done.fault.loses_keys() && done.touches(from_ms, to_ms))
    }

    /// Whether Redis may have lost events between these times.
    pub fn epoch_ended_between(&self, from_ms: u64, to_ms: u64) -> bool {
        self.done.iter().any(|done| done.fault.ends_epoch() && done.touches(from_ms, to_ms))
    }

    /// Notes a violation.
    pub fn wrong(&mut self, what: Wrong, text: String) {
        *self.wrongs.entry(what).or_default() += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(format!("{} {what:?}: {text}", now_ms()));
        }
    }

    /// Keeps a story, if there is room for one.
    pub fn story(&mut self, tell: impl FnOnce() -> String) {
        if self.stories.len() < STORIES {
            self.stories.push(tell());
        }
    }

    /// All violations.
    pub fn violations(&self) -> u64 {
        self.wrongs.values().sum()
    }

    /// How many violations of one kind.
    pub fn count(&self, what: Wrong) -> u64 {
        self.wrongs.get(&what).copied().unwrap_or(0)
    }
}
