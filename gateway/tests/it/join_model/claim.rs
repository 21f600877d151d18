//! Checks, event by event, what a client of the model is owed. The top of `join_model` defines it.

use std::collections::{HashMap, HashSet};

use sse_contract::EventId;

use super::gateway::Gateway;
use super::redis::{Event, Published, Server};

/// What the model knows, to check a client's stream against.
pub struct Facts<'a> {
    pub events: &'a [Published],
    pub servers: &'a [Server],
    pub gateway: &'a Gateway,
    /// For each channel, whether an event was ever removed from its history, or the history was
    /// unreadable.
    pub cut: &'a [bool],
    /// The highest time that a server, or a clock of one, has had.
    pub latest: u64,
}

/// One way to understand what a client was sent. A `reset` does not name its epoch, so there may be
/// several ways. It is a violation if none of them holds.
#[derive(Clone)]
pub struct Claim {
    /// The epoch that the client lives in.
    pub epoch: u64,
    /// The lowest index in `Gateway::heard` at which the client may live in this epoch.
    pub since: usize,
    /// Events at or below this may be of other epochs: a `reset`, or the start from the oldest
    /// event, accounts for them.
    pub replays: EventId,
    /// For each channel, the id up to which a gap was told in this epoch.
    pub told: HashMap<usize, EventId>,
    /// The debts: events that the position has passed without a gap. A `reset` must follow.
    pub debts: HashSet<Event>,
}

impl Claim {
    pub fn new(epoch: u64, since: usize) -> Self {
        let replays = EventId::ZERO;
        Claim { epoch, since, replays, told: HashMap::new(), debts: HashSet::new() }
    }

    /// The client was sent `id` and has moved there from `from`, without an event in between. So
    /// every event in between, and if `inclusive` the one at `id`, must have been told missing or
    /// become a debt. The error says what violates that.
    pub fn advance(
        &mut self,
        channels: &[usize],
        from: EventId,
        id: EventId,
        inclusive: bool,
        facts: &Facts,
    ) -> Result<(), String> {
        if id.epoch() != self.epoch {
            let replayed = id <= self.replays;
            let error = || format!("another epoch without a word: {id:?} in {}", self.epoch);
            return replayed.then_some(()).ok_or_else(error);
        }
        let server = facts.server(self.epoch);
        let passed_by = |event: &&Event| {
            let published = &facts.events[**event];
            published.id > from
                && (published.id < id || (inclusive && published.id == id))
                && published.id.epoch() == id.epoch()
                && channels.contains(&published.channel)
                && self.told.get(&published.channel).is_none_or(|told| published.id > *told)
        };
        let begin = server.data.log.partition_point(|event| facts.events[*event].id <= from);
        let log = &server.data.log[begin..];
        let log = log.iter().take_while(|event| facts.events[**event].id <= id);
        let mut debts: Vec<Event> = server.lost.iter().filter(passed_by).copied().collect();
        for event in log.filter(passed_by) {
            let Published { id: lost, channel, sound } = facts.events[*event];
            if sound {
                return Err(format!(
                    "lost without a gap: {lost:?} of c{channel}, {from:?} to {id:?}"
                ));
            }
            debts.push(*event);
        }
        self.debts.extend(debts);
        Ok(())
    }
}

impl Facts<'_> {
    /// The server on which the gateway lived in an epoch.
    pub fn server(&self, epoch: u64) -> &Server {
        let heard = self.gateway.heard.iter().rfind(|(heard, _)| *heard == epoch);
        &self.servers[heard.expect("an epoch that was heard").1]
    }

    /// The highest clock that the gateway has read in an epoch.
    pub fn clock(&self, epoch: u64) -> EventId {
        self.gateway.clocks.get(&epoch).copied().unwrap_or_default()
    }

    /// The epochs that the gateway has heard of since then and has read in, each with its index in
    /// `Gateway::heard`.
    pub fn epochs(&self, since: usize) -> impl Iterator<Item = (usize, u64)> {
        let heard = self.gateway.heard.iter().map(|(epoch, _)| *epoch).enumerate().skip(since);
        heard.filter(|(_, epoch)| self.gateway.clocks.contains_key(epoch))
    }
}
