//! Judges whether a gap is true, and which events it covers.
//!
//! Gaps are judged at the end of a run, when it is known which publications became events. A gap is
//! *true* if something it names is missing or may be. It is *cautious* if nothing is missing but
//! the contract gives no reader a way to know that. Otherwise it is *false*.

use sse_contract::EventId;

use crate::faults::Fault;
use crate::ledger::{Acked, Ledger};
use crate::payload::{channel_index, channel_name};
use crate::session::{From, Session};
use crate::settings::{Policy, Settings};
use crate::tally::Tally;

/// The longest time from a fault in Redis until a tick has seen it and a client was told.
pub const HEARD_MS: u64 = 12_000;
/// How much earlier than the suite a client may see an epoch.
const SEEN_MS: u64 = 2_000;
/// How much the times may differ at which events become known in different ways.
pub const BLUR_MS: u64 = 1_500;

/// A gap that a client was told.
#[derive(Debug, Clone)]
pub struct Gap {
    /// The channel; none for all channels.
    pub channel: Option<u16>,
    /// The reason in the gap.
    pub reason: String,
    /// The position before the gap, as the gap says.
    pub after: EventId,
    /// The oldest event kept, if the gap names one.
    pub oldest: Option<EventId>,
    /// The position after the gap.
    pub id: EventId,
    /// When the gap was read.
    pub read_ms: u64,
    /// The index of the session's connection.
    pub open: usize,
    /// How many steps the session had before it.
    pub step: usize,
    /// Whether nothing was broken and everybody was up to date.
    pub calm: bool,
}

/// The judgement of a gap.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Something is missing, or may be.
    True,
    /// Nothing is missing, but no reader could know that.
    Cautious,
    /// The gap has no reason. Holds the explanation.
    False(String),
}

impl Gap {
    /// Parses a gap's data; none if they are malformed.
    pub fn read(
        data: &str,
        id: EventId,
        read_ms: u64,
        open: usize,
        step: usize,
        calm: bool,
    ) -> Option<Gap> {
        let value: serde_json::Value = serde_json::from_str(data).ok()?;
        let text = |name: &str| value[name].as_str();
        let (name, reason) = (text("channel")?, text("reason")?.to_owned());
        let whole = match reason.as_str() {
            "reset" | "unknown_id" | "late" => true,
            "trimmed" | "expired" | "conflated" | "unreadable" => false,
            "no_history" => name == "*",
            _ => return None,
        };
        let channel = if whole { None } else { Some(channel_index(name)?) };
        if whole != (name == "*") {
            return None;
        }
        let position = |name: &str| text(name).and_then(|id| id.parse().ok());
        let after = position("after").unwrap_or_default();
        let oldest = if whole { None } else { position("oldest") };
        Some(Gap { channel, reason, after, oldest, id, read_ms, open, step, calm })
    }

    /// Whether another gap has the same channel and reason.
    pub fn is(&self, other: &Gap) -> bool {
        self.channel == other.channel && self.reason == other.reason
    }

    /// Whether the gap covers a missing event.
    pub fn covers(&self, id: EventId, event: &Acked, first: EventId, tally: &Tally) -> bool {
        let before = event.sent_ms <= self.read_ms;
        match (self.channel, self.reason.as_str()) {
            (Some(channel), _) if channel != event.channel => false,
            (Some(_), _) => id > self.after && self.oldest.map_or(before, |oldest| id < oldest),
            (None, "late") => id <= first,
            // Events of the old epoch above the position are lost with it, even if a deposed master
            // acknowledges them after the reset. Events below the position had been delivered, so
            // one of them may be missing only if its id may have been issued twice.
            (None, "reset") if id.epoch() == self.after.epoch() => {
                id > self.after || (before && tally.split_between(event.sent_ms, event.known_ms))
            }
            (None, _) => before,
        }
    }

    /// Judges the gap.
    pub fn judge(
        &self,
        session: &Session,
        ledger: &Ledger,
        tally: &Tally,
        settings: &Settings,
    ) -> Verdict {
        let fault = |kind: fn(Fault) -> bool| {
            let from_ms = self.read_ms.saturating_sub(HEARD_MS);
            tally.touched(from_ms, self.read_ms, kind)
        };
        let need = |so: bool, why: &str| match so {
            true => Verdict::True,
            false => Verdict::False(why.to_owned()),
        };
        if self.calm && !matches!(self.reason.as_str(), "no_history" | "unknown_id") {
            return Verdict::False("nothing was broken that could cause it".to_owned());
        }
        match (self.reason.as_str(), self.channel) {
            ("reset", _) => self.judge_reset(session, ledger, tally),
            ("unknown_id", _) => {
                need(session.from == From::Garbage, "the position was given out by a gateway")
            }
            ("no_history", _) => need(settings.max_len == 0, "there is a history"),
            ("late", _) => {
                let open = &session.opens[self.open];
                let from_ms = open.at_ms.saturating_sub(HEARD_MS);
                let broken = tally.touched(from_ms, self.read_ms, |_| true);
                need(self.step == 0 && broken, "nothing was broken, or there was a position")
            }
            ("conflated", Some(channel)) => {
                let latest = settings.policy(&channel_name(channel)) == Policy::Latest;
                need(latest && self.something_between(channel, ledger), "nothing was left out")
            }
            ("unreadable", _) => need(fault(Fault::hides_histories), "all could be read"),
            (_, Some(channel)) => self.judge_missing(channel, ledger, tally, settings),
            (_, None) => Verdict::False("of all channels".to_owned()),
        }
    }

