//! Which of this worker's connections listen to which channel.
//!
//! A channel exists here exactly as long as it has a subscriber: the first one adds it, and the
//! broker is told when the last one leaves.

use std::collections::HashMap;

use slab::Slab;
use sse_contract::{Channel, EventId};

use crate::feed::inbox::ChannelKey;
use crate::feed::listing::{ChannelEntry, ChannelsPart, ChannelsStep, STEP};

/// The worker's channels.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    entries: Slab<Entry>,
    by_name: HashMap<Channel, u32>,
    generation: u32,
}

#[derive(Debug)]
struct Entry {
    name: Channel,
    generation: u32,
    partition: u16,
    attached: bool,
    subscribers: Vec<u32>,
    /// The last event handed out; [`EventId::ZERO`] if there was none.
    last: EventId,
}

/// The result of adding a subscriber.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Added {
    /// The channel's key.
    pub key: ChannelKey,
    /// The connection's index in the list of subscribers.
    pub place: u32,
    /// Whether the connection is the first subscriber. The broker must then be told.
    pub first: bool,
    /// Whether the broker has attached the channel already.
    pub attached: bool,
}

/// The result of removing a subscriber.
#[derive(Debug)]
pub(crate) struct Removed {
    /// The connection that took over its index in the list, if one did.
    pub moved: Option<u32>,
    /// The channel, if it has lost its last subscriber and is removed. The broker must then be
    /// told.
    pub last: Option<(Channel, ChannelKey)>,
}

impl Channels {
    /// Adds a connection to a channel's subscribers. `partition` is the channel's.
    pub(crate) fn add(&mut self, name: &Channel, partition: u16, connection: u32) -> Added {
        let slot = match self.by_name.get(name) {
            Some(&slot) => slot,
            None => {
                self.generation = self.generation.wrapping_add(1);
                let entry = self.entries.vacant_entry();
                let (slot, generation) = (entry.key() as u32, self.generation);
                entry.insert(Entry {
                    name: name.clone(),
                    generation,
                    partition,
                    attached: false,
                    subscribers: Vec::new(),
                    last: EventId::ZERO,
                });
                self.by_name.insert(name.clone(), slot);
                slot
            }
        };
        let entry = &mut self.entries[slot as usize];
        entry.subscribers.push(connection);
        Added {
            key: ChannelKey { slot, generation: entry.generation },
            place: entry.subscribers.len() as u32 - 1,
            first: entry.subscribers.len() == 1,
            attached: entry.attached,
        }
    }

    /// Removes the connection at `place`. The last one in the list takes over its index.
    pub(crate) fn remove(&mut self, slot: u32, place: u32) -> Removed {
        let entry = &mut self.entries[slot as usize];
        entry.subscribers.swap_remove(place as usize);
        let moved = entry.subscribers.get(place as usize).copied();
        let last = entry.subscribers.is_empty().then(|| {
            let entry = self.entries.remove(slot as usize);
            self.by_name.remove(&entry.name);
            (entry.name, ChannelKey { slot, generation: entry.generation })
        });
        Removed { moved, last }
    }

    /// The subscribers of a channel; empty if the channel is gone.
    pub(crate) fn subscribers(&self, key: ChannelKey) -> &[u32] {
        match self.entries.get(key.slot as usize) {
            Some(entry) if entry.generation == key.generation => &entry.subscribers,
            _ => &[],
        }
    }

    /// The channel's partition; `None` if the channel is gone.
    pub(crate) fn partition(&self, key: ChannelKey) -> Option<u16> {
        let entry = self.entries.get(key.slot as usize)?;
        (entry.generation == key.generation).then_some(entry.partition)
    }

    /// Notes that an event of the channel is handed out. Returns the channel's partition; `None` if
    /// the channel is gone.
    pub(crate) fn hands_out(&mut self, key: ChannelKey, id: EventId) -> Option<u16> {
        let entry = self.entries.get_mut(key.slot as usize)?;
        if entry.generation != key.generation {
            return None;
        }
        entry.last = id;
        Some(entry.partition)
    }

    /// The name of the channel at this index.
    pub(crate) fn name(&self, slot: u32) -> &Channel {
        &self.entries[slot as usize].name
    }

    /// Notes that the broker attached the channel. Returns whether that is new.
    pub(crate) fn set_attached(&mut self, key: ChannelKey) -> bool {
        match self.entries.get_mut(key.slot as usize) {
            Some(entry) if entry.generation == key.generation && !entry.attached => {
                entry.attached = true;
                true
            }
            _ => false,
        }
    }

    /// Notes that the broker lost every attachment of a partition.
    pub(crate) fn detach_all(&mut self, partition: u16) {
        for (_, entry) in &mut self.entries {
            entry.attached &= entry.partition != partition;
        }
    }

    /// How many connections listen to a channel.
    pub(crate) fn count(&self, name: &Channel) -> usize {
        self.by_name.get(name).map_or(0, |&slot| self.entries[slot as usize].subscribers.len())
    }

    /// The connections that listen to a channel of this name.
    pub(crate) fn subscribers_by_name(&self, name: &str) -> Vec<usize> {
        let slot = self.by_name.get(name);
        let all = slot.map_or(&[][..], |&slot| &self.entries[slot as usize].subscribers);
        all.iter().map(|connection| *connection as usize).collect()
    }

    /// The index of the channel of this name; `None` if there is none.
    pub(crate) fn slot(&self, name: &Channel) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// Tells of the channels in some of the table's places.
    pub(crate) fn list(&self, step: &ChannelsStep) -> ChannelsPart {
        let (end, places) = (step.from.saturating_add(STEP), self.entries.capacity());
        let visited = (step.from..end.min(places)).filter_map(|slot| self.entries.get(slot));
        let wanted = visited.filter(|entry| entry.name.as_str().starts_with(&*step.prefix));
        let tell = |entry: &Entry| {
            let last = Some(entry.last).filter(|last| *last > EventId::ZERO);
            let subscribers = entry.subscribers.len();
            (entry.name.clone(), ChannelEntry { subscribers, last })
        };
        ChannelsPart { entries: wanted.map(tell).collect(), next: (end < places).then_some(end) }
    }
}
