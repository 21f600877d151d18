//! Which live channels this gateway wants from Redis, and which it has: pure bookkeeping.
//!
//! The table compares the two states: hubs say what they want, the session says what Redis has
//! confirmed, and the difference is sent. A channel stays subscribed for a while after its last
//! subscriber has left, because people reload pages.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use sse_contract::Channel;

use crate::feed::inbox::ChannelKey;

/// A worker's attachment to a channel.
pub(crate) type Attachment = (u16, ChannelKey);

/// The channels this gateway wants, by their names in Redis. It outlives sessions.
#[derive(Debug)]
pub(crate) struct Interest {
    channels: HashMap<Box<[u8]>, Entry>,
    idle: VecDeque<(Instant, Box<[u8]>)>,
    linger: Duration,
    /// How many channels a hub wants.
    wanted: usize,
}

#[derive(Debug)]
struct Entry {
    channel: Channel,
    attachments: SmallVec<[Attachment; 2]>,
    /// SUBSCRIBEs that were sent and not confirmed. Redis confirms them in order, and only the last
    /// confirmation shows the present state: an UNSUBSCRIBE may have followed an earlier SUBSCRIBE.
    unconfirmed: u32,
    /// Whether the channel's last command was a SUBSCRIBE that Redis has not refused.
    asked: bool,
    idle_since: Option<Instant>,
}

/// What `attach` leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attaching {
    /// Nothing is sent: either a SUBSCRIBE is unconfirmed, or there is no session.
    Nothing,
    /// A SUBSCRIBE must be sent.
    Subscribe,
    /// The channel is already subscribed and confirmed, so the hub is attached at once.
    Attached,
}

impl Interest {
    /// Creates an empty table. `linger` is how long an unwanted channel stays subscribed.
    pub(crate) fn new(linger: Duration) -> Self {
        Interest { channels: HashMap::new(), idle: VecDeque::new(), linger, wanted: 0 }
    }

    /// How many channels a hub wants.
    pub(crate) fn wanted(&self) -> usize {
        self.wanted
    }

    /// A hub wants a channel, which has this name in Redis. `online` says whether there is a
    /// session.
    pub(crate) fn attach(
        &mut self,
        name: &[u8],
        channel: &Channel,
        attachment: Attachment,
        online: bool,
    ) -> Attaching {
        let entry = self.channels.entry(name.into()).or_insert_with(|| Entry::of(channel));
        self.wanted += usize::from(entry.attachments.is_empty());
        entry.attachments.push(attachment);
        entry.idle_since = None;
        if !online {
            return Attaching::Nothing;
        }
        if !entry.asked {
            entry.asked = true;
            entry.unconfirmed += 1;
            return Attaching::Subscribe;
        }
        if entry.unconfirmed == 0 { Attaching::Attached } else { Attaching::Nothing }
    }

    /// A hub no longer wants a channel.
    pub(crate) fn detach(&mut self, channel: &[u8], attachment: Attachment, now: Instant) {
        let Some(entry) = self.channels.get_mut(channel) else { return };
        let before = entry.attachments.len();
        entry.attachments.retain(|a| *a != attachment);
        if before > 0 && entry.attachments.is_empty() {
            self.wanted -= 1;
            entry.idle_since = Some(now);
            self.idle.push_back((now, channel.into()));
        }
    }

    /// Redis confirmed a SUBSCRIBE. Returns the attachments that are now in force.
    pub(crate) fn confirmed(&mut self, channel: &[u8]) -> &[Attachment] {
        let Some(entry) = self.channels.get_mut(channel) else { return &[] };
        entry.unconfirmed = entry.unconfirmed.saturating_sub(1);
        if entry.unconfirmed == 0 && !entry.asked && entry.attachments.is_empty() {
            self.channels.remove(channel);
        }
        self.listeners(channel).map_or(&[], |(_, attachments)| attachments)
    }

    /// Redis refused a SUBSCRIBE. Returns the attachments that must be told.
    pub(crate) fn refused(&mut self, channel: &[u8]) -> SmallVec<[Attachment; 2]> {
        let Some(entry) = self.channels.get_mut(channel) else { return SmallVec::new() };
        entry.unconfirmed = entry.unconfirmed.saturating_sub(1);
        if entry.unconfirmed > 0 {
            // A later SUBSCRIBE is unconfirmed, and its answer counts.
            return SmallVec::new();
        }
        let wanted = entry.asked;
        entry.asked = false;
        if entry.attachments.is_empty() {
            self.channels.remove(channel);
            return SmallVec::new();
        }
        if wanted { entry.attachments.clone() } else { SmallVec::new() }
    }

