//! Tickets, for pages that cannot send a header (`EventSource` cannot). The bearer of a token
//! exchanges it for a ticket that is valid once and briefly. A ticket found later in a history, a
//! log or a proxy is worthless.
//!
//! A ticket is random and contains nothing. Its grant is stored under the ticket's hash: in Redis,
//! where every replica finds it, or in this process with the memory broker. Taking a ticket removes
//! it in the same step.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};

use crate::access::grant::Grant;
use crate::broker::Broker;

/// Random bytes in a ticket, which is their hex form.
const BYTES: usize = 32;
/// The most unused tickets, with the memory broker.
const MOST: usize = 100_000;

/// Grants and end times of unused tickets by hash, with the memory broker.
#[derive(Debug, Default)]
pub(crate) struct Tickets(Mutex<HashMap<String, (Instant, Grant)>>);

/// A ticket could not be made, stored or looked up, for this reason. That is not the client's
/// fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Away(pub String);

impl Tickets {
    /// Makes a ticket for this grant, valid for `lifetime`.
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

    /// Takes a ticket and returns its grant, or none if the ticket is unknown, used or expired.
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

/// Whether the text has the form of a ticket: 64 hex digits.
pub(crate) fn is_ticket(text: &str) -> bool {
    text.len() == 2 * BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn hash(ticket: &str) -> String {
    hex(digest(&SHA256, ticket.as_bytes()).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
