//! Whether a gap is true, and what it speaks for.
//!
//! Judged at the end of a run, when it is known which publications became events. A gap is *true* when something that it
//! names is missing or may be; *cautious* when nothing is, but the contract lets no reader know that; else *false*.

use sse_contract::EventId;

use crate::faults::Fault;
use crate::ledger::{Acked, Ledger};
use crate::payload::{channel_index, channel_name};
use crate::session::{From, Session};
use crate::settings::{Policy, Settings};
use crate::tally::Tally;

/// What happened to Redis is seen by a tick, and a client hears of it, at most so much later than the suite did it.
pub const HEARD_MS: u64 = 12_000;
/// A client may hear of an epoch so much before the suite has seen it otherwise.
const SEEN_MS: u64 = 2_000;
/// The wall clock of events learnt by different ways may differ by so much.
pub const BLUR_MS: u64 = 1_500;

/// A gap that was told.
#[derive(Debug, Clone)]
pub struct Gap {
    /// None: all of them.
    pub channel: Option<u16>,
    /// Why, in its own word.
    pub reason: String,
    /// What it says of the position before it.
    pub after: EventId,
    /// The oldest event kept, if it names one.
    pub oldest: Option<EventId>,
    /// The position that it leaves the client at.
    pub id: EventId,
    /// When it was read.
    pub read_ms: u64,
    /// On which of the session's connections.
    pub open: usize,
    /// How many steps came before it.
    pub step: usize,
    /// Whether nothing was broken, and everybody up to date.
    pub calm: bool,
}

/// What a gap is found to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Something is missing, or may be.
    True,
    /// Nothing is, and nobody could know.
    Cautious,
    /// Told without a reason.
    False(String),
}

impl Gap {
    /// Reads one; none if it is not written as a gap is.
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

    /// Whether another one tells the same of the same.
    pub fn is(&self, other: &Gap) -> bool {
        self.channel == other.channel && self.reason == other.reason
    }

    /// Whether it speaks for an event.
    pub fn covers(&self, id: EventId, event: &Acked, first: EventId, tally: &Tally) -> bool {
        let before = event.sent_ms <= self.read_ms;
        match (self.channel, self.reason.as_str()) {
            (Some(channel), _) if channel != event.channel => false,
            (Some(_), _) => id > self.after && self.oldest.map_or(before, |oldest| id < oldest),
            (None, "late") => id <= first,
            // What the old life acknowledges after it was replaced is lost with it: nobody could know, and everybody
            // who stood in it is told by this. Below the position, all had been handed out.
            (None, "reset") if id.epoch() == self.after.epoch() => {
                id > self.after || (before && tally.split_between(event.sent_ms, event.known_ms))
            }
            (None, _) => before,
        }
    }

    /// Whether it is true.
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
                let first = session.first.map_or(self.step, |_| self.step);
                let open = &session.opens[self.open];
                let from_ms = open.at_ms.saturating_sub(HEARD_MS);
                let broken = tally.touched(from_ms, self.read_ms, |_| true);
                need(first == 0 && broken, "nothing was broken, or there was a position")
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
        // An epoch may be seen late, by the client of a gateway that was cut off, and the next one's reason lie before.
        let from_ms = began_ms.saturating_sub(HEARD_MS);
        if !tally.epoch_ended_between(from_ms, self.read_ms) {
            return Verdict::False("nothing ended that epoch".to_owned());
        }
        // A stream that is still handed out the old epoch may be told of each epoch that begins meanwhile: once.
        let alike = |gap: &&Gap| {
            gap.reason == "reset" && gap.open == self.open && gap.after.epoch() == epoch
        };
        let told = session.gaps.iter().filter(alike).filter(|gap| gap.step <= self.step).count();
        let seen_ms = self.read_ms + SEEN_MS;
        let epochs = ledger.epochs().iter().skip_while(|(known, _)| *known != epoch).skip(1);
        let later = epochs.filter(|(_, ms)| *ms <= seen_ms).count();
        // A client that comes from the new master to a gateway that is still at the old one is led back, once.
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

    /// Trimmed or expired.
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
        // Nothing is missing. Nobody can know that once the position is older than Redis keeps anything, or where
        // something was cut off, and the oldest kept is above the position: the last one cut off may be, too.
        let cut = ledger.known_between(channel, EventId::ZERO, Some(self.after)).next().is_some()
            || ledger.is_event(channel, self.after);
        match (self.reason.as_str(), self.oldest) {
            ("expired", _) => Verdict::Cautious,
            (_, Some(_)) if cut => Verdict::Cautious,
            _ => Verdict::False("nothing between was ever published".to_owned()),
        }
    }

    /// Whether the position was older than the ttl, by Redis' clock, when this was told. That clock is at or above every
    /// id and, but for steps back, the time.
    fn is_old(&self, ledger: &Ledger, tally: &Tally, settings: &Settings) -> bool {
        let from_ms = self.read_ms.saturating_sub(HEARD_MS);
        let stepped = tally.touched(from_ms, self.read_ms, Fault::of_time);
        let ttl = settings.ttl.as_millis() as u64;
        let clock = ledger.clock_ms(self.read_ms + BLUR_MS).max(self.read_ms + BLUR_MS);
        stepped || self.after.ms <= clock.saturating_sub(ttl)
    }
}
