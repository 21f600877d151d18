//! Tells an operator of a worker's streams, some places of the table at a time.

use std::collections::BinaryHeap;
use std::time::{Duration, UNIX_EPOCH};

use sse_contract::{Cursor, EventId};

use crate::feed::listing::{
    NAMED, STEP, StreamEntry, StreamFilter, StreamKey, StreamSort, StreamState, StreamsPart,
    StreamsStep,
};
use crate::hub::subscribers::Subscribers;
use crate::stream::connection::Connection;
use crate::stream::strand::View;
use crate::stream::subscription::About;

impl Subscribers {
    /// Tells of the streams in some of the table's places.
    pub(crate) fn list_streams(&self, step: &StreamsStep) -> StreamsPart {
        let (end, places) = (step.from.saturating_add(STEP), self.connections.capacity());
        // The index of the wanted channel in this hub; a hub without that channel has no streams
        // of it.
        let channel = step.filter.channel.as_ref().map(|name| self.channels.slot(name));
        let mut matched = 0;
        let mut first: BinaryHeap<(StreamKey, usize)> = BinaryHeap::new();
        for slot in step.from..end.min(places) {
            let Some(connection) = self.connections.get(slot) else { continue };
            if !self.passes(slot, connection, &step.filter, channel) {
                continue;
            }
            matched += 1;
            let key = self.key(connection, step.sort);
            if step.after.is_some_and(|after| key <= after)
                || step.before.is_some_and(|before| key >= before)
            {
                continue;
            }
            first.push((key, slot));
            if first.len() > step.most {
                first.pop();
            }
        }
        let entries = first.into_iter().map(|(key, slot)| (key, self.entry(slot))).collect();
        StreamsPart { entries, matched, next: (end < places).then_some(end) }
    }

    fn passes(
        &self,
        slot: usize,
        connection: &Connection,
        filter: &StreamFilter,
        channel: Option<Option<u32>>,
    ) -> bool {
        let has = |channel: u32| {
            let memberships =
                connection.strands.iter().flat_map(|strand| strand.memberships.iter());
            memberships.into_iter().any(|membership| membership.channel == channel)
        };
        let subject = || connection.about.as_deref()?.subject.as_deref();
        let client = || self.peer(slot).map(|peer| peer.client);
        channel.is_none_or(|channel| channel.is_some_and(has))
            && (filter.subject.is_none() || filter.subject.as_deref() == subject())
            && (filter.client.is_none() || filter.client == client())
    }

    fn key(&self, connection: &Connection, sort: StreamSort) -> StreamKey {
        let opened = self.unix_millis(connection.opened);
        let rank = match sort {
            StreamSort::Oldest => [opened, 0, 0],
            StreamSort::Newest => [u64::MAX - opened, 0, 0],
            StreamSort::Slowest => {
                let queued = connection.outbox().map_or(0, |outbox| outbox.bytes() as u64);
                let behind = self.behind(connection).unwrap_or_default().as_millis() as u64;
                let live = u64::from(state(connection) != StreamState::Lagging);
                [live, u64::MAX - queued, u64::MAX - behind]
            }
        };
        StreamKey { rank, worker: self.worker, number: connection.generation }
    }

    fn entry(&self, slot: usize) -> StreamEntry {
        let (connection, now) = (&self.connections[slot], self.now());
        let memberships = || connection.strands.iter().flat_map(|strand| strand.memberships.iter());
        let named = memberships().take(NAMED);
        let about = connection.about.as_deref();
        let outbox = connection.outbox();
        StreamEntry {
            id: self.stream_id(slot).to_string(),
            client: self.peer(slot).map(|peer| (peer.client, peer.http.as_str())),
            subject: about.and_then(|about| about.subject.clone()),
            channels: named.map(|m| self.channels.name(m.channel).clone()).collect(),
            channel_count: memberships().count(),
            opened: UNIX_EPOCH + Duration::from_millis(self.unix_millis(connection.opened)),
            age: tenths(now - connection.opened),
            position: self.position(connection),
            state: state(connection),
            queued_bytes: outbox.map_or(0, |outbox| outbox.bytes()),
            queued_events: outbox.map_or(0, |outbox| outbox.events()),
            behind: self.behind(connection),
            stalled: outbox.map_or(Duration::ZERO, |outbox| tenths(now - outbox.progress())),
            written: about.and_then(About::written),
        }
    }

    /// Everything of a strand at or below this was handed out or told missing. Of the only strand,
    /// it was also written.
    fn reached(&self, connection: &Connection, strand: &View<'_>) -> Option<EventId> {
        let waits = connection.outbox().and_then(|outbox| outbox.first_id());
        let position = match (waits, strand.joining) {
            (Some(id), _) => Some(id.before()),
            (None, Some(joining)) => joining.join.position(),
            (None, None) => Some(strand.seen).max(self.dispatched(strand)),
        };
        position.filter(|position| *position > EventId::ZERO)
    }

    /// The last position that the broker dispatched to a strand's partition.
    fn dispatched(&self, strand: &View<'_>) -> Option<EventId> {
        self.clocks[usize::from(strand.partition)].dispatched
    }

    /// The stream's position. A stream of several strands has none while something waits to be
    /// written.
    fn position(&self, connection: &Connection) -> Option<Cursor> {
        let strands = &connection.strands;
        let first = strands.iter().next()?;
        if strands.are_several() && connection.pending() {
            return None;
        }
        Some(strands.cursor(first.partition, self.reached(connection, &first)?))
    }

    /// How far a stream's position is behind the last one of its partition, the furthest of several;
    /// `None` while the broker is away.
    fn behind(&self, connection: &Connection) -> Option<Duration> {
        let behind = |strand: View<'_>| {
            let clock = self.dispatched(&strand)?;
            let position = self.reached(connection, &strand).unwrap_or(clock);
            Some(Duration::from_millis(clock.ms.saturating_sub(position.ms)))
        };
        connection.strands.iter().filter_map(behind).max()
    }
}

fn state(connection: &Connection) -> StreamState {
    let mut state = StreamState::Live;
    for joining in connection.strands.iter().filter_map(|strand| strand.joining) {
        match joining.join.was_live() {
            true => return StreamState::Lagging,
            false => state = StreamState::Joining,
        }
    }
    state
}

fn tenths(deciseconds: u32) -> Duration {
    Duration::from_millis(u64::from(deciseconds) * 100)
}
