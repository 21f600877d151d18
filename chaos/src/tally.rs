//! The results of a run: counts, violations with their stories and recovery times; and when each
//! fault happened.

use std::collections::BTreeMap;

use crate::faults::Fault;
use crate::ledger::now_ms;

/// How many examples of each kind of violation are kept.
const EXAMPLES: usize = 8;
/// How many stories of each kind of violation are kept.
const STORIES: u64 = 2;
/// How much before its noted beginning and after its noted end a fault may have effects.
const BLUR_MS: u64 = 100;
/// How long a fault counts as at work after its end.
const FELT_MS: u64 = 400;
/// The longest time until a tick sees a change in Redis.
pub const UNSEEN_MS: u64 = 3_000;

/// Kinds of violations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// An acknowledged event was neither delivered nor told missing, or was told missing though
    /// Redis kept it.
    Lost,
    /// An event came twice, or one publication became two events.
    Duplicated,
    /// The position went back.
    Disorder,
    /// Something that nobody published, or a block that breaks the rules of the stream.
    Forged,
    /// A gap without a reason, or told twice.
    FalseGap,
    /// A change of epoch that was not told.
    Untold,
    /// An answer that ends an EventSource or a publisher's work for good.
    Terminal,
    /// A gateway ended by itself or panicked.
    Crashed,
    /// A client or publisher did not recover.
    Stuck,
}

/// A fault that happened.
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

/// The results of a run.
#[derive(Debug, Default)]
pub struct Tally {
    /// The memory broker is used, and ends with its gateway.
    pub memory: bool,
    /// Nothing is broken and everybody had time to recover, so no gap may be told.
    pub calm: bool,
    /// Deliveries checked.
    pub events: u64,
    /// Plain texts received.
    pub raw: u64,
    /// Missing events that a gap covered.
    pub told: u64,
    /// Gaps, by reason.
    pub gaps: BTreeMap<String, u64>,
    /// Gaps told although nothing was missing, where the contract gives no way to know that.
    pub cautious: u64,
    /// Events that had to come after a gap or at the start, because Redis kept them all the time.
    pub kept: u64,
    /// Reconnects.
    pub reconnects: u64,
    /// Clients that published on `open` and whose event came or was missing, by the faults at that
    /// time.
    pub opened: BTreeMap<&'static str, u64>,
    /// Events published on `open` that came.
    pub opened_came: u64,
    /// Events published on `open` that a gap covered.
    pub opened_told: u64,
    /// Clients that published on `open` but lost the connection before they had a position, or
    /// whose event was never acknowledged.
    pub opened_void: u64,
    /// Sessions, by kind of client.
    pub clients: BTreeMap<String, u64>,
    /// Publications refused or left without an answer, once per try.
    pub unanswered: u64,
    /// Events that came again after a reset took the position back, while there were two masters.
    pub again: u64,
    /// Publications that became two events because Redis lost their keys.
    pub repeated: u64,
    /// The number of faults at work now.
    pub active: u32,
    /// When the last fault ended.
    pub healed_ms: u64,
    /// The longest time from the end of a fault until a prompt subscriber received an event
    /// published after it, without another fault between.
    pub repair_ms: u64,
    /// The time from the last fault until all subscribers were up to date.
    pub recovery_ms: u64,
    /// Faults, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Violations, by kind.
    pub wrongs: BTreeMap<Wrong, u64>,
    /// The first violations of each kind.
    pub examples: Vec<(Wrong, String)>,
    /// What the subscribers concerned experienced.
    pub stories: Vec<String>,
    told_of: BTreeMap<Wrong, u64>,
    done: Vec<Done>,
}

impl Tally {
    /// An empty tally for this kind of broker.
    pub fn of(memory: bool) -> Self {
        Tally { memory, ..Tally::default() }
    }

    /// Notes the beginning of a fault. Returns its index, for [`Tally::end`].
    pub fn begin(&mut self, fault: Fault) -> usize {
        self.active += 1;
        *self.faults.entry(fault.name()).or_default() += 1;
        self.done.push(Done { fault, began_ms: now_ms(), ended_ms: u64::MAX });
        self.done.len() - 1
    }

    /// Notes the end of a fault.
    pub fn end(&mut self, place: usize) {
        self.active -= 1;
        self.healed_ms = now_ms();
        self.done[place].ended_ms = self.healed_ms;
    }

    /// The faults at work now or a moment ago: many happen in an instant, and their effects last
    /// longer.
    pub fn at_work(&self) -> impl Iterator<Item = Fault> + '_ {
        let now = now_ms();
        let felt = move |done: &&Done| done.ended_ms.saturating_add(FELT_MS) > now;
        self.done.iter().filter(felt).map(|done| done.fault)
    }

    /// Whether a fault of this kind was at work between these times.
    pub fn touched(&self, from_ms: u64, to_ms: u64, kind: impl Fn(Fault) -> bool) -> bool {
        self.done.iter().any(|done| kind(done.fault) && done.touches(from_ms, to_ms))
    }

    /// Whether an idempotency key may have been lost between these times.
    pub fn keys_lost_between(&self, from_ms: u64, to_ms: u64) -> bool {
        self.touched(from_ms, to_ms, |f| f.loses_keys() || (self.memory && f.ends_gateways()))
    }

    /// Whether an epoch may have ended between these times.
    pub fn epoch_ended_between(&self, from_ms: u64, to_ms: u64) -> bool {
        self.touched(from_ms, to_ms, |f| f.ends_epoch() || (self.memory && f.ends_gateways()))
    }

    /// Whether an id may have been issued twice between these times.
    pub fn split_between(&self, from_ms: u64, to_ms: u64) -> bool {
        // Until a tick has seen the change, publications still belong to the old data.
        self.touched(from_ms.saturating_sub(UNSEEN_MS), to_ms, Fault::splits)
    }

    /// Counts a client of this kind.
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

    /// The number of all violations.
    pub fn violations(&self) -> u64 {
        self.wrongs.values().sum()
    }

    /// The number of violations of one kind.
    #[cfg(test)]
    pub fn count(&self, what: Wrong) -> u64 {
        self.wrongs.get(&what).copied().unwrap_or(0)
    }
}
