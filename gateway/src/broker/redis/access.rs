//! What access control keeps in Redis: unused tickets and revocations.
//!
//! None of this belongs to an epoch. If Redis loses it, unused tickets stop working, and revoked
//! tokens and subjects are let in again.

use std::time::Duration;

use redis::{Cmd, FromRedisValue, RedisError};

use crate::broker::redis::RedisBroker;
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
        self.call(redis::cmd("SET").arg(key).arg(grant).arg("PX").arg(lifetime)).await
    }

    /// Returns what a ticket grants and deletes it, so that a ticket works only once. `None` if
    /// there is no such ticket.
    pub async fn take_ticket(&self, hash: &str) -> Result<Option<Vec<u8>>, String> {
        self.call(redis::cmd("GETDEL").arg(self.keys.ticket(hash))).await
    }

    /// Stores a revocation for the time `keep`, and tells all gateways to read it.
    pub async fn add_revocation(&self, line: &str, keep: Duration) -> Result<(), String> {
        let key = self.keys.revoked();
        let now = unix_ms();
        let end = now + keep.as_millis() as u64;
        let (): () =
            self.call(redis::cmd("ZREMRANGEBYSCORE").arg(&key).arg("-inf").arg(now)).await?;
        let (): () = self.call(redis::cmd("ZADD").arg(&key).arg(end).arg(line)).await?;
        let last: Vec<(String, f64)> =
            self.call(redis::cmd("ZRANGE").arg(&key).arg(-1).arg(-1).arg("WITHSCORES")).await?;
        let last = last.first().map_or(end, |(_, score)| *score as u64);
        let (): () = self.call(redis::cmd("PEXPIREAT").arg(&key).arg(last.max(end))).await?;
        self.call(redis::cmd("PUBLISH").arg(self.keys.revocation_channel()).arg("")).await
    }

    /// All revocations that have not expired.
    pub async fn revocations(&self) -> Result<Vec<String>, String> {
        let key = self.keys.revoked();
        self.call(
            redis::cmd("ZRANGE").arg(key).arg(format!("({}", unix_ms())).arg("+inf").arg("BYSCORE"),
        )
        .await
    }

    /// Waits until another gateway asks to read the revocations, or until this one has reconnected
    /// and may have missed that.
    pub async fn revocations_called(&self) {
        self.first().revocations_called.notified().await;
    }

    async fn call<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T, String> {
        let words = |error: RedisError| format!("Redis: {error}");
        let patience = self.first().config.request_timeout;
        match tokio::time::timeout(patience, self.first().command(cmd)).await {
            Ok(answered) => redis::from_redis_value(answered.map_err(words)?)
                .map_err(|error| format!("Redis: {error}")),
            Err(_) => Err(format!("Redis: no answer within {patience:?}")),
        }
    }
}
