//! How this gateway calls the library's functions on one partition, and what it has seen of the
//! partition's data. No I/O: the ingest, the pool and the publish thread send these commands.
//!
//! Every tick and every read passes what the gateway has seen. Redis compares that with its own
//! state, and so detects that it has lost data.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Cmd;
use sse_contract::{Call, Caller, EventId, Keys, Part, Publish};

use crate::broker::redis::connector::SessionError;
use crate::broker::redis::library::Library;
use crate::broker::redis::partition::label;
use crate::broker::redis::resp::Value;
use crate::broker::redis::settings::HistoryLimits;

/// Parts in one read may together have this many times the bytes of a page.
const PAGES: usize = 16;

/// The calls on one partition.
#[derive(Debug)]
pub struct Calls {
    keys: Keys,
    partition: u16,
    /// The limits that this gateway is configured for. Redis may hold others.
    configured: HistoryLimits,
    page_bytes: usize,
    pub(crate) library: Library,
    seen: Mutex<Seen>,
}

/// What this gateway has seen of the data.
#[derive(Debug, Default)]
struct Seen {
    /// The highest position.
    id: Option<EventId>,
    /// The highest count of ticks. It reveals a state that went back in time even after the clock
    /// has passed `id` again: the clock follows the time, but only ticks raise this count.
    beat: Option<u64>,
    /// The limits that Redis holds; `None` before the first tick.
    limits: Option<HistoryLimits>,
}

/// A tick's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    /// The clock. No event with an id at or below it can still be published.
    clock: EventId,
    /// The number of ticks counted in this data set.
    beat: u64,
    /// The limits that hold for all writers.
    limits: HistoryLimits,
}

impl Calls {
    /// The calls of a gateway that has seen nothing yet. `page_bytes` is how many bytes of events
    /// one part of a read may have.
    pub(crate) fn new(
        keys: Keys,
        partition: u16,
        configured: HistoryLimits,
        page_bytes: usize,
    ) -> Self {
        let (library, seen) = (Library::new(label(&keys, partition)), Mutex::default());
        Calls { keys, partition, configured, page_bytes, library, seen }
    }

    /// Checks the epoch, and raises the clock and the count of ticks.
    pub fn tick(&self) -> Cmd {
        self.library.command(&Call::tick(&self.keys, self.partition, &self.caller()))
    }

    /// The first tick of a session with a server of a Redis Cluster. `moved_from` is what is known of
    /// the process that wrote the state, if another one did ([`Call::first_tick`]).
    pub(crate) fn first_tick(&self, moved_from: Option<&str>) -> Cmd {
        let (keys, caller) = (&self.keys, self.caller());
        self.library.command(&Call::first_tick(keys, self.partition, &caller, moved_from))
    }

    /// Reads a tick's answer, records its clock, count and limits, and returns the clock. Only the
    /// ingest may call this: its connection decides which data set is the current one.
    pub fn ticked(&self, value: &Value<'_>) -> Result<EventId, SessionError> {
        let told = Told::read(value)?;
        let mut seen = self.seen();
        seen.id = seen.id.max(Some(told.clock));
        seen.beat = seen.beat.max(Some(told.beat));
        let before = seen.limits.replace(told.limits);
        drop(seen);
        if before != Some(told.limits) && told.limits != self.configured {
            tracing::warn!(
                partition = label(&self.keys, self.partition),
                found = %told.limits,
                configured = %self.configured,
                "Redis holds other limits than this configuration, and holds for all; \
                 `sse-gateway settings --apply` writes these"
            );
        }
        Ok(told.clock)
    }

    /// Reads these parts of histories in one step.
    pub fn read(&self, parts: &[Part]) -> Cmd {
        let bytes = (self.page_bytes, self.page_bytes.saturating_mul(PAGES));
        let call = Call::read(&self.keys, self.partition, &self.caller(), bytes, parts);
        self.library.command(&call)
    }

