//! Tickets: for pages that cannot send a header, as `EventSource` cannot. Whoever has a token gets one for a moment and
//! for one use, so that an address bar, a log or a proxy that keeps it has nothing.
//!
//! A ticket is random and says nothing; what it grants is kept beside its hash, in Redis, where every replica finds it, or
//! in this process where there is no Redis. Taking it removes it, in one step.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};

use crate::access::grant::Grant;
use crate::broker::Broker;

/// Random bytes of a ticket.
const BYTES: usize = 32;
/// Tickets that wait in this process, where there is no Redis.
const MOST: usize = 100_000;

/// Tickets that nobody has used yet, where there is no Redis.
#[derive(Debug, Default)]
pub(crate) struct Tickets(Mutex<HashMap<String, (Instant, Grant)>>);

/// Why there is no ticket, or what it grants cannot be said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Away(pub String);

impl Tickets {
    /// A ticket for this grant, good for `lifetime`.
    pub(crate) async fn issue(
        &self,
        grant: &Grant,
        lifetime: Duration,
        broker: &Broker,
    ) -> Result<String, Away> {
        let mut random = [0; BYTES];
        SystemRandom::new()
            .fill(&mut random)
            .map_err(|_| Away("the system gives no random bytes".to_owned()))?;
        let ticket = hex(&random);
        match broker {
            Broker::Redis(redis) => {
                redis.put_ticket(&hash(&ticket), &grant.stored(), lifetime).await.map_err(Away)?;
            }
            Broker::Memory(_) => {
                let now = Instant::now();
                let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if waiting.len() >= MOST {
                    waiting.retain(|_, (end, _)| *end > now);
                }
                if waiting.len() >= MOST {
                    return Err(Away(format!("{MOST} tickets wait to be used")));
                }
                waiting.insert(hash(&ticket), (now + lifetime, grant.clone()));
            }
        }
        Ok(ticket)
    }

    /// Uses a ticket up; what it granted, if it was still good.
    pub(crate) async fn take(&self, ticket: &str, broker: &Broker) -> Result<Option<Grant>, Away> {
        let hash = hash(ticket);
        match broker {
            Broker::Redis(redis) => {
                let stored = redis.take_ticket(&hash).await.map_err(Away)?;
                Ok(stored.and_then(|text| Grant::from_stored(&text)))
            }
            Broker::Memory(_) => {
                let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let taken = waiting.remove(&hash).filter(|(end, _)| *end > Instant::now());
                Ok(taken.map(|(_, grant)| grant))
            }
        }
    }
}

/// Whether a text can be a ticket.
pub(crate) fn is_ticket(text: &str) -> bool {
    text.len() == 2 * BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn hash(ticket: &str) -> String {
    hex(digest(&SHA256, ticket.as_bytes()).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
