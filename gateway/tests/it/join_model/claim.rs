//! What a client of the model is owed: the definition at the top of `join_model`, event by event.

use std::collections::{HashMap, HashSet};

use sse_contract::EventId;

use super::gateway::Gateway;
use super::redis::{Event, Published, Server};

/// What a client's account is checked against.
pub struct Facts<'a> {
    pub events: &'a [Published],
    pub servers: &'a [Server],
    pub gateway: &'a Gateway,
    /// By channel: something left a history.
    pub cut: &'a [bool],
    /// The highest time that anybody ever saw.
    pub latest: u64,
}

/// How a client may understand what it was sent. A reset does not say for which epoch it was told, so there may be
/// several ways; one must hold.
#[derive(Clone)]
pub struct Claim {
    /// The epoch that the client lives in.
    pub epoch: u64,
    /// Where in what its gateway has heard that may be, at the earliest.
    pub since: usize,
    /// What is at or below may be of other epochs, because a reset or a start from the oldest was told.
    pub replays: EventId,
    /// Per channel: up to here a gap was told, in this epoch.
    pub told: HashMap<usize, EventId>,
    /// Passed by, and not told yet: a reset must follow.
    pub debts: HashSet<Event>,
}

impl Claim {
    pub fn new(epoch: u64, since: usize) -> Self {
        let replays = EventId::ZERO;
        Claim { epoch, since, replays, told: HashMap::new(), debts: HashSet::new() }
    }

    /// Everything between was received, or told; the error says what was not.
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

    /// The youngest clock of its reads in an epoch.
    pub fn clock(&self, epoch: u64) -> EventId {
        self.gateway.clocks.get(&epoch).copied().unwrap_or_default()
    }

    /// What it has heard of since then and read something of.
    pub fn epochs(&self, since: usize) -> impl Iterator<Item = (usize, u64)> {
        let heard = self.gateway.heard.iter().map(|(epoch, _)| *epoch).enumerate().skip(since);
        heard.filter(|(_, epoch)| self.gateway.clocks.contains_key(epoch))
    }
}