    /// Publishes in this epoch. A single event gets a plain call, which costs Redis less than a
    /// batch of one.
    pub(crate) fn publish(&self, items: &[Publish<'_>], epoch: u64) -> Cmd {
        let (keys, epoch) = (&self.keys, Some(epoch));
        self.library.command(&match items {
            [item] => Call::publish(keys, item, epoch),
            items => Call::batch(keys, self.partition, items, epoch),
        })
    }

    /// Begins a new epoch.
    pub(crate) fn fence(&self) -> Cmd {
        self.library.command(&Call::fence(&self.keys, self.partition))
    }

    /// Writes the configured limits, which begins a new epoch.
    pub(crate) fn write_settings(&self) -> Cmd {
        self.library.command(&Call::settings(&self.keys, self.partition, &self.caller()))
    }

    /// Records a position that was dispatched.
    pub(crate) fn saw(&self, id: EventId) {
        let mut seen = self.seen();
        seen.id = seen.id.max(Some(id));
    }

    /// The limits that Redis holds, as far as is known.
    pub(crate) fn found_limits(&self) -> Option<HistoryLimits> {
        self.seen().limits
    }

    fn caller(&self) -> Caller {
        let (seen, limits) = (self.seen(), &self.configured);
        Caller {
            seen: seen.id,
            beat: seen.beat,
            max_len: limits.max_len,
            ttl_ms: limits.ttl.as_millis() as u64,
            max_data: limits.max_data,
            idem_ttl_ms: limits.idempotency_ttl.as_millis() as u64,
            durable: limits.durable,
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    fn read(value: &Value<'_>) -> Result<Told, SessionError> {
        if let Value::Error(error) = value {
            let text = String::from_utf8_lossy(error).into_owned();
            return Err(match text.strip_prefix("SSEMISMATCH ") {
                Some(mismatch) => SessionError::Mismatch(mismatch.to_owned()),
                None => SessionError::Refused(text),
            });
        }
        let odd = || SessionError::Refused(format!("sse_tick answered {value:?}"));
        let [clock, _, numbers @ ..] = value.elements() else { return Err(odd()) };
        let clock = clock.text().and_then(|text| text.parse().ok()).ok_or_else(odd)?;
        let numbers: Vec<u64> =
            numbers.iter().filter_map(|n| u64::try_from(n.integer()?).ok()).collect();
        let [max_len, ttl, max_data, idempotency_ttl, durable, beat] = numbers[..] else {
            return Err(odd());
        };
        let limits = HistoryLimits {
            max_len,
            ttl: Duration::from_millis(ttl),
            max_data,
            idempotency_ttl: Duration::from_millis(idempotency_ttl),
            durable: durable == 1,
        };
        Ok(Told { clock, beat, limits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls() -> Calls {
        let limits = HistoryLimits {
            max_len: 1000,
            ttl: Duration::from_secs(60),
            max_data: 100,
            idempotency_ttl: Duration::from_secs(5),
            durable: false,
        };
        Calls::new(Keys::new("sse", 1), 0, limits, 10)
    }

    /// A tick's answer with this clock and count.
    fn answer(clock: &[u8], beat: i64) -> Vec<Value<'_>> {
        let numbers = [1000, 60_000, 100, 5000, 0, beat].map(Value::Integer);
        [vec![Value::Text(clock), Value::Integer(0)], numbers.to_vec()].concat()
    }

    #[test]
    fn the_next_call_tells_the_highest_that_was_seen() {
        let calls = calls();
        let seen = || {
            let caller = calls.caller();
            (caller.seen.map(|id| id.ms), caller.beat)
        };
        assert_eq!(seen(), (None, None));
        assert_eq!(calls.ticked(&Value::Array(answer(b"50-65536", 3))).unwrap().ms, 50);
        calls.saw(EventId::new(70, 1, 0));
        assert_eq!(seen(), (Some(70), Some(3)));
        // Another server, which is behind.
        assert_eq!(calls.ticked(&Value::Array(answer(b"60-131072", 2))).unwrap().ms, 60);
        calls.saw(EventId::new(65, 2, 0));
        assert_eq!(seen(), (Some(70), Some(3)));
        assert_eq!(calls.found_limits(), Some(calls.configured));
    }

    #[test]
    fn a_tick_that_fails_says_whether_to_try_on() {
        let calls = calls();
        let error = |text: &'static [u8]| calls.ticked(&Value::Error(text)).unwrap_err();
        let mismatch = error(b"SSEMISMATCH version: 3");
        assert!(matches!(mismatch, SessionError::Mismatch(text) if text == "version: 3"));
        let refused = error(b"READONLY You can't write");
        assert!(matches!(refused, SessionError::Refused(text) if text.starts_with("READONLY")));
        for odd in [
            Value::Integer(5),
            Value::Array(answer(b"no id", 3)),
            Value::Array(answer(b"50-65536", -1)),
            Value::Array(answer(b"50-65536", 3)[..4].to_vec()),
        ] {
            let refused = calls.ticked(&odd).unwrap_err();
            assert!(refused.to_string().starts_with("sse_tick answered"), "{refused}");
        }
        assert_eq!(calls.caller().seen, None, "nothing of these is believed");
    }
}
