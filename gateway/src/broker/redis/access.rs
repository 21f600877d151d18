//! What access control keeps in Redis: unused tickets and revocations.
//!
//! A ticket is in the partition that its hash decides on. All revocations are in the first
//! partition, because a gateway reads them in one step.
//!
//! None of this belongs to an epoch. If Redis loses it, unused tickets stop working, and revoked
//! tokens and subjects are let in again.

use std::time::Duration;

use redis::{Cmd, FromRedisValue, RedisError};

use crate::broker::redis::RedisBroker;
use crate::broker::redis::partition::Partition;
use crate::feed::clock::unix_ms;

impl RedisBroker {
    /// Stores what a ticket grants, until `lifetime` is over. `hash` is the ticket's hash.
    pub async fn put_ticket(
        &self,
        hash: &str,
        grant: &str,
        lifetime: Duration,
    ) -> Result<(), String> {
        let key = self.keys.ticket(hash);
        let lifetime = lifetime.as_millis() as u64;
        let set = redis::cmd("SET").arg(key).arg(grant).arg("PX").arg(lifetime).to_owned();
        call(self.partition_of(hash), &set).await
    }

    /// Returns what a ticket grants and deletes it, so that a ticket works only once. `None` if
    /// there is no such ticket.
    pub async fn take_ticket(&self, hash: &str) -> Result<Option<Vec<u8>>, String> {
        let take = redis::cmd("GETDEL").arg(self.keys.ticket(hash)).to_owned();
        call(self.partition_of(hash), &take).await
    }

    /// Stores a revocation for the time `keep`, and tells all gateways to read it.
    pub async fn add_revocation(&self, line: &str, keep: Duration) -> Result<(), String> {
        let key = self.keys.revoked();
        let first = self.first();
        let now = unix_ms();
        let end = now + keep.as_millis() as u64;
        let (): () =
            call(first, redis::cmd("ZREMRANGEBYSCORE").arg(&key).arg("-inf").arg(now)).await?;
        let (): () = call(first, redis::cmd("ZADD").arg(&key).arg(end).arg(line)).await?;
        let last: Vec<(String, f64)> =
            call(first, redis::cmd("ZRANGE").arg(&key).arg(-1).arg(-1).arg("WITHSCORES")).await?;
        let last = last.first().map_or(end, |(_, score)| *score as u64);
        let (): () = call(first, redis::cmd("PEXPIREAT").arg(&key).arg(last.max(end))).await?;
        call(first, &first.publish_text(&self.keys.revocation_channel(), "")).await
    }

    /// All revocations that have not expired.
    pub async fn revocations(&self) -> Result<Vec<String>, String> {
        let key = self.keys.revoked();
        let mut read = redis::cmd("ZRANGE");
        read.arg(key).arg(format!("({}", unix_ms())).arg("+inf").arg("BYSCORE");
        call(self.first(), &read).await
    }

    /// Waits until another gateway asks to read the revocations, or until this one has reconnected
    /// and may have missed that.
    pub async fn revocations_called(&self) {
        self.first().revocations_called.notified().await;
    }
}

async fn call<T: FromRedisValue>(partition: &Partition, cmd: &Cmd) -> Result<T, String> {
    let words = |error: RedisError| format!("Redis: {error}");
    let patience = partition.config.request_timeout;
    match tokio::time::timeout(patience, partition.command(cmd)).await {
        Ok(answered) => redis::from_redis_value(answered.map_err(words)?)
            .map_err(|error| format!("Redis: {error}")),
        Err(_) => Err(format!("Redis: no answer within {patience:?}")),
    }
}
