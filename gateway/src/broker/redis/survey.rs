//! Which states of partitions Redis holds, and what a change of their number has to do. No I/O.

use std::fmt;
use std::time::Duration;

use sse_contract::{EventId, Keys};

use crate::broker::redis::resp::Value;
use crate::broker::redis::settings::HistoryLimits;

/// The most partitions of the contract. States of so many are looked for.
pub const MOST: u16 = 256;

/// What is read of a state, in this order.
pub(crate) const FIELDS: [&str; 9] =
    ["partitions", "beat", "known", "id", "max_len", "ttl", "max_data", "idem_ttl", "durable"];

/// The name of a state. That of a single partition is plain, those of several have a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    /// Whether it is that of one of several.
    pub(crate) tagged: bool,
    /// The number of the partition.
    pub(crate) partition: u16,
}

/// A state that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub(crate) name: Name,
    /// The key.
    pub key: String,
    /// The number of partitions that it tells. A state that no gateway has used yet tells none.
    pub number: Option<u16>,
    /// The count of ticks.
    beat: Option<u64>,
    /// The witness' generation.
    known: u64,
    clock: Option<EventId>,
    limits: Option<HistoryLimits>,
}

/// The states that are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    pub(crate) states: Vec<State>,
}

/// What a change has to do.
#[derive(Debug)]
pub struct Plan {
    /// The new number.
    pub to: u16,
    /// The limits that the new states get: those in Redis, or the configured ones if there are none.
    pub limits: HistoryLimits,
    /// States of other numbers.
    pub(crate) old: Vec<State>,
    /// Partitions of the new number that have no state yet.
    pub(crate) missing: Vec<u16>,
    /// The highest clock of all states. The new clocks are above it.
    pub(crate) seen: Option<EventId>,
}

impl Name {
    /// The name of a partition's state if there are so many partitions.
    pub(crate) fn of(partitions: u16, partition: u16) -> Self {
        Name { tagged: partitions > 1, partition }
    }

    /// Whether it is a name of this number of partitions.
    pub(crate) fn is_of(self, partitions: u16) -> bool {
        self.tagged == (partitions > 1) && self.partition < partitions
    }

    /// Whether its state tells the number of partitions to gateways and publishers.
    pub(crate) fn tells(self) -> bool {
        self.partition == 0
    }

    /// The names that this state's keys are built with.
    pub(crate) fn keys(self, prefix: &str) -> Keys {
        Keys::new(prefix, if self.tagged { MOST } else { 1 })
    }
}

impl State {
    /// The number of its partition.
    pub fn partition(&self) -> u16 {
        self.name.partition
    }

    /// The state and its witness. Generations that are gone cost nothing.
    pub(crate) fn all_keys(&self, prefix: &str) -> Vec<String> {
        let keys = self.name.keys(prefix);
        let known = self.known.saturating_sub(1)..=self.known.saturating_add(1);
        let known = known.map(|generation| keys.known(self.name.partition, generation));
        [self.key.clone()].into_iter().chain(known).collect()
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {} ({})", self.name.partition, self.key)
    }
}

impl Survey {
    /// The states that tell gateways and publishers a number. More than one if somebody created one
    /// by mistake.
    pub fn telling(&self) -> Vec<&State> {
        let tells = |state: &&State| state.name.tells() && state.number.is_some();
        self.states.iter().filter(tells).collect()
    }

    /// Whether there is no state at all.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The first state whose count of ticks is another one than before: a gateway runs there.
    pub fn ticked_since(&self, before: &Survey) -> Option<&State> {
        let beat_before = |name| before.states.iter().find(|state| state.name == name)?.beat;
        self.states.iter().find(|state| state.beat != beat_before(state.name))
    }

    /// What has to be done so that Redis holds `to` partitions.
    pub fn plan(&self, to: u16, configured: HistoryLimits) -> Plan {
        let is_new = |state: &&State| state.name.is_of(to) && state.number == Some(to);
        let is_old = |state: &&State| !is_new(state) && state.number.is_some();
        let new: Vec<&State> = self.states.iter().filter(is_new).collect();
        let old: Vec<State> = self.states.iter().filter(is_old).cloned().collect();
        let told = new.iter().copied().chain(&old).filter(|state| state.name.tells());
        Plan {
            to,
            limits: told.filter_map(|state| state.limits).next().unwrap_or(configured),
            missing: (0..to).filter(|p| !new.iter().any(|n| n.name.partition == *p)).collect(),
            old,
            seen: self.states.iter().filter_map(|state| state.clock).max(),
        }
    }
}

