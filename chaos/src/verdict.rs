//! The judgement at the end of a run: losses, false gaps, repetitions, and epochs without a reason.

use sse_contract::EventId;

use crate::census::Census;
use crate::faults::Fault;
use crate::ledger::{Acked, Ledger};
use crate::payload::{Stamp, channel_name};
use crate::session::{From, Session};
use crate::settings::{Policy, Settings};
use crate::tally::{Tally, UNSEEN_MS, Wrong};
use crate::truth::{BLUR_MS, Gap, HEARD_MS, Verdict};

/// How old a page of history may be: gateways reuse pages that were read for others up to a second
/// ago.
const PAGE_MS: u64 = 1_500;

/// The evidence.
#[derive(Debug)]
pub struct Court<'a> {
    /// What was published.
    pub ledger: &'a Ledger,
    /// What the broker kept.
    pub census: &'a Census,
    /// The settings of the run.
    pub settings: &'a Settings,
}

impl Court<'_> {
    /// Judges one session. Every acknowledged event that the client was owed must have been
    /// received or covered by a gap, and every gap must be true.
    pub fn judge(&self, session: &Session, tally: &mut Tally) {
        for gap in &session.gaps {
            match gap.judge(session, self.ledger, tally, self.settings) {
                Verdict::True => {}
                Verdict::Cautious => tally.cautious += 1,
                Verdict::False(why) => {
                    let name = gap.channel.map_or("*".into(), channel_name);
                    let text = format!(
                        "{} of {name} after {}, oldest {:?}, at {}: {why}",
                        gap.reason, gap.after, gap.oldest, gap.read_ms
                    );
                    tally.wrong(Wrong::FalseGap, format!("{}: {text}", session.name));
                    tally.story(Wrong::FalseGap, || session.story(gap.read_ms, gap.read_ms));
                }
            }
        }
        let Some(first) = session.first else { return self.judge_opener(session, None, tally) };
        let mut lost = Vec::new();
        for channel in &session.channels {
            for (id, event) in self.ledger.acked_on(*channel) {
                if session.received.contains_key(&(id, event.stamp)) {
                    continue;
                }
                if !self.owed(session, id, event, tally) {
                    continue;
                }
                let covers = |gap: &&Gap| gap.covers(id, event, first.id, tally);
                match session.gaps.iter().find(covers) {
                    None => lost.push((id, *event, None)),
                    Some(gap) if self.was_kept(session, gap, id, event, tally) => {
                        lost.push((id, *event, Some(gap)));
                    }
                    Some(_) => tally.told += 1,
                }
            }
        }
        self.judge_opener(session, lost.first().map(|(id, ..)| *id), tally);
        for kept in [false, true] {
            let lost: Vec<_> = lost.iter().filter(|(.., gap)| gap.is_some() == kept).collect();
            let [(id, event, gap), ..] = lost[..] else { continue };
            let how = gap.map_or(String::new(), |gap| {
                format!(", told missing though it was kept, by {gap:?}")
            });
            let on = channel_name(event.channel);
            let text = format!(
                "{} events, like {id} {:?} on {on}, sent {}, known {}{how}",
                lost.len(),
                event.stamp,
                event.sent_ms,
                event.known_ms
            );
            tally.wrongs(Wrong::Lost, lost.len() as u64, format!("{}: {text}", session.name));
            let story = || session.story(event.sent_ms, event.known_ms);
            tally.story(Wrong::Lost, || format!("{}{}", story(), session.around(*id)));
        }
    }

    /// Whether the client was owed an event that it did not receive, regardless of gaps.
    fn owed(&self, session: &Session, id: EventId, event: &Acked, tally: &mut Tally) -> bool {
        let Some(first) = session.first else { return false };
        let open = &session.opens[first.open];
        let after_head = open.head_ms.is_some_and(|head_ms| event.sent_ms > head_ms);
        // Ids of replaced data may be above those of the next epoch. So for an event of another
        // epoch, only the positions read since it was sent count.
        let then = session.steps.iter().filter(|step| step.at_ms >= event.sent_ms);
        let upto = match id.epoch() == session.position.epoch() {
            true => session.position,
            false => then.map(|step| step.id).max().unwrap_or_default(),
        };
        if id > upto {
            return false;
        }
        // Without a history, the oldest event is the next one, even if a publisher left events
        // there while Redis had lost the limits.
        let from = match session.from {
            From::Oldest if self.settings.max_len == 0 => From::Now,
            from => from,
        };
        if from == From::Oldest && self.kept_from_the_start(session, id, event, tally) {
            return true;
        }
        // A position of one epoch says nothing about another epoch. A reset leads the client into
        // each epoch and covers those that it skips. So the client is owed events of epochs in
        // which it had a position, and events between its head and its first position.
        let stood = session.epochs.contains(&id.epoch());
        let before_it = after_head && event.sent_ms <= first.at_ms;
        if !(stood || before_it) {
            return false;
        }
        let begun = match from {
            From::Now | From::Garbage => id > first.id || after_head,
            From::Oldest => {
                after_head && event.sent_ms > first.at_ms
                    || self.is_between(session, id, event, tally)
            }
        };
        begun && self.lived_to_be_told(session, id, event, tally)
    }

    /// Whether the client must have heard of an event that it was owed before its session ended.
    /// With two masters the event may be in the other one's data, with an id like those in ours.
    /// Where data were restored, ids that the client has passed are issued again. The client is
    /// told of both only when those data end, and only if it is still connected then.
    fn lived_to_be_told(
        &self,
        session: &Session,
        id: EventId,
        event: &Acked,
        tally: &Tally,
    ) -> bool {
        let from_ms = event.sent_ms.saturating_sub(UNSEEN_MS);
        let other_life = tally.touched(from_ms, event.known_ms, Fault::makes_two_masters)
            || tally.touched(from_ms, event.known_ms, Fault::splits)
                && self.ledger.was_passed(id, event.sent_ms);
        // A client that had been led to a later epoch by then hears no more of this one. It reads a
        // step a moment after its gateway does, hence the blur.
        let place = |epoch| self.ledger.epochs().iter().position(|(known, _)| *known == epoch);
        let by_ms = event.known_ms + BLUR_MS;
        let stood = session.steps.iter().take_while(|step| step.at_ms <= by_ms).last();
        let led_on = stood.is_some_and(|step| place(step.id.epoch()) > place(id.epoch()));
        let last_ms = session.steps.last().map_or(0, |step| step.at_ms);
        !other_life || (!led_on && last_ms > event.known_ms + HEARD_MS)
    }

    /// A client from the oldest event is not owed what was gone when it first read. But histories
    /// are trimmed only at the old end, so an event above one that came on its channel was there.
    fn is_between(&self, session: &Session, id: EventId, event: &Acked, tally: &Tally) -> bool {
        let Some(first) = session.first else { return false };
        let behind = session.first_on.get(&event.channel).is_some_and(|came| id > *came);
        let latest = self.settings.policy(&channel_name(event.channel)) == Policy::Latest;
        behind && !latest && !tally.epoch_ended_between(event.sent_ms, first.at_ms)
    }

    fn kept_from_the_start(
        &self,
        session: &Session,
        id: EventId,
        event: &Acked,
        tally: &mut Tally,
    ) -> bool {
        let Some(first) = session.first else { return false };
        let kept = self.kept(session, (first.open, 0), EventId::ZERO, (id, event), tally);
        tally.kept += u64::from(kept);
        kept
    }

    /// Whether Redis kept an event all the time from before the client was told of a gap until it
    /// passed the event.
    fn was_kept(
        &self,
        session: &Session,
        gap: &Gap,
        id: EventId,
        event: &Acked,
        tally: &mut Tally,
    ) -> bool {
        let whole =
            matches!(gap.reason.as_str(), "unknown_id" | "late" | "no_history" | "conflated");
        if whole || id <= gap.id {
            return false;
        }
        let kept = self.kept(session, (gap.open, gap.step), gap.id, (id, event), tally);
        tally.kept += u64::from(kept);
        kept
    }

    fn kept(
        &self,
        session: &Session,
        (open, step): (usize, usize),
        floor: EventId,
        (id, event): (EventId, &Acked),
        tally: &Tally,
    ) -> bool {
        let channel = event.channel;
        let latest = self.settings.policy(&channel_name(channel)) == Policy::Latest;
        if latest || self.ledger.was_two(id) {
            return false;
        }
        // The client's page may have been read for others this much earlier.
        let from_ms = session.opens[open].at_ms.saturating_sub(PAGE_MS);
        let steps = &session.steps[step.min(session.steps.len())..];
        // A reset may take the position down, and then nothing is known.
        let passed = steps.iter().find(|step| step.id > id || step.id < floor);
        let Some(passed) = passed.filter(|step| step.id > id) else { return false };
        // Two masters keep different data, and the census asks only one of them. Nor can a gateway
        // always read an existing history.
        let unsure =
            |f: Fault| matches!(f, Fault::TwoMasters | Fault::FailoverBack) || f.hides_histories();
        if tally.touched(from_ms, passed.at_ms, unsure) {
            return false;
        }
        // An event that happened after the client's request is above the clock of every earlier
        // page. So within one epoch, no such page led past it.
        let before = event.known_ms <= from_ms;
        if !before && (passed.id.epoch() != id.epoch() || event.known_ms > passed.at_ms) {
            return false;
        }
        let born = self.census.first_ms(channel, id);
        let born = born.is_some_and(|ms| !tally.epoch_ended_between(event.sent_ms, ms));
        self.census.kept(channel, id, born, from_ms, passed.at_ms)
    }

    /// Counts the outcome of the event that was published on `open`.
    fn judge_opener(&self, session: &Session, lost: Option<EventId>, tally: &mut Tally) {
        let Some((stamp, faults)) = &session.opener else { return };
        let came = session.received.keys().any(|(_, came)| came == stamp);
        let acked = self.ledger.is_acked(*stamp);
        if came {
            tally.opened_came += 1;
        } else if lost.is_some() || (acked && !session.gaps.is_empty()) {
            tally.opened_told += u64::from(lost.is_none());
        } else {
            tally.opened_void += 1;
            return;
        }
        for fault in faults {
            *tally.opened.entry(fault).or_default() += 1;
        }
    }

    /// Judges what concerns no single session.
    pub fn judge_all(&self, tally: &mut Tally) {
        self.judge_repeats(tally);
        self.judge_epochs(tally);
    }

    /// Finds publications that became two events although no idempotency key was lost, and ids that
    /// were two events.
    fn judge_repeats(&self, tally: &mut Tally) {
        for (stamp, ids) in self.ledger.repeated() {
            let sent_ms = self.ledger.sent_ms(stamp).unwrap_or(0);
            let last_ms = ids.iter().map(|(_, ms)| *ms).max().unwrap_or(0);
            if stamp.key().is_some() && tally.keys_lost_between(sent_ms, last_ms) {
                tally.repeated += 1;
            } else {
                tally.wrong(Wrong::Duplicated, format!("{} became {ids:?}", describe(stamp)));
            }
        }
        for (id, a, b, at_ms) in &self.ledger.clashes {
            let since_ms = [a, b].iter().filter_map(|stamp| self.ledger.sent_ms(**stamp)).min();
            if !tally.split_between(since_ms.unwrap_or(0), *at_ms) {
                tally.wrong(
                    Wrong::Forged,
                    format!("{id} is both {} and {}", describe(*a), describe(*b)),
                );
            }
        }
    }

    /// Each epoch needs a reason for the end of the one before.
    fn judge_epochs(&self, tally: &mut Tally) {
        for pair in self.ledger.epochs().windows(2) {
            let [(_, before_ms), (epoch, began_ms)] = [pair[0], pair[1]];
            if !tally.epoch_ended_between(before_ms.saturating_sub(3_000), began_ms) {
                let text = format!(
                    "the epoch {epoch} began at {began_ms}, and nothing ended the one before"
                );
                tally.wrong(Wrong::FalseGap, text);
            }
        }
    }
}

fn describe(stamp: Stamp) -> String {
    format!("the publication {stamp:?} of {:?}", channel_name(stamp.channel))
}
