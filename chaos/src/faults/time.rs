//! Faults of Redis' wall clock.

use super::Fault;
use crate::redis_side::RedisSide;
use crate::storm::Hand;

/// Sets the master's clock.
pub async fn step(fault: Fault, hand: &mut Hand, side: &mut RedisSide) -> Result<(), String> {
    let tick = hand.stage.settings.tick.as_millis() as u64;
    let ttl = hand.stage.settings.ttl.as_millis() as i64;
    let Some(clock) = &side.master.clock else { return Ok(()) };
    let right = clock.shift_ms();
    match fault {
        Fault::TimeGlitch => {
            // For less than a tick, beyond the ttl of histories but within that of idempotency
            // keys: Redis expires the histories, and no tick shows why.
            clock.set(right + ttl + 60_000 + hand.rng.i64(10_000..120_000))?;
            hand.wait(tick / 4..tick).await;
            clock.set(right)
        }
        Fault::TimeBack => {
            clock.set(right - hand.rng.i64(500..8_000))?;
            hand.wait(200..2_500).await;
            match hand.rng.bool() {
                true => clock.set(right),
                false => Ok(()),
            }
        }
        _ => clock.set(right + hand.rng.i64(200..8_000)),
    }
}