impl Plan {
    /// Whether Redis holds the new number already, and no other one.
    pub fn holds(&self) -> bool {
        self.old.is_empty() && !self.missing.contains(&0)
    }

    /// Whether there is nothing to do.
    pub fn is_done(&self) -> bool {
        self.old.is_empty() && self.missing.is_empty()
    }
}

/// Reads the answer to `HMGET` of `FIELDS`. `None` if there is no such state.
pub(crate) fn state(name: Name, key: String, value: &Value<'_>) -> Option<State> {
    let fields = value.elements();
    if fields.iter().all(|field| *field == Value::Null) {
        return None;
    }
    let number = |at: usize| fields.get(at)?.text()?.parse::<u64>().ok();
    let limits = || {
        Some(HistoryLimits {
            max_len: number(4)?,
            ttl: Duration::from_millis(number(5)?),
            max_data: number(6)?,
            idempotency_ttl: Duration::from_millis(number(7)?),
            durable: number(8)? == 1,
        })
    };
    Some(State {
        name,
        key,
        number: number(0).and_then(|number| u16::try_from(number).ok()),
        beat: number(1),
        known: number(2).unwrap_or(0),
        clock: fields.get(3).and_then(|id| id.text()?.parse().ok()),
        limits: limits(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max_len: u64) -> HistoryLimits {
        HistoryLimits {
            max_len,
            ttl: Duration::from_secs(60),
            max_data: 100,
            idempotency_ttl: Duration::from_secs(5),
            durable: false,
        }
    }

    fn held(partitions: u16, partition: u16) -> State {
        let name = Name::of(partitions, partition);
        State {
            name,
            key: name.keys("sse").state(partition),
            number: Some(partitions),
            beat: Some(5),
            known: 3,
            clock: Some(EventId::new(partition.into(), 1, 0)),
            limits: Some(limits(7)),
        }
    }

    fn survey(states: Vec<State>) -> Survey {
        Survey { states }
    }

    #[test]
    fn a_plan_deletes_all_states_of_other_numbers_and_creates_those_that_are_missing() {
        let plan = survey((0..4).map(|p| held(4, p)).collect()).plan(2, limits(1));
        assert_eq!((plan.old.len(), &plan.missing[..]), (4, &[0, 1][..]));
        assert_eq!((plan.limits, plan.seen), (limits(7), Some(EventId::new(3, 1, 0))));
        assert!(!plan.holds() && !plan.is_done());
        // What an interrupted call leaves.
        let plan = survey(vec![held(2, 0)]).plan(2, limits(1));
        assert_eq!((plan.old.len(), &plan.missing[..]), (0, &[1][..]));
        assert!(plan.holds() && !plan.is_done());
        let plan = survey(Vec::new()).plan(1, limits(1));
        assert_eq!((plan.limits, &plan.missing[..]), (limits(1), &[0][..]));
        assert!(!plan.holds());
        // Two numbers at the same time.
        let plan = survey(vec![held(1, 0), held(2, 0), held(2, 1)]).plan(2, limits(1));
        assert_eq!((plan.old, plan.missing.len()), (vec![held(1, 0)], 0));
    }

    #[test]
    fn a_state_is_deleted_with_the_generations_of_its_witness() {
        let known = ["sse:{2}:known:2", "sse:{2}:known:3", "sse:{2}:known:4"];
        assert_eq!(held(4, 2).all_keys("sse"), [&["sse:{2}:state"][..], &known].concat());
        let state = State { known: 0, ..held(1, 0) };
        assert_eq!(state.all_keys("sse"), ["sse:state", "sse:known:0", "sse:known:1"]);
    }

    #[test]
    fn a_tick_shows_in_the_count_and_in_a_new_state() {
        let before = survey(vec![held(4, 0), held(4, 1)]);
        assert_eq!(before.ticked_since(&before), None);
        let ticked = State { beat: Some(6), ..held(4, 1) };
        let after = survey(vec![held(4, 0), ticked.clone()]);
        assert_eq!(after.ticked_since(&before), Some(&ticked));
        let more = survey(vec![held(4, 0), held(4, 1), held(4, 2)]);
        assert_eq!(more.ticked_since(&before), Some(&held(4, 2)));
    }
}
