//! Who of this worker's connections listens to which channel.
//!
//! Whoever inserts on subscribe removes on close: a channel exists here exactly as long as it has a
//! subscriber, and its removal is what the broker hears as a loss of interest.

use std::collections::HashMap;

use slab::Slab;
use sse_contract::Channel;

use crate::feed::inbox::ChannelKey;

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
    attached: bool,
    subscribers: Vec<u32>,
}

/// A connection joined a channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Joined {
    /// The channel.
    pub key: ChannelKey,
    /// Its place in the list of subscribers.
    pub place: u32,
    /// It is the first: the broker must be told.
    pub first: bool,
    /// The broker has attached the channel already.
    pub attached: bool,
}

/// A connection left a channel.
#[derive(Debug)]
pub(crate) struct Left {
    /// The connection that took its place in the list, if one did.
    pub moved: Option<u32>,
    /// The channel had no other subscriber and is gone: the broker must be told.
    pub last: Option<(Channel, ChannelKey)>,
}

impl Channels {
    /// Adds a connection to a channel's subscribers.
    pub(crate) fn join(&mut self, name: &Channel, connection: u32) -> Joined {
        let slot = match self.by_name.get(name) {
            Some(&slot) => slot,
            None => {
                self.generation = self.generation.wrapping_add(1);
                let slot = self.entries.insert(Entry {
                    name: name.clone(),
                    generation: self.generation,
                    attached: false,
                    subscribers: Vec::new(),
                }) as u32;
                self.by_name.insert(name.clone(), slot);
                slot
            }
        };
        let entry = &mut self.entries[slot as usize];
        entry.subscribers.push(connection);
        Joined {
            key: ChannelKey { slot, generation: entry.generation },
            place: entry.subscribers.len() as u32 - 1,
            first: entry.subscribers.len() == 1,
            attached: entry.attached,
        }
    }

    /// Removes the connection at `place`; the last one of the list takes its place.
    pub(crate) fn leave(&mut self, slot: u32, place: u32) -> Left {
        let entry = &mut self.entries[slot as usize];
        entry.subscribers.swap_remove(place as usize);
        let moved = entry.subscribers.get(place as usize).copied();
        let last = entry.subscribers.is_empty().then(|| {
            let entry = self.entries.remove(slot as usize);
            self.by_name.remove(&entry.name);
            (entry.name, ChannelKey { slot, generation: entry.generation })
        });
        Left { moved, last }
    }

    /// The subscribers of a channel; none when it is gone.
    pub(crate) fn subscribers(&self, key: ChannelKey) -> &[u32] {
        match self.entries.get(key.slot as usize) {
            Some(entry) if entry.generation == key.generation => &entry.subscribers,
            _ => &[],
        }
    }

    /// The channel's name, by its index.
    pub(crate) fn name(&self, slot: u32) -> &Channel {
        &self.entries[slot as usize].name
    }

    /// The broker attached the channel. Answers whether that is news.
    pub(crate) fn set_attached(&mut self, key: ChannelKey) -> bool {
        match self.entries.get_mut(key.slot as usize) {
            Some(entry) if entry.generation == key.generation && !entry.attached => {
                entry.attached = true;
                true
            }
            _ => false,
        }
    }

    /// The broker lost every attachment.
    pub(crate) fn detach_all(&mut self) {
        for (_, entry) in &mut self.entries {
            entry.attached = false;
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

    /// How many channels there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