    /// The channel with this name in Redis, and its attachments in force: its last SUBSCRIBE is
    /// confirmed. `None` if there are none.
    pub(crate) fn listeners(&self, name: &[u8]) -> Option<(&Channel, &[Attachment])> {
        let entry = self.channels.get(name)?;
        let in_force = entry.asked && entry.unconfirmed == 0 && !entry.attachments.is_empty();
        in_force.then_some((&entry.channel, &entry.attachments))
    }

    /// Returns the channels that nobody wanted for the `linger` time, and marks them as
    /// unsubscribed. The caller sends the UNSUBSCRIBEs.
    pub(crate) fn expired(&mut self, now: Instant) -> Vec<Box<[u8]>> {
        let mut expired = Vec::new();
        while let Some((since, _)) = self.idle.front() {
            if now.saturating_duration_since(*since) < self.linger {
                break;
            }
            let Some((since, channel)) = self.idle.pop_front() else { break };
            let Some(entry) = self.channels.get_mut(&channel) else { continue };
            if entry.idle_since != Some(since) {
                continue;
            }
            let asked = std::mem::take(&mut entry.asked);
            // While a confirmation is outstanding, the entry must stay to count it.
            if entry.unconfirmed == 0 {
                self.channels.remove(&channel);
            }
            if asked {
                expired.push(channel);
            }
        }
        expired
    }

    /// Begins a session. Returns every wanted channel, for the caller to subscribe. They are sorted
    /// by name, so that a run of the join model can be repeated.
    pub(crate) fn restart(&mut self) -> Vec<Box<[u8]>> {
        self.idle.clear();
        self.channels.retain(|_, entry| !entry.attachments.is_empty());
        let wanted = self.channels.iter_mut().map(|(channel, entry)| {
            (entry.asked, entry.unconfirmed) = (true, 1);
            channel.clone()
        });
        let mut wanted: Vec<_> = wanted.collect();
        wanted.sort_unstable();
        wanted
    }

    /// The session ended, and with it every subscription.
    pub(crate) fn lost(&mut self) {
        for entry in self.channels.values_mut() {
            (entry.asked, entry.unconfirmed) = (false, 0);
        }
    }
}

impl Entry {
    fn of(channel: &Channel) -> Self {
        Entry {
            channel: channel.clone(),
            attachments: SmallVec::new(),
            unconfirmed: 0,
            asked: false,
            idle_since: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &[u8] = b"sse:a";

    fn channel(name: &str) -> Channel {
        name.parse().expect("a channel")
    }

    fn at(slot: u32) -> Attachment {
        (0, ChannelKey { slot, generation: 1 })
    }

    #[test]
    fn an_old_confirmation_does_not_speak_for_a_new_subscribe() {
        let mut interest = Interest::new(Duration::ZERO);
        let now = Instant::now();
        assert_eq!(interest.attach(A, &channel("a"), at(1), true), Attaching::Subscribe);
        interest.detach(A, at(1), now);
        assert_eq!(
            interest.expired(now),
            [A.into()],
            "UNSUBSCRIBE is sent before the first answer"
        );
        assert_eq!(interest.attach(A, &channel("a"), at(2), true), Attaching::Subscribe);
        assert!(interest.confirmed(A).is_empty(), "an UNSUBSCRIBE stands behind this one");
        assert!(interest.listeners(A).is_none());
        assert_eq!(interest.confirmed(A), [at(2)]);
        assert_eq!(interest.attach(A, &channel("a"), at(3), true), Attaching::Attached);
    }

    #[test]
    fn a_channel_lingers_and_is_forgotten() {
        let mut interest = Interest::new(Duration::from_secs(5));
        let start = Instant::now();
        interest.attach(A, &channel("a"), at(1), true);
        interest.confirmed(A);
        interest.detach(A, at(1), start);
        assert!(interest.expired(start + Duration::from_secs(4)).is_empty());
        assert_eq!(
            interest.attach(A, &channel("a"), at(2), true),
            Attaching::Attached,
            "it came back within the linger"
        );
        assert!(interest.expired(start + Duration::from_secs(6)).is_empty());
        interest.detach(A, at(2), start + Duration::from_secs(7));
        assert_eq!(interest.expired(start + Duration::from_secs(12)), [A.into()]);
        assert!(interest.channels.is_empty());
    }

    #[test]
    fn a_new_session_wants_what_is_wanted() {
        let mut interest = Interest::new(Duration::from_secs(5));
        interest.attach(A, &channel("a"), at(1), true);
        interest.confirmed(A);
        interest.attach(b"sse:b", &channel("b"), at(2), true);
        interest.detach(b"sse:b", at(2), Instant::now());
        interest.lost();
        assert!(interest.listeners(A).is_none());
        assert_eq!(interest.restart(), [A.into()]);
        assert_eq!(interest.confirmed(A), [at(1)]);
    }
}
