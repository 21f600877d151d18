//! What a run adds up to: counts, violations with their stories, times of repair; and which faults were at
//! work when.

use std::collections::BTreeMap;

use crate::faults::Fault;
use crate::ledger::now_ms;

/// How many examples of each kind of violation are kept.
const EXAMPLES: usize = 8;
/// How many stories of each kind.
const STORIES: u64 = 2;
/// What a fault does may show a moment before it is written down as begun, and after its end.
const BLUR_MS: u64 = 100;
/// How long a fault is felt after its end.
const FELT_MS: u64 = 400;
/// How long it may take until a tick sees what was done to Redis.
pub const UNSEEN_MS: u64 = 3_000;

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// An acknowledged event that neither came nor was told missing, or was told missing though it was kept.
    Lost,
    /// An event that came twice, or one publication that became two.
    Duplicated,
    /// A position that went back.
    Disorder,
    /// Something that nobody published, or a block that the wire's rules do not know.
    Forged,
    /// A gap that is not true, or told twice.
    FalseGap,
    /// A step from one life of the data into another that was not told.
    Untold,
    /// An answer that ends an EventSource or a publisher's work for good.
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
        self.began_ms <= to_ms + BLUR_MS && from_ms <= self.ended_ms.saturating_add(BLUR_MS)
    }
}

/// The run's sums.
#[derive(Debug, Default)]
pub struct Tally {
    /// The broker is a gateway's own memory, and ends with it.
    pub memory: bool,
    /// Nothing is broken and everybody had time to recover: no gap may be told.
    pub calm: bool,
    /// Deliveries checked.
    pub events: u64,
    /// Live-only events that came.
    pub raw: u64,
    /// Deliveries that a gap stood for.
    pub told: u64,
    /// Gaps, by reason.
    pub gaps: BTreeMap<String, u64>,
    /// Gaps told although nothing was missing, where the contract lets nobody know that.
    pub cautious: u64,
    /// Of a gap or a start: events that had to come because Redis kept them all the time.
    pub kept: u64,
    /// Streams that were opened again.
    pub reconnects: u64,
    /// Streams that published as soon as they were open, by the faults at work then, and what came of it.
    pub opened: BTreeMap<&'static str, u64>,
    /// Events published so that came.
    pub opened_came: u64,
    /// Events published so that a gap stood for.
    pub opened_told: u64,
    /// Streams whose connection was lost before they had a position, or whose event was never acknowledged.
    pub opened_void: u64,
    /// Streams, by the kind of client.
    pub clients: BTreeMap<String, u64>,
    /// Answers that refused a publication, and requests that ended without one.
    pub unanswered: u64,
    /// Events that came again after a reset had taken the position back, while there were two masters.
    pub again: u64,
    /// Publications that became two events because Redis lost their keys.
    pub repeated: u64,
    /// Faults at work now.
    pub active: u32,
    /// When the last one ended.
    pub healed_ms: u64,
    /// The longest a prompt subscriber waited for an event published after that.
    pub repair_ms: u64,
    /// How long it took until all were up to date, after the last fault.
    pub recovery_ms: u64,
    /// Faults, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Violations, by kind.
    pub wrongs: BTreeMap<Wrong, u64>,
    /// The first of them.
    pub examples: Vec<(Wrong, String)>,
    /// What the subscribers concerned lived through.
    pub stories: Vec<String>,
    told_of: BTreeMap<Wrong, u64>,
    done: Vec<Done>,
}

impl Tally {
    /// Of a run with this kind of broker.
    pub fn of(memory: bool) -> Self {
        Tally { memory, ..Tally::default() }
    }

    /// A fault begins. Its place is needed to end it.
    pub fn begin(&mut self, fault: Fault) -> usize {
        self.active += 1;
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

    /// The faults at work now, or a moment ago: many are done at once, and felt a little longer.
    pub fn at_work(&self) -> impl Iterator<Item = Fault> + '_ {
        let now = now_ms();
        let felt = move |done: &&Done| done.ended_ms.saturating_add(FELT_MS) > now;
        self.done.iter().filter(felt).map(|done| done.fault)
    }

    /// Whether a fault of a certain kind was at work between these times.
    pub fn touched(&self, from_ms: u64, to_ms: u64, kind: impl Fn(Fault) -> bool) -> bool {
        self.done.iter().any(|done| kind(done.fault) && done.touches(from_ms, to_ms))
    }

    /// Whether an idempotency key may have been forgotten between these times.
    pub fn keys_lost_between(&self, from_ms: u64, to_ms: u64) -> bool {
        self.touched(from_ms, to_ms, |f| f.loses_keys() || (self.memory && f.ends_gateways()))
    }

    /// Whether an epoch may have ended between these times.
    pub fn epoch_ended_between(&self, from_ms: u64, to_ms: u64) -> bool {
        self.touched(from_ms, to_ms, |f| f.ends_epoch() || (self.memory && f.ends_gateways()))
    }

    /// Whether one id may have been issued twice between these times.
    pub fn split_between(&self, from_ms: u64, to_ms: u64) -> bool {
        // Until a tick has seen what happened, publications go on in the old life.
        self.touched(from_ms.saturating_sub(UNSEEN_MS), to_ms, Fault::splits)
    }

    /// Counts a client of some kind.
    pub fn client(&mut self, kind: &str) {
        *self.clients.entry(kind.to_owned()).or_default() += 1;
    }

    /// Notes a violation.
    pub fn wrong(&mut self, what: Wrong, text: String) {
        self.wrongs(what, 1, text);
    }

    /// Notes several violations of one kind, with one text.
    pub fn wrongs(&mut self, what: Wrong, count: u64, text: String) {
        *self.wrongs.entry(what).or_default() += count;
        let told = self.examples.iter().filter(|(known, _)| *known == what).count();
        if told < EXAMPLES {
            self.examples.push((what, format!("{} {what:?}: {text}", now_ms())));
        }
    }

    /// Keeps a story of a violation, if there is room for one.
    pub fn story(&mut self, what: Wrong, tell: impl FnOnce() -> String) {
        let told = self.told_of.entry(what).or_default();
        *told += 1;
        if *told <= STORIES {
            self.stories.push(format!("{what:?}: {}", tell()));
        }
    }

    /// All violations.
    pub fn violations(&self) -> u64 {
        self.wrongs.values().sum()
    }

    /// How many violations of one kind.
    #[cfg(test)]
    pub fn count(&self, what: Wrong) -> u64 {
        self.wrongs.get(&what).copied().unwrap_or(0)
    }
}