    fn judge_reset(&self, session: &Session, ledger: &Ledger, tally: &Tally) -> Verdict {
        let epoch = self.after.epoch();
        let Some(began_ms) = ledger.epoch_began_ms(epoch) else {
            return Verdict::False("it is after a position that no gateway gave out".to_owned());
        };
        // The client of a gateway that was cut off may see the epoch late, even after the fault
        // that ended it.
        let from_ms = began_ms.saturating_sub(HEARD_MS);
        if !tally.epoch_ended_between(from_ms, self.read_ms) {
            return Verdict::False("nothing ended that epoch".to_owned());
        }
        // A stream that is still sent the old epoch may be told one reset for each epoch that
        // begins meanwhile.
        let alike = |gap: &&Gap| {
            gap.reason == "reset" && gap.open == self.open && gap.after.epoch() == epoch
        };
        let told = session.gaps.iter().filter(alike).filter(|gap| gap.step <= self.step).count();
        let seen_ms = self.read_ms + SEEN_MS;
        let epochs = ledger.epochs().iter().skip_while(|(known, _)| *known != epoch).skip(1);
        let later = epochs.filter(|(_, ms)| *ms <= seen_ms).count();
        // A client that comes from the new master to a gateway still at the old one gets one more
        // reset.
        let from_ms = self.read_ms.saturating_sub(HEARD_MS);
        let back = tally.touched(from_ms, self.read_ms, Fault::splits);
        match told <= later + usize::from(back) {
            true => Verdict::True,
            false => Verdict::False(format!("told {told} times, and {later} epochs began since")),
        }
    }

    fn something_between(&self, channel: u16, ledger: &Ledger) -> bool {
        let soon = |ms: u64| ms <= self.read_ms + BLUR_MS;
        ledger.known_between(channel, self.after, self.oldest).any(|(_, ms)| soon(ms)) || {
            let from_ms = ledger.learnt_ms(channel, self.after).saturating_sub(BLUR_MS);
            ledger.doubtful(channel, from_ms, self.read_ms)
        }
    }

    /// Judges a gap with the reason `trimmed` or `expired`.
    fn judge_missing(
        &self,
        channel: u16,
        ledger: &Ledger,
        tally: &Tally,
        settings: &Settings,
    ) -> Verdict {
        if let Some(oldest) = self.oldest {
            if oldest <= self.after {
                return Verdict::False("the oldest kept is not above the position".to_owned());
            }
            let from_ms = ledger.learnt_ms(channel, oldest).saturating_sub(BLUR_MS);
            let doubtful = ledger.doubtful(channel, from_ms, self.read_ms);
            if !ledger.is_event(channel, oldest) && !doubtful {
                return Verdict::False(format!("{oldest} is no event of this channel"));
            }
        }
        let from_ms = self.read_ms.saturating_sub(HEARD_MS);
        if self.oldest.is_none() && tally.touched(from_ms, self.read_ms, Fault::hides_histories) {
            return Verdict::True;
        }
        let old = self.is_old(ledger, tally, settings);
        if self.reason == "expired" && !old {
            return Verdict::False("the position is younger than the ttl".to_owned());
        }
        if self.something_between(channel, ledger) {
            return Verdict::True;
        }
        // Nothing is missing. No reader can know that if the position is older than the ttl, or if
        // events were trimmed and the oldest kept one is above the position: the last trimmed one
        // may be above it too.
        let cut = ledger.known_between(channel, EventId::ZERO, Some(self.after)).next().is_some()
            || ledger.is_event(channel, self.after);
        match (self.reason.as_str(), self.oldest) {
            ("expired", _) => Verdict::Cautious,
            (_, Some(_)) if cut => Verdict::Cautious,
            _ => Verdict::False("nothing between was ever published".to_owned()),
        }
    }

    /// Whether by Redis' clock the position was older than the ttl when the gap was told. That
    /// clock is at or above every id and, unless it was set back, at or above the true time.
    fn is_old(&self, ledger: &Ledger, tally: &Tally, settings: &Settings) -> bool {
        let from_ms = self.read_ms.saturating_sub(HEARD_MS);
        let stepped = tally.touched(from_ms, self.read_ms, Fault::of_time);
        let ttl = settings.ttl.as_millis() as u64;
        let clock = ledger.clock_ms(self.read_ms + BLUR_MS).max(self.read_ms + BLUR_MS);
        stepped || self.after.ms <= clock.saturating_sub(ttl)
    }
}
